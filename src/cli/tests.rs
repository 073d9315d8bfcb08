use std::net::SocketAddr;
use std::time::Duration;

use super::*;
use crate::os::remoted::Names;
use crate::proto::client::{FullPolicy, SyncPolicy, Transport};
use crate::server::Inject;

fn words(line: &str) -> Vec<String> {
    line.split_whitespace().map(String::from).collect()
}

fn client(line: &str) -> ClientConfig {
    match parse(&words(line)).map(|invocation| invocation.command) {
        Ok(Command::Client(config)) => *config,
        other => panic!("{line}: {other:?}"),
    }
}

fn server(line: &str) -> ServerConfig {
    match parse(&words(line)).map(|invocation| invocation.command) {
        Ok(Command::Server(config)) => config,
        other => panic!("{line}: {other:?}"),
    }
}

fn wrong(line: &str) -> String {
    match parse(&words(line)) {
        Err(Usage::Wrong(text)) => text,
        other => panic!("{line}: {other:?}"),
    }
}

fn host(host: &str, port: u16) -> HostPort {
    HostPort { host: host.into(), port }
}

fn command(line: &str) -> String {
    format!("{:?}", parse(&words(line)).unwrap_or_else(|usage| panic!("{line}: {usage:?}")).command)
}

#[test]
fn what_is_not_said_is_as_the_roles_have_it() {
    let given = host("ossec.example", 1_514);
    let default = ClientConfig { server: given, ..ClientConfig::default() };
    assert_eq!(command("client --server ossec.example"), format!("{:?}", Command::Client(Box::new(default))));
    assert_eq!(command("server"), format!("{:?}", Command::Server(ServerConfig::default())));
    let default = check::Config { broker: host("ossec.example", 1_517), psk_file: None };
    assert_eq!(command("check --broker ossec.example"), format!("{:?}", Command::Check(default)));
}

/// The options of a role, each with its text in the help.
fn described(role: &str) -> Vec<(String, String)> {
    let Err(Usage::Asked(help)) = parse(&words(&format!("{role} --help"))) else { panic!("{role} has help") };
    let options = help.split_once("Options:").expect("they are listed").1;
    let texts = options.split("\n  --").skip(1).map(|text| text.split_whitespace().collect::<Vec<_>>());
    texts.map(|words| (words[0].to_owned(), words[1..].join(" "))).collect()
}

#[test]
fn the_help_tells_the_defaults() {
    let mut told = 0;
    for (role, least) in
        [("client", "client --server a --spool /s"), ("server", "server"), ("check", "check --broker a")]
    {
        for (option, text) in described(role) {
            let default = text.strip_suffix(')').and_then(|text| text.rsplit_once('(')).map(|(_, default)| default);
            // The server's address depends on the host.
            let Some(default) = default.filter(|&text| text != "off" && (role, &*option) != ("server", "listen"))
            else {
                continue;
            };
            let given: Vec<String> = default.split(", ").map(|value| format!("--{option} {value}")).collect();
            assert_eq!(command(&format!("{least} {}", given.join(" "))), command(least), "{role} --{option}: {text}");
            told += 1;
        }
    }
    assert_eq!(told, 19, "options of all roles with a default: a new one raises this number");
}

#[test]
fn every_option_of_the_client_arrives() {
    let config = client(
        "client --server 10.0.0.1:2514 --broker [fd00::1]:2517 --listen [::1]:3514 --source 10.0.0.9 \
         --source-port 40000 --transport tcp --interval 500ms --lease 50ms --timeout=5s --resend never \
         --buffer 1MiB --full drop-newest --max-age 1h --rate 100 --rcvbuf 64KiB --max-sessions 3 --drain 0 \
         --psk-file /k --user ossec --spool /s --spool-size 64KiB --spool-sync always -vv",
    );
    let spool = config.spool.expect("it was given");
    assert_eq!((spool.path, spool.bytes, spool.sync), ("/s".into(), 65_536, SyncPolicy::Always));
    assert_eq!((config.server, config.broker), (host("10.0.0.1", 2_514), Some(host("fd00::1", 2_517))));
    assert_eq!((config.listen, config.source_port), (host("::1", 3_514), 40_000));
    assert_eq!(config.source, Some("10.0.0.9".parse().expect("an address")));
    assert_eq!((config.receive_buffer_bytes, config.drain), (65_536, Duration::ZERO));
    assert_eq!((config.psk_file, config.user), (Some("/k".into()), Some("ossec".into())));
    let core = config.core;
    assert_eq!((core.buffer_bytes, core.full, core.resend), (1 << 20, FullPolicy::DropNewest, false));
    assert_eq!(core.transport, Transport::Tcp);
    assert_eq!(
        (core.max_age, core.rate.map(u32::from), core.sessions_max),
        (Some(Duration::from_hours(1)), Some(100), 3)
    );
    let link = core.link;
    assert_eq!((link.interval.as_millis(), link.lease.as_millis(), link.timeout.as_secs()), (500, 50, 5));
}

#[test]
fn every_option_of_the_server_arrives() {
    let config = server(
        "server --listen 127.0.0.1 --remoted 127.0.0.1:514 --process rsyslogd --process syslogd --require a \
         --require b --settle 0 --max-connections 7 --inject spoof --allow-source 10.0.0.0/8 \
         --allow-source fd00::5 --psk-file /k --user ossec -v",
    );
    let prefixes: Vec<String> = config.allowed_sources.iter().map(ToString::to_string).collect();
    assert_eq!((config.inject, prefixes), (Inject::Spoof, vec!["10.0.0.0/8".into(), "fd00::5/128".into()]));
    assert_eq!((config.psk_file, config.user), (Some("/k".into()), Some("ossec".into())));
    assert_eq!((config.listen, config.remoted.port), (Some(host("127.0.0.1", 1_517)), 514));
    assert_eq!(config.names, Names::These(vec!["rsyslogd".to_string(), "syslogd".to_string()]));
    assert_eq!((config.required.len(), config.settle, config.connections_max), (2, Duration::ZERO, 7));
    assert_eq!(server("server --process any").names, Names::Any);
    assert_eq!(server("server --inject local").inject, Inject::Local);
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
        ("client --server a --rate 0", "from 1"),
        ("client --server a --source-port 70000", "from 0 to 65535"),
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
    let scoped = |text: &str| text.parse::<SocketAddr>().expect("an address");
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
        assert!(matches!(parse(&words(line)), Err(Usage::Asked(text)) if text.contains("ossec-broker")), "{line}");
    }
}
