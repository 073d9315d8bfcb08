//! The last hop of transport tcp: the address that remoted sees, the path of its replies, and the clients that may
//! have datagrams injected.

use std::time::Duration;

use crate::scene::{AGENT, Scene, worth};
use crate::support::namespaces::{Firewall, Side};

/// The span of traffic in a test here.
const SPAN: Duration = Duration::from_secs(3);
/// The span of traffic in a test with a wrong key.
const WRONG_SPAN: Duration = Duration::from_secs(5);
/// The address of the agent's host as the server's host sees it behind a translation of addresses.
const TRANSLATED: &str = "10.77.0.200";

impl Scene {
    /// remoted and a server that finds it up, with a key.
    fn served_with_key(remoted: &[&str], server: &[&str]) -> Self {
        Self::empty_with_key().served(remoted, server)
    }

    /// remoted, a server that finds it up, and a client, with a key and with options for all three.
    fn over_tcp_with(remoted: &[&str], server: &[&str], client: &[&str]) -> Self {
        let mut scene = Self::served_with_key(remoted, server);
        scene.start_client(client);
        scene
    }
}

/// Sends, and expects each datagram once and every reply.
fn expect_replies(scene: &mut Scene) {
    let count = worth(SPAN);
    let traffic = scene.send(count, &[]);
    let summary = scene.expect_all(traffic, 0);
    assert_eq!((summary.get("replies"), summary.get("reordered")), (count, 0), "{}", summary.0);
}

#[test]
fn replies_come_back_through_a_stateful_firewall_at_the_agents_host() {
    let mut scene = Scene::served_with_key(&[], &[]);
    scene.net.raise(Firewall::Stateful);
    scene.start_client(&[]);
    expect_replies(&mut scene);
}

#[test]
fn a_client_that_is_started_again_gets_its_replies_where_it_is() {
    let mut scene = Scene::over_tcp_with(&[], &[], &[]);
    expect_replies(&mut scene);
    scene.client().kill();
    scene.start_client(&[]);
    let count = worth(SPAN);
    let traffic = scene.send_as("002", count, &["--ping"]);
    let summary = scene.expect_all(traffic, 0);
    assert_eq!(summary.get("replies"), count, "{}", summary.0);
}

#[test]
fn replies_come_back_over_the_connection_where_the_server_injects_in_its_own_name() {
    let mut scene = Scene::served_with_key(&[], &["--inject", "local"]);
    // Only the broker's connection passes.
    scene.net.raise(Firewall::ForbidsUdp);
    scene.start_client(&[]);
    expect_replies(&mut scene);
}

#[test]
fn a_stream_may_be_ipv6() {
    let server = format!("[{}]", Side::Server.ipv6());
    let mut scene = Scene::over_tcp_with(&[], &[], &["--server", &server]);
    expect_replies(&mut scene);
}

#[test]
fn a_remoted_that_knows_ipv4_alone_is_injected_into() {
    let mut scene = Scene::over_tcp_with(&["--listen", "0.0.0.0:1514"], &[], &[]);
    expect_replies(&mut scene);
}

#[test]
fn whether_the_system_checks_return_paths_makes_no_difference() {
    for strictness in ["0", "1", "2"] {
        let mut scene = Scene::served_with_key(&[], &[]);
        scene.net.check_return_paths(Side::Server, strictness);
        scene.start_client(&[]);
        expect_replies(&mut scene);
    }
}

#[test]
fn behind_a_translated_address_replies_come_back_over_the_connection() {
    let mut scene = Scene::served_with_key(&[], &["--inject", "local"]);
    scene.net.translate_connections(Side::Server, TRANSLATED);
    scene.net.raise(Firewall::ForbidsUdp);
    scene.start_client(&[]);
    expect_replies(&mut scene);
}

#[test]
fn a_client_is_seen_as_the_address_that_it_asks_for_if_the_server_allows_it() {
    let mut scene = Scene::served_with_key(&[], &["--allow-source", "10.77.0.0/28"]);
    scene.net.translate_connections(Side::Server, TRANSLATED);
    scene.start_client(&["--source", Side::Agent.ipv4()]);
    // The replies go to the very address and port that remoted has seen.
    expect_replies(&mut scene);
}

