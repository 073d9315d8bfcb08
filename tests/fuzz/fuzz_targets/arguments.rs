//! `cli`: the command line.
//!
//! The first byte of the plan says what its text is: words, one each line, or the value of one option.
//!
//! * No words make the program panic: it understands them, or refuses them with a text of whole lines.
//! * A value means the same behind its option and behind a `=`.
//! * A configuration that was understood is the same when it is written as arguments and read again.
#![no_main]

use std::path::PathBuf;
use std::time::Duration;

use libfuzzer_sys::fuzz_target;
use ossec_broker::cli::{Command, Invocation, Usage, parse};
use ossec_broker::os::remoted::Names;
use ossec_broker::proto::client::{FullPolicy, SyncPolicy, Transport};
use ossec_broker::spool::{self, Action};
use ossec_broker::{client, server};
use ossec_broker_fuzz::Plan;

const CLIENT: &str = "broker listen source source-port transport interval lease timeout resend buffer full max-age \
                      rate rcvbuf max-sessions drain psk-file user";
const SERVER: &str = "listen remoted process require settle max-connections inject allow-source psk-file user";

/// Seconds as a floating-point number are exact to the nanosecond up to some weeks.
const EXACT_MAX: Duration = Duration::from_hours(24);

fuzz_target!(|data: &[u8]| {
    let mut plan = Plan::new(data);
    let choice = usize::from(plan.byte());
    let text = String::from_utf8_lossy(plan.rest());
    let of_client = CLIENT.split(' ').map(|option| (&["client", "--server", "ossec.example"][..], option));
    let of_server = SERVER.split(' ').map(|option| (&["server"][..], option));
    let needed = [(&["client"][..], "server"), (&["check"], "broker")];
    // These come last, so that the seeds keep the meaning of their first byte.
    let client = &["client", "--server", "ossec.example"][..];
    let with_spool = &["client", "--server", "ossec.example", "--spool", "/var/spool/ossec-broker"][..];
    let of_spool =
        [(client, "spool"), (with_spool, "spool-size"), (with_spool, "spool-sync"), (client, "accept-handover")];
    match needed.into_iter().chain(of_client).chain(of_server).chain(of_spool).nth(choice) {
        Some((before, option)) => as_value(before, option, &text),
        None => look_at(&text.split('\n').map(String::from).collect::<Vec<_>>()),
    }
});

fn as_value(before: &[&str], option: &str, value: &str) {
    let line =
        |last: &[String]| before.iter().map(ToString::to_string).chain(last.iter().cloned()).collect::<Vec<_>>();
    let joined = line(&[format!("--{option}={value}")]);
    look_at(&joined);
    // The program takes `-vv` and `--a=b` apart behind an option.
    if !value.starts_with('-') {
        let apart = line(&[format!("--{option}"), value.to_string()]);
        assert_eq!(shown(&parse(&apart)), shown(&parse(&joined)), "--{option} {value:?}");
    }
}

fn look_at(words: &[String]) {
    match parse(words) {
        Ok(invocation) => survives(&invocation, words),
        Err(Usage::Asked(text) | Usage::Wrong(text)) => assert!(text.ends_with('\n'), "{text:?}"),
    }
}

/// An invocation that was understood is understood in the same way when it is written out.
fn survives(invocation: &Invocation, words: &[String]) {
    let (mut written, durations) = match &invocation.command {
        Command::Client(config) => of_client(config),
        Command::Server(config) => of_server(config),
        Command::Check(config) => {
            let mut written = vec!["check".into(), format!("--broker={}", config.broker)];
            written.extend(key(config.psk_file.as_ref()));
            (written, Vec::new())
        }
        Command::Spool(config) => (look(config), Vec::new()),
        Command::Genkey => (vec!["genkey".into()], Vec::new()),
    };
    written.extend((0..invocation.verbosity).map(|_| "-v".to_string()));
    if durations.into_iter().all(|span| span <= EXACT_MAX) {
        let again = parse(&written).unwrap_or_else(|usage| panic!("{words:?} as {written:?}: {usage:?}"));
        assert_eq!(shown(&again), shown(invocation), "{words:?} as {written:?}");
    }
}

