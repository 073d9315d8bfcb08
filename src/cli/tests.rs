use super::*;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

fn client(line: &str) -> client::Config {
    match parse(&words(line)).map(|invocation| invocation.command) {
        Ok(Command::Client(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn server(line: &str) -> server::Config {
    match parse(&words(line)).map(|invocation| invocation.command) {
        Ok(Command::Server(config)) => config,
        other => panic!("{line}: {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    match parse(&words(line)) {
        Err(Refusal::Wrong(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn host(host: &str, port: u16) -> HostPort {
    HostPort { host: host.into(), port }
}

#[test]
fn the_client_needs_nothing_but_a_server() {
    let config = client("client --server ossec.example");
    assert_eq!((config.server, config.broker, config.broker_port), (host("ossec.example", 1_514), None, 1_517));
    assert_eq!((config.listen, config.source, config.source_port), (host("127.0.0.1", 1_514), None, 1_517));
    assert_eq!((config.receive_buffer_bytes, config.drain), (8 << 20, Duration::from_secs(2)));
    let core = config.core;
    assert_eq!((core.buffer_bytes, core.full, core.resend), (64 << 20, FullPolicy::DropOldest, true));
    assert_eq!((core.max_age, core.rate, core.sessions_max), (None, None, 256));
    let link = core.link;
    assert_eq!((link.interval.as_millis(), link.lease.as_millis(), link.timeout.as_millis()), (1_000, 100, 2_000));
}

#[test]
fn every_option_of_the_client_arrives() {
    let config = client(
        "client --server 10.0.0.1:2514 --broker [fd00::1]:2517 --listen [::1]:3514 --source 10.0.0.9 --source-port 40000 --transport udp \
         --interval 500ms --lease 50ms --timeout=5s --resend never --buffer 1MiB --full drop-newest --max-age 1h --rate 100 --rcvbuf 64KiB \
         --max-sessions 3 --drain 0 --psk-file /k --user ossec -vv",
    );
    assert_eq!((config.server, config.broker), (host("10.0.0.1", 2_514), Some(host("fd00::1", 2_517))));
    assert_eq!((config.listen, config.source_port), (host("::1", 3_514), 40_000));
    assert_eq!(config.source, Some("10.0.0.9".parse().expect("an address")));
    assert_eq!((config.timeout.as_secs(), config.receive_buffer_bytes, config.drain), (5, 65_536, Duration::ZERO));
    assert_eq!((config.psk_file, config.user), (Some("/k".into()), Some("ossec".into())));
    let core = config.core;
    assert_eq!((core.buffer_bytes, core.full, core.resend), (1 << 20, FullPolicy::DropNewest, false));
    assert_eq!(
        (core.max_age, core.rate.map(u32::from), core.sessions_max),
        (Some(Duration::from_hours(1)), Some(100), 3)
    );
    assert_eq!((core.link.interval.as_millis(), core.link.lease.as_millis()), (500, 50));
}

#[test]
fn the_server_needs_nothing_and_takes_all_of_its_options() {
    let config = server("server");
    assert_eq!((config.listen, config.default_port, config.remoted.port), (None, 1_517, 1_514));
    assert_eq!(config.names, Some(vec!["ossec-remoted".to_string(), "wazuh-remoted".to_string()]));
    assert_eq!((config.required.len(), config.settle.as_secs(), config.connections_max), (0, 3, 4_096));
    let config = server(
        "server --listen 127.0.0.1 --remoted 127.0.0.1:514 --process rsyslogd --process syslogd --require a --require b --settle 0 \
         --max-connections 7 --inject spoof --allow-source 10.0.0.0/8 --allow-source fd00::5 --psk-file /k --user ossec -v",
    );
    let prefixes: Vec<String> = config.allowed_sources.iter().map(ToString::to_string).collect();
    assert_eq!((config.inject, prefixes), (server::Inject::Spoof, vec!["10.0.0.0/8".into(), "fd00::5/128".into()]));
    assert_eq!((config.psk_file, config.user), (Some("/k".into()), Some("ossec".into())));
    assert_eq!((config.listen, config.remoted.port), (Some(host("127.0.0.1", 1_517)), 514));
    assert_eq!(config.names, Some(vec!["rsyslogd".to_string(), "syslogd".to_string()]));
    assert_eq!((config.required.len(), config.settle, config.connections_max), (2, Duration::ZERO, 7));
    assert_eq!(server("server --process any").names, None);
    assert_eq!(server("server --inject local").inject, server::Inject::Local);
}

#[test]
fn check_asks_a_broker() {
    match parse(&words("check --broker ossec.example")).map(|invocation| invocation.command) {
        Ok(Command::Check(config)) => assert_eq!(config.broker, host("ossec.example", 1_517)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn verbosity_counts_however_it_is_written() {
    for (line, verbosity) in [("", 0), ("-v", 1), ("-vv", 2), ("-v -v", 2), ("-vvv", 3)] {
        let invocation = parse(&words(&format!("client --server a {line}"))).expect("valid");
        assert_eq!(invocation.verbosity, verbosity, "{line}");
    }
}

#[test]
fn wrong_arguments_say_what_is_wrong_with_them() {
    let table = [
        ("", "which role?"),
        ("client", "--server"),
        ("client --server a --interval 0s", "above zero"),
        ("client --server a --interval 5", "no duration"),
        ("client --server a --interval 5y", "no duration"),
        ("client --server a --lease -5ms", "no duration"),
        ("client --server a --interval 9ms", "at least 10ms"),
        ("client --server a --lease 3s", "--timeout"),
        ("client --server a --buffer 1", "at least 64 KiB"),
        ("client --server a --buffer 64TB", "no size"),
        ("client --server a --buffer 999999GiB", "of memory"),
        ("client --server a --listen 224.0.0.1:1514", "multicast"),
        ("client --server a --listen [ff02::1]:1514", "multicast"),
        ("client --server 255.255.255.255", "broadcast"),
        ("client --server a --broker ::ffff:224.0.0.1", "multicast"),
        ("client --server a --source 224.0.0.1", "multicast"),
        ("client --server a --source fe80::1", "leave --source out"),
        ("client --server fe80::1", "fe80::1%eth0"),
        ("client --server [fe80::1%]:1514", "is missing"),
        ("client --server ::1%lo", "only a link-local address"),
        ("check --broker 239.1.2.3", "multicast"),
        ("server --listen 224.0.0.1:1517", "multicast"),
        ("server --remoted 255.255.255.255:1514", "broadcast"),
        ("client --server a --buffer 99999999999GiB", "no size"),
        ("client --server a --rcvbuf 0", "1GiB"),
        ("client --server a --rate 0", "rate"),
        ("client --server a --max-sessions 0", "from 1"),
        ("client --server a --max-sessions 40000", "from 1"),
        ("client --server a --resend maybe", "yes or never"),
        ("client --server a --full up", "drop-oldest or drop-newest"),
        ("client --server a --transport sctp", "neither udp nor tcp"),
        ("client --server a:99999", "no port"),
        ("client --server a:0", "no port"),
        ("client --server a --listen 1517", "names no host"),
        ("server --remoted 1:1514", "names no host"),
        ("client --server [::1", "']' is missing"),
        ("client --server [a]:1", "no IPv6 address"),
        ("client --server :1514", "names no host"),
        ("client --server 127.0.0.1", "send to itself"),
        ("client --server a --source b", "source"),
        ("client --server a --nonsense", "nonsense"),
        ("client --server a --nonsense", "see ossec-broker client --help"),
        ("server --process any --process other", "stands alone"),
        ("server --max-connections 0", "from 1 to 1048576"),
        ("server --max-connections 18446744073709551615", "from 1 to 1048576"),
        ("server --allow-source 10.0.0.0/33", "no prefix of addresses"),
        ("server --inject never", "neither spoof nor local"),
        ("server --inject local --allow-source fd00::/8", "for --inject spoof"),
        ("server --allow-source fd00::/8", "needs --psk-file"),
        ("proxy", "see ossec-broker --help"),
        ("--help --nonsense", "railing arguments"),
    ];
    for (line, hint) in table {
        let text = wrong(line);
        assert!(text.ends_with('\n') && !text.ends_with("\n\n"), "{line:?} says {text:?}, which is not whole lines");
        assert!(text.contains(hint), "{line:?} says {text:?}, which does not mention {hint:?}");
    }
}

#[test]
fn sizes_are_understood_however_they_are_written() {
    for (text, bytes) in [
        ("65536", 65_536),
        ("64k", 65_536),
        ("64K", 65_536),
        ("64KB", 65_536),
        ("64kB", 65_536),
        ("64KiB", 65_536),
        ("2M", 2 << 20),
        ("2MB", 2 << 20),
        ("2mb", 2 << 20),
        ("2MiB", 2 << 20),
    ] {
        let config = client(&format!("client --server a --buffer {text} --rcvbuf {text}"));
        assert_eq!((config.core.buffer_bytes, config.receive_buffer_bytes), (bytes, bytes), "{text}");
    }
    assert_eq!(client("client --server a --rcvbuf 1G").receive_buffer_bytes, 1 << 30);
    assert_eq!(client("client --server a --rcvbuf 1GB").receive_buffer_bytes, 1 << 30);
}

#[test]
fn an_address_of_a_link_has_its_interface() {
    for (text, whole) in [("[fe80::1%eth0]:2514", "[fe80::1%eth0]:2514"), ("fe80::1%eth0", "[fe80::1%eth0]:1514")] {
        let config = client(&format!("client --server {text} --listen {text}9"));
        assert_eq!(config.server.to_string(), whole);
    }
    let config = client("client --server a --broker [fe80::1%2]:1517 --listen [fe80::2%lo]:1514");
    let scoped = |text: &str| text.parse::<std::net::SocketAddr>().expect("an address");
    assert_eq!(config.broker.and_then(|broker| broker.address()), Some(scoped("[fe80::1%2]:1517")));
    assert_eq!(config.listen.address(), None, "interfaces come and go");
    assert_eq!(config.listen.resolve().expect("every host has it"), [scoped("[fe80::2%1]:1514")]);
    let nowhere = HostPort { host: "fe80::1%nowhere0".into(), port: 1 };
    assert!(nowhere.resolve().is_err_and(|error| error.to_string() == "there is no interface nowhere0"));
    match parse(&words("check --broker fe80::1%eth0")).map(|invocation| invocation.command) {
        Ok(Command::Check(config)) => assert_eq!(config.broker, host("fe80::1%eth0", 1_517)),
        other => panic!("{other:?}"),
    }
}

#[test]
fn help_and_version_are_no_errors() {
    for line in ["--help", "-h", "client -h", "client --help", "server --help", "check --help", "--version"] {
        assert!(matches!(parse(&words(line)), Err(Refusal::Asked(text)) if text.contains("ossec-broker")), "{line}");
    }
}