#[test]
fn a_client_that_asks_for_another_address_is_refused_and_both_sides_say_why() {
    let mut scene = Scene::served_with_key(&[], &["--allow-source", "10.99.0.0/16"]);
    scene.net.translate_connections(Side::Server, TRANSLATED);
    scene.start_client(&["--source", Side::Agent.ipv4()]);
    scene.wait_until_client_says(&["refuses", "--allow-source"]);
    scene.wait_until_server_says(&["refused", TRANSLATED, "--allow-source"]);
    let mut traffic = scene.send_as(AGENT, 100, &[]);
    Scene::wait_until_sent(&mut traffic);
    assert_eq!(scene.received(AGENT).took.len(), 0);
}

#[test]
fn a_client_that_cannot_be_injected_for_is_told_why_and_stops_nobody() {
    // The server does not ask the stand-in for remoted. Its address is of one family, and the first client's is of the
    // other.
    let server = format!("[{}]", Side::Server.ipv6());
    let remoted = format!("{}:1514", Side::Server.ipv4());
    let mut scene = Scene::over_tcp_with(&[], &["--remoted", &remoted], &["--server", &server]);
    let mut traffic = scene.send_as("007", 100, &[]);
    Scene::wait_until_sent(&mut traffic);
    scene.wait_until_client_says(&["refuses", "cannot inject"]);
    let _first = scene.take_client();
    scene.start_client(&["--listen", "127.0.0.1:2514"]);
    let count = worth(SPAN);
    let traffic = scene.send_as(AGENT, count, &["--server", "127.0.0.1:2514"]);
    scene.expect_all(traffic, 0);
    scene.wait_until_server_says(&["cannot inject", Side::Agent.ipv6()]);
}

#[test]
fn what_nobody_would_receive_is_held_and_both_sides_say_why() {
    let (v4, v6) = (Side::Server.ipv4(), format!("[{}]", Side::Server.ipv6()));
    for (bound, server, why) in [("0.0.0.0", v6.as_str(), "IPv4 alone"), (v4, v4, v4)] {
        let mut scene = Scene::over_tcp_with(&["--listen", &format!("{bound}:1514")], &[], &["--server", server]);
        let count = worth(SPAN);
        let mut traffic = scene.send(count, &[]);
        Scene::wait_until_sent(&mut traffic);
        scene.wait_until_client_says(&["refuses", "cannot inject", why]);
        scene.wait_until_server_says(&["cannot inject", why]);
        assert_eq!(scene.received(AGENT).took.len(), 0, "where does it come from?");
        // As soon as a program receives there, all datagrams come.
        scene.remoted().kill();
        scene.start_remoted_and_wait(&[]);
        scene.expect_all(traffic, 0);
    }
}

#[test]
fn whatever_port_a_client_has_its_replies_come_back_and_the_servers_host_keeps_its_own() {
    let mut scene = Scene::over_tcp_with(&[], &[], &["--source-port", "1000"]);
    expect_replies(&mut scene);
    let [open, connected] = scene.net.udp_receivers(Side::Server);
    assert!(open.iter().all(|at| at.ends_with(":1514")) && connected.is_empty(), "{open:?} {connected:?}");
}

#[test]
fn datagrams_of_every_size_arrive_whatever_lo_takes_in_one_piece() {
    let v6 = format!("[{}]", Side::Server.ipv6());
    for (server, lo) in [(Side::Server.ipv4(), 65_536), (&v6, 65_536), (Side::Server.ipv4(), 1_500), (&v6, 1_500)] {
        let mut scene = Scene::served_with_key(&["--rcvbuf", "8000000"], &[]);
        scene.net.narrow_loopback(Side::Server, lo);
        scene.start_client(&["--server", server]);
        let traffic = scene.send_as(AGENT, 60, &["--size", "65507", "--rate", "100"]);
        scene.expect_all(traffic, 0);
        let traffic = scene.send_as("002", 500, &["--size", "1-65507"]);
        scene.expect_all(traffic, 0);
    }
}