fn of_client(config: &client::Config) -> (Vec<String>, Vec<Duration>) {
    let core = &config.core;
    let full = if core.full == FullPolicy::DropOldest { "drop-oldest" } else { "drop-newest" };
    let mut written = vec![
        "client".to_string(),
        format!("--server={}", config.server),
        format!("--listen={}", config.listen),
        format!("--source-port={}", config.source_port),
        format!("--interval={}", seconds(core.link.interval)),
        format!("--lease={}", seconds(core.link.lease)),
        format!("--timeout={}", seconds(core.link.timeout)),
        format!("--resend={}", if core.resend { "yes" } else { "never" }),
        format!("--buffer={}", core.buffer_bytes),
        format!("--full={full}"),
        format!("--rcvbuf={}", config.receive_buffer_bytes),
        format!("--max-sessions={}", core.sessions_max),
        format!("--drain={}", seconds(config.drain)),
    ];
    written.push(format!("--transport={}", if core.transport == Transport::Udp { "udp" } else { "tcp" }));
    written.extend(key(config.psk_file.as_ref()));
    written.extend(config.broker.iter().map(|broker| format!("--broker={broker}")));
    written.extend(config.source.iter().map(|source| format!("--source={source}")));
    written.extend(config.user.iter().map(|user| format!("--user={user}")));
    written.extend(core.rate.iter().map(|rate| format!("--rate={rate}")));
    written.extend(core.max_age.iter().map(|&age| format!("--max-age={}", seconds(age))));
    if let Some(client::SpoolConfig { path, bytes, sync }) = &config.spool {
        let sync = match sync {
            SyncPolicy::Never => "never",
            SyncPolicy::Interval => "interval",
            SyncPolicy::Always => "always",
        };
        written.push(format!("--spool={}", path.display()));
        written.extend([format!("--spool-size={bytes}"), format!("--spool-sync={sync}")]);
    }
    written.extend(config.accept_handover.iter().map(|version| format!("--accept-handover={version}")));
    let spans = [core.link.interval, core.link.lease, core.link.timeout, config.drain];
    (written, spans.into_iter().chain(core.max_age).collect())
}

fn of_server(config: &server::Config) -> (Vec<String>, Vec<Duration>) {
    let mut written = vec![
        "server".to_string(),
        format!("--remoted={}", config.remoted),
        format!("--settle={}", seconds(config.settle)),
        format!("--max-connections={}", config.connections_max),
    ];
    written.push(format!("--inject={}", if config.inject == server::Inject::Spoof { "spoof" } else { "local" }));
    written.extend(key(config.psk_file.as_ref()));
    written.extend(config.listen.iter().map(|listen| format!("--listen={listen}")));
    written.extend(config.user.iter().map(|user| format!("--user={user}")));
    written.extend(config.allowed_sources.iter().map(|source| format!("--allow-source={source}")));
    match &config.names {
        Names::These(names) => written.extend(names.iter().map(|name| format!("--process={name}"))),
        Names::Any => written.push("--process=any".into()),
    }
    written.extend(config.required.iter().map(|name| format!("--require={name}")));
    (written, vec![config.settle])
}

fn look(config: &spool::Config) -> Vec<String> {
    let action = match config.action {
        Action::Ls => "ls",
        Action::Cat => "cat",
        Action::Verify => "verify",
        Action::Purge => "purge",
    };
    // The path may begin like an option.
    vec!["spool".into(), action.into(), "--".into(), config.path.display().to_string()]
}

fn key(file: Option<&PathBuf>) -> Option<String> {
    file.map(|file| format!("--psk-file={}", file.display()))
}

fn seconds(span: Duration) -> String {
    format!("{}.{:09}s", span.as_secs(), span.subsec_nanos())
}

fn shown(outcome: &impl std::fmt::Debug) -> String {
    format!("{outcome:?}")
}