#[test]
fn a_remoted_at_one_address_of_its_host_is_injected_into() {
    let at = format!("{}:1514", Side::Server.ipv4());
    let mut scene = Scene::over_tcp_with(&["--listen", &at], &["--remoted", &at], &[]);
    expect_replies(&mut scene);
}

#[test]
fn clients_of_several_addresses_are_seen_as_what_they_are() {
    const OTHERS: [(&str, &str, &str); 2] =
        [("10.77.0.11", "127.0.0.1:2514", "002"), ("10.77.0.12", "127.0.0.1:3514", "003")];
    let mut scene = Scene::over_tcp_with(&[], &[], &[]);
    let mut clients = vec![scene.take_client()];
    let mut traffic = vec![scene.send(worth(SPAN), &[])];
    for (address, listen, agent) in OTHERS {
        scene.net.add_address(Side::Agent, address);
        scene.start_client(&["--source", address, "--listen", listen]);
        clients.push(scene.take_client());
        traffic.push(scene.send_as(agent, worth(SPAN), &["--ping", "--server", listen]));
    }
    for traffic in traffic {
        let summary = scene.expect_all(traffic, 0);
        // The replies go to the very address and port that remoted has seen.
        assert_eq!((summary.get("replies"), summary.get("reordered")), (worth(SPAN), 0), "{}", summary.0);
    }
}

#[test]
fn what_a_firewall_of_the_servers_host_would_swallow_is_held_and_both_sides_say_why() {
    let v6 = format!("[{}]", Side::Server.ipv6());
    let (swallowed, forbidden) = (&["a firewall drops it"][..], &["Operation not permitted", "firewall"][..]);
    for (server, hook, why) in
        [(Side::Server.ipv4(), "input", swallowed), (&v6, "input", swallowed), (&v6, "output", forbidden)]
    {
        let mut scene = Scene::served_with_key(&[], &[]);
        scene.net.distrust_loopback(Side::Server, hook);
        scene.start_client(&["--server", server]);
        let count = worth(SPAN);
        let mut traffic = scene.send(count, &[]);
        Scene::wait_until_sent(&mut traffic);
        scene.wait_until_client_says(&[&["refuses", "cannot inject"], why].concat());
        scene.wait_until_server_says(&[&["cannot inject"], why].concat());
        assert_eq!(scene.received(AGENT).took.len(), 0, "where does it come from?");
        scene.net.heal();
        scene.expect_all(traffic, 0);
        let journal = std::fs::read_to_string(scene.journal.path()).expect("remoted writes it");
        assert!(!journal.contains("other 16"), "remoted has read a canary: {journal}");
        scene.expect_accounts(count);
    }
}

#[test]
fn a_firewall_that_is_loaded_later_is_noticed() {
    let mut scene = Scene::over_tcp_with(&[], &[], &[]);
    expect_replies(&mut scene);
    scene.net.distrust_loopback(Side::Server, "input");
    let _traffic = scene.send_as("002", 1_000_000, &[]);
    scene.wait_until_client_says(&["refuses", "cannot inject", "firewall"]);
}

#[test]
fn where_replies_come_back_over_the_connection_nobody_else_reaches_the_servers_sockets_and_no_datagram_travels() {
    let mut scene = Scene::served_with_key(&[], &["--inject", "local"]);
    // This counts the datagrams that the client's sockets send.
    scene.net.count_datagrams(Side::Server, 1517);
    scene.start_client(&[]);
    expect_replies(&mut scene);
    let [open, connected] = scene.net.udp_receivers(Side::Server);
    assert!(open.iter().all(|at| at.ends_with(":1514")), "{open:?}");
    assert!(
        !connected.is_empty() && connected.iter().all(|at| at.contains("127.0.0.1:") || at.contains("[::1]:")),
        "{connected:?}"
    );
    assert_eq!(scene.net.counted_datagrams(Side::Server), 0);
}

#[test]
fn an_agent_whose_key_has_a_fixed_address_is_told_of_where_remoted_will_not_know_it() {
    let mut scene = Scene::over_tcp_with(&[], &["--inject", "local"], &[]);
    let traffic = scene.send(10, &[]);
    scene.expect_all(traffic, 0);
    scene.wait_until_server_says(&[Side::Agent.ipv4(), "fixed address", "1213", "--inject spoof"]);
    let traffic = scene.send_as("002", 10, &[]);
    scene.expect_all(traffic, 0);
    assert_eq!(scene.server().output().matches("1213").count(), 1, "once for each client");
}

#[test]
fn a_client_of_the_servers_own_host_gets_its_replies_whatever_address_it_uses() {
    for address in [Side::Server.ipv4(), "127.0.0.1", "[::1]"] {
        let mut scene = Scene::served_with_key(&[], &[]);
        let listen = format!("{}:2514", Side::Server.ipv4());
        scene.start_client_at(Side::Server, &["--listen", &listen, "--server", address]);
        let count = worth(SPAN);
        let traffic = scene.send(count, &["--server", &listen]);
        let summary = scene.expect_all(traffic, 0);
        assert_eq!(summary.get("replies"), count, "{}", summary.0);
    }
}

#[test]
fn both_roles_run_as_another_user_with_no_more_rights_than_they_need() {
    let mut scene = Scene::over_tcp_with(&[], &["--user", "nobody"], &["--user", "nobody"]);
    expect_replies(&mut scene);
    // The bits are CAP_DAC_READ_SEARCH and CAP_SYS_PTRACE. The server opened the raw sockets before.
    let needed = 1 << 2 | 1 << 19;
    let roles = [(scene.client().thread_statuses(), 0), (scene.server().thread_statuses(), needed)];
    for (threads, most) in roles {
        for thread in threads {
            let field = |name: &str| {
                let value = thread.lines().find_map(|line| line.strip_prefix(name)).expect("the system says it");
                value.trim().to_owned()
            };
            let rights = |name| u64::from_str_radix(&field(name), 16).expect("is a number");
            assert!(!field("Uid:").split_whitespace().any(|id| id == "0"), "{thread}");
            assert!(!field("Gid:").split_whitespace().any(|id| id == "0"), "{thread}");
            assert_eq!(
                (rights("CapPrm:") & !most, rights("CapEff:") & !most, rights("CapInh:")),
                (0, 0, 0),
                "{thread}"
            );
        }
    }
    // The server sees remoted's sockets. A server that may not look goes by remoted's name alone, and says so.
    assert!(!scene.server().output().contains("cannot see"), "{}", scene.server().output());
}

#[test]
fn without_a_key_a_client_gives_its_datagrams_to_nobody_on_another_host_whatever_that_one_offers() {
    let mut scene = Scene::empty().served(&[], &[]);
    // To the server, the client seems to be on the server's host.
    scene.net.translate_connections(Side::Server, "127.0.0.1");
    scene.start_client(&["--transport", "tcp"]);
    scene.wait_until_client_says(&["takes no datagrams over TCP", "key"]);
    let mut traffic = scene.send_as(AGENT, 100, &[]);
    Scene::wait_until_sent(&mut traffic);
    assert_eq!(scene.received(AGENT).took.len(), 0);
}

#[test]
fn a_wrong_key_gets_nothing_through_and_costs_hardly_anything() {
    let mut scene = Scene::over_tcp_with(&[], &[], &[]);
    let traffic = scene.send_as(AGENT, 50, &[]);
    scene.expect_all(traffic, 0);
    scene.client().kill();
    scene.make_key();
    scene.start_client(&[]);
    scene.wait_until_client_says(&["key"]);
    scene.wait_until_server_says(&["refused", "key"]);
    let mut traffic = scene.send_as("002", worth(WRONG_SPAN), &[]);
    Scene::wait_until_sent(&mut traffic);
    assert_eq!(scene.received("002").took.len(), 0, "something came through");
    // The client makes an attempt every 2.5 to 7.5 s, whatever there is to send.
    let attempts = scene.server().output().lines().filter(|line| line.contains("is refused")).count();
    assert!((1..25).contains(&attempts), "{attempts} attempts");
    for log in [scene.client().output(), scene.server().output()] {
        assert!(log.len() < 20_000, "{} bytes of log", log.len());
    }
}
