//! Two hosts on this machine: a pair of network namespaces with a cable between them.
//!
//! ```text
//!   agent's host: 10.77.0.1, fd00:77::1                 server's host: 10.77.0.2, fd00:77::2
//!   [ obk-PID-N-a ] wire ═════════════ veth ════════════ wire [ obk-PID-N-s ]
//! ```
//!
//! A cut drops packets that arrive at an end of the cable, before anything of the host sees them (nftables' `netdev`
//! family). So packets vanish without an error, and address resolution dies as it does behind a dead switch. A
//! rejecting firewall answers with ICMP errors and TCP resets.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};
use std::{fs, process};

/// Every namespace of these tests is called `obk-PID-…`, after the test process that made it.
const PREFIX: &str = "obk-";
/// The directory where `ip netns` keeps its names.
const NETNS: &str = "/run/netns";
/// The directory where `ip netns exec` finds files that stand in for files in `/etc`.
const NAMES: &str = "/etc/netns";
/// The name of the cable's end in both namespaces.
const WIRE: &str = "wire";
/// Both ends of the cable, in the order of [`Side`].
const ADDRESSES: [(&str, &str); 2] = [("10.77.0.1", "fd00:77::1"), ("10.77.0.2", "fd00:77::2")];

/// nftables' families of IPv4 and IPv6, and the tables in which datagrams of each are counted.
const FAMILIES: [(&str, &str); 2] = [("ip", "tally4"), ("ip6", "tally6")];

/// Networks on either side of a router.
const ROUTED: [&str; 2] = ["fd00:78", "fd00:79"];

/// UDP ports of the tunnel's ends.
const TUNNEL_PORTS: [&str; 2] = ["4789", "4790"];

/// One of the two hosts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// The host where the agent and the broker's client run.
    Agent,
    /// The host where remoted and the broker's server run.
    Server,
}

impl Side {
    pub(crate) const BOTH: [Self; 2] = [Self::Agent, Self::Server];

    const fn other(self) -> Self {
        match self {
            Self::Agent => Self::Server,
            Self::Server => Self::Agent,
        }
    }

    pub(crate) fn ipv4(self) -> &'static str {
        ADDRESSES[self as usize].0
    }

    /// The host's address at its end of the tunnel.
    pub(crate) const fn far_ipv4(self) -> &'static str {
        match self {
            Self::Agent => "10.79.0.1",
            Self::Server => "10.79.0.2",
        }
    }

    pub(crate) fn ipv6(self) -> &'static str {
        ADDRESSES[self as usize].1
    }
}

/// The ways in which a firewall stands between the hosts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Firewall {
    /// At the server's host: the firewall answers datagrams to remoted with `port unreachable`.
    RejectsUdp,
    /// At the server's host: the firewall refuses everything, TCP by reset.
    RejectsAll,
    /// At the server's host: datagrams to remoted over IPv6 vanish.
    DropsUdpOverIpv6,
    /// At the agent's host: datagrams to remoted may not leave, and their sender gets an error.
    ForbidsUdp,
    /// At the agent's host: only packets of a conversation that began there come in.
    Stateful,
}

/// A pair of namespaces; deleted in the end, with everything that still runs in them.
pub(crate) struct Namespaces {
    names: [String; 2],
    /// The name of the router that [`Self::add_router`] makes.
    router: String,
}

impl Namespaces {
    pub(crate) fn new() -> Self {
        static SWEEP: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEEP.call_once(remove_leftovers);
        let stem = format!("{PREFIX}{}-{}", process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let pair = Self { names: [format!("{stem}-a"), format!("{stem}-s")], router: format!("{stem}-r") };
        for name in &pair.names {
            run(Command::new("ip").args(["netns", "add", name]));
        }
        let [agent, server] = &pair.names;
        run(Command::new("ip")
            .args(["-n", agent, "link", "add", WIRE, "type", "veth"])
            .args(["peer", "name", WIRE, "netns", server]));
        for side in Side::BOTH {
            pair.set_up(side);
        }
        pair
    }

    fn set_up(&self, side: Side) {
        // Addresses are usable at once and survive a link that goes down: duplicate detection would take seconds.
        for setting in ["accept_dad=0", "keep_addr_on_down=1"] {
            let (key, value) = setting.split_once('=').expect("is written with a sign of equality");
            let write = format!("echo {value} >/proc/sys/net/ipv6/conf/{WIRE}/{key}");
            run(self.command(side, "sh").args(["-c", &write]));
        }
        self.ip(side, &["addr", "add", &format!("{}/24", side.ipv4()), "dev", WIRE]);
        self.ip(side, &["addr", "add", &format!("{}/64", side.ipv6()), "dev", WIRE, "nodad"]);
        for link in ["lo", WIRE] {
            self.ip(side, &["link", "set", link, "up"]);
        }
    }

    /// The host's address that holds on the cable alone, with its end of the cable at the other host.
    pub(crate) fn link_local(&self, side: Side) -> String {
        let list = ["-6", "-o", "addr", "show", "dev", WIRE, "scope", "link"];
        let text = run(Command::new("ip").args(["-n", self.name(side)]).args(list));
        let address = text.split_ascii_whitespace().find_map(|word| word.strip_suffix("/64"));
        format!("{}%{WIRE}", address.unwrap_or_else(|| panic!("no address of the link: {text}")))
    }

    /// The number of the host's end of the cable.
    pub(crate) fn interface(&self, side: Side) -> String {
        run(self.command(side, "cat").arg(format!("/sys/class/net/{WIRE}/ifindex"))).trim().to_owned()
    }

    /// Makes a tunnel between the two hosts, for which two relays are still missing. Returns three things for each
    /// relay: the host that it runs on, the address to listen to, and the address to pass on to.
    pub(crate) fn tunnel(&self) -> [(Side, String, String); 2] {
        Side::BOTH.map(|side| {
            let (port, other_port) = (TUNNEL_PORTS[side as usize], TUNNEL_PORTS[side.other() as usize]);
            let (remote, far) = (side.other().ipv4(), format!("{}/24", side.far_ipv4()));
            self.ip(
                side,
                &["link", "add", "far", "type", "vxlan", "id", "1", "remote", remote, "dstport", port, "nolearning"],
            );
            self.ip(side, &["addr", "add", &far, "dev", "far"]);
            // The relays see packets as they are sent: checksums must be in them, and none may be longer than the path
            // takes.
            run(self.command(side, "ethtool").args(["-K", "far", "tx", "off", "gso", "off"]));
            self.ip(side, &["link", "set", "far", "up"]);
            // An end sends to its own port number at the other host, where the other end has another one.
            (side.other(), format!("{remote}:{port}"), format!("{remote}:{other_port}"))
        })
    }

    /// The host's route to the other one is a black hole: it throws away what it would send there, and says `EINVAL`.
    pub(crate) fn forget_route(&self, side: Side) {
        self.ip(side, &["route", "add", "blackhole", side.other().ipv4()]);
    }

    /// The host has its route again.
    pub(crate) fn find_route(&self, side: Side) {
        self.ip(side, &["route", "del", "blackhole", side.other().ipv4()]);
    }

    /// Makes a router between the two hosts, besides the cable. It reaches the server's host over a link of so many
    /// bytes, and tells senders of packets that are larger. Returns the server's address there.
    pub(crate) fn add_router(&self, mtu: u32) -> &'static str {
        let router = self.router.as_str();
        let mtu = mtu.to_string();
        run(Command::new("ip").args(["netns", "add", router]));
        for side in Side::BOTH {
            let (end, prefix) = (format!("to{}", side as usize), ROUTED[side as usize]);
            run(Command::new("ip").args(["-n", router, "link", "add", &end, "type", "veth"]).args([
                "peer",
                "name",
                "routed",
                "netns",
                self.name(side),
            ]));
            let disable = |device: &str| format!("echo 0 >/proc/sys/net/ipv6/conf/{device}/accept_dad");
            let mut own = Command::new("ip");
            run(own.args(["netns", "exec", router, "sh", "-c", &disable(&end)]));
            run(self.command(side, "sh").args(["-c", &disable("routed")]));
            run(Command::new("ip").args([
                "-n",
                router,
                "addr",
                "add",
                &format!("{prefix}::9/64"),
                "dev",
                &end,
                "nodad",
            ]));
            self.ip(side, &["addr", "add", &format!("{prefix}::1/64"), "dev", "routed", "nodad"]);
            if side == Side::Server {
                self.ip(side, &["link", "set", "routed", "mtu", &mtu]);
                run(Command::new("ip").args(["-n", router, "link", "set", &end, "mtu", &mtu]));
            }
            run(Command::new("ip").args(["-n", router, "link", "set", &end, "up"]));
            self.ip(side, &["link", "set", "routed", "up"]);
            let other = ROUTED[side.other() as usize];
            self.ip(side, &["route", "add", &format!("{other}::/64"), "via", &format!("{prefix}::9")]);
        }
        let forward = "echo 1 >/proc/sys/net/ipv6/conf/all/forwarding";
        run(Command::new("ip").args(["netns", "exec", router, "sh", "-c", forward]));
        "fd00:79::1"
    }

    /// Datagrams to remoted from that port arrive nowhere, and datagrams from other ports do arrive. On the way, a
    /// translation of addresses has an old entry for the port.
    pub(crate) fn mislead(&self, source_port: u16) {
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; }}");
        let rule = format!("udp sport {source_port} udp dport 1514 drop");
        self.nft(
            Side::Server,
            &format!("add table netdev obk\nadd chain netdev obk stale {chain}\nadd rule netdev obk stale {rule}\n"),
        );
    }

    /// One more IPv4 address for the host.
    pub(crate) fn add_address(&self, side: Side, address: &str) {
        self.ip(side, &["addr", "add", &format!("{address}/24"), "dev", WIRE]);
    }

    /// Takes an IPv4 address of the host away; routes and connections that need it are of no more use.
    pub(crate) fn remove_address(&self, side: Side, address: &str) {
        self.ip(side, &["addr", "del", &format!("{address}/24"), "dev", WIRE]);
    }

    /// All addresses of a network belong to the host, and the other one knows the way.
    pub(crate) fn add_network(&self, side: Side, network: &str) {
        self.ip(side, &["route", "add", "local", network, "dev", "lo"]);
        self.ip(side.other(), &["route", "add", network, "via", side.ipv4()]);
    }

    /// A command that runs `program` on that host. `ip netns exec` becomes the program: its process id is the
    /// program's.
    pub(crate) fn command(&self, side: Side, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", self.name(side)]).arg(program.as_ref());
        command
    }

    /// Writes the host's knowledge of names: its `/etc/hosts`. The file is written in place, so that programs that run
    /// there see a change.
    pub(crate) fn write_hosts(&self, side: Side, text: &str) {
        let folder = Path::new(NAMES).join(self.name(side));
        fs::create_dir_all(&folder).expect("root may");
        fs::write(folder.join("hosts"), text).expect("root may");
    }

    /// Nothing passes, in either direction.
    pub(crate) fn cut(&self) {
        for side in Side::BOTH {
            self.cut_towards(side);
        }
    }

    /// Nothing arrives at `side` any more; packets that it sends still pass.
    pub(crate) fn cut_towards(&self, side: Side) {
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; policy drop; }}");
        self.nft(side, &format!("add table netdev obk\nadd chain netdev obk cut {chain}\n"));
    }

    /// So many in a hundred of the packets that arrive at either end are lost. Lost datagrams to remoted are counted.
    pub(crate) fn lose(&self, percent: u32) {
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; }}");
        let chance = format!("numgen random mod 100 < {percent}");
        for side in Side::BOTH {
            self.nft(
                side,
                &format!(
                    "add table netdev obk\nadd chain netdev obk loss {chain}\nadd counter netdev obk lost\n\
                     add rule netdev obk loss udp dport 1514 {chance} counter name lost drop\n\
                     add rule netdev obk loss udp dport 1514 accept\n\
                     add rule netdev obk loss {chance} drop\n"
                ),
            );
        }
    }

    /// No more than so many kilobytes a second pass, in either direction; packets that come faster are lost.
    pub(crate) fn narrow(&self, kilobytes: u32) {
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; }}");
        let rule = format!("limit rate over {kilobytes} kbytes/second burst 30 kbytes drop");
        for side in Side::BOTH {
            self.nft(
                side,
                &format!(
                    "add table netdev obk\nadd chain netdev obk narrow {chain}\nadd rule netdev obk narrow {rule}\n"
                ),
            );
        }
    }

    /// Nothing is lost any more. Returns how many datagrams to remoted were lost.
    pub(crate) fn lose_no_more(&self) -> u64 {
        for side in Side::BOTH {
            self.nft(side, "flush chain netdev obk loss\n");
        }
        self.counted(Side::Server, ["netdev", "obk"])
    }

    /// To `side`, connections to the broker server come from another address, as behind a translation.
    pub(crate) fn translate_connections(&self, side: Side, address: &str) {
        self.nft(
            side,
            &format!(
                "add table ip translation\nadd chain ip translation in {{ type nat hook input priority 100; }}\n\
                 add rule ip translation in iif {WIRE} tcp dport 1517 snat to {address}\n"
            ),
        );
    }

    /// Packets that the other host sends to `address`, which nobody has, go to the address of `side` instead. The host
    /// may bind any address, as beside failover software.
    pub(crate) fn translate_destination(&self, side: Side, address: &str) {
        self.ip(side.other(), &["route", "add", address, "via", side.ipv4()]);
        run(self.command(side, "sh").args(["-c", "echo 1 >/proc/sys/net/ipv4/ip_nonlocal_bind"]));
        self.nft(
            side,
            &format!(
                "add table ip translation
add chain ip translation out {{ type nat hook prerouting priority -100; }}\n\
                 add rule ip translation out iif {WIRE} ip daddr {address} dnat to {}\n",
                side.ipv4()
            ),
        );
    }

    /// A usual rule against forged addresses, for packets that come in or go out over `lo`: packets to remoted must
    /// come from a loopback address.
    pub(crate) fn distrust_loopback(&self, side: Side, hook: &str) {
        let (chain, device) = (
            format!("add chain inet distrust wall {{ type filter hook {hook} priority 0; }}"),
            if hook == "input" { "iif" } else { "oif" },
        );
        let rules = ["ip saddr != 127.0.0.0/8", "ip6 saddr != ::1"]
            .map(|foreign| format!("add rule inet distrust wall {device} lo {foreign} udp dport 1514 drop\n"));
        self.nft(side, &format!("add table inet distrust\n{chain}\n{}", rules.concat()));
    }

    /// The host's `lo` takes packets of so many bytes.
    pub(crate) fn narrow_loopback(&self, side: Side, bytes: u32) {
        self.ip(side, &["link", "set", "lo", "mtu", &bytes.to_string()]);
    }

    /// The addresses where the host's UDP sockets receive. The first list has the sockets that take datagrams from
    /// anybody, the second the sockets that take them from one address alone.
    pub(crate) fn udp_receivers(&self, side: Side) -> [Vec<String>; 2] {
        ["unconnected", "connected"].map(|state| {
            let listed = run(self.command(side, "ss").args(["-Hun", "state", state]));
            listed
                .lines()
                .filter_map(|line| Some(line.split_ascii_whitespace().find(|word| word.contains(':'))?.to_owned()))
                .collect()
        })
    }

    /// Sets how strictly the host checks that an answer would go where a packet comes from: rp_filter, 0 to 2.
    pub(crate) fn check_return_paths(&self, side: Side, strictness: &str) {
        for device in ["all", "default", "lo", WIRE] {
            let write = format!("echo {strictness} >/proc/sys/net/ipv4/conf/{device}/rp_filter");
            run(self.command(side, "sh").args(["-c", &write]));
        }
    }

    /// Packets of the TCP connections that exist vanish, in either direction and without a word, as when a firewall
    /// has forgotten the connections. New connections pass.
    pub(crate) fn forget_connections(&self) {
        let existing =
            run(self.command(Side::Agent, "ss").args(["-Htn", "state", "established", "dport", "=", ":1517"]));
        let port = |line: &str| line.split_ascii_whitespace().nth(2)?.rsplit(':').next()?.parse::<u16>().ok();
        let ports: Vec<String> = existing.lines().filter_map(port).map(|port| port.to_string()).collect();
        assert!(!ports.is_empty(), "there is no connection: {existing}");
        let ports = ports.join(", ");
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; }}");
        // The server's host comes first: a client that has noticed says good-bye to the old connection, and nobody may
        // hear that.
        for (side, end) in [(Side::Server, "sport"), (Side::Agent, "dport")] {
            self.nft(
                side,
                &format!(
                    "add table netdev obk\nadd chain netdev obk forgotten {chain}\n\
                     add rule netdev obk forgotten tcp {end} {{ {ports} }} drop\n"
                ),
            );
        }
    }

    /// The TCP connections of the server's host are gone without a word, as after a crash of the host. The link must
    /// be cut at that time: otherwise the other end is told.
    pub(crate) fn forget_sockets(&self) {
        run(self.command(Side::Server, "ss").args(["-K", "sport", "=", ":1517"]));
        let left = run(self.command(Side::Server, "ss").args(["-Htn", "sport", "=", ":1517"]));
        assert_eq!(left, "", "this kernel does not end connections on request (CONFIG_INET_DIAG_DESTROY)");
    }

    /// TCP connections to the broker server that both ends know, as its host sees them.
    pub(crate) fn established(&self) -> usize {
        run(self.command(Side::Server, "ss").args(["-Htn", "state", "established", "sport", "=", ":1517"]))
            .lines()
            .count()
    }

    /// Puts a firewall in the way.
    pub(crate) fn raise(&self, firewall: Firewall) {
        let (side, hook, rules) = match firewall {
            Firewall::RejectsUdp => (Side::Server, "input", &["udp dport 1514 reject"][..]),
            Firewall::RejectsAll => {
                (Side::Server, "input", &["meta l4proto tcp reject with tcp reset", "meta l4proto udp reject"][..])
            }
            Firewall::DropsUdpOverIpv6 => (Side::Server, "input", &["meta nfproto ipv6 udp dport 1514 drop"][..]),
            Firewall::ForbidsUdp => (Side::Agent, "output", &["udp dport 1514 drop"][..]),
            Firewall::Stateful => (Side::Agent, "input", &["ct state established,related accept", "drop"][..]),
        };
        let device = if hook == "input" { "iif" } else { "oif" };
        let mut script =
            format!("add table inet obk\nadd chain inet obk wall {{ type filter hook {hook} priority 0; }}\n");
        for rule in rules {
            script.extend(["add rule inet obk wall ", device, " ", WIRE, " ", rule, "\n"]);
        }
        self.nft(side, &script);
    }

    /// Packets of more than so many bytes vanish at either end. Data is cut into packets before, as on a real cable.
    pub(crate) fn swallow_larger_than(&self, bytes: u32) {
        let chain = format!("{{ type filter hook ingress device {WIRE} priority 0; }}");
        for side in Side::BOTH {
            run(self.command(side, "ethtool").args(["-K", WIRE, "tso", "off", "gso", "off", "gro", "off"]));
            self.nft(
                side,
                &format!(
                    "add table netdev obk\nadd chain netdev obk swallow {chain}\n\
                     add rule netdev obk swallow meta length > {bytes} drop\n"
                ),
            );
        }
    }

    /// Starts to count the datagrams to remoted that arrive at `side`, for each family.
    pub(crate) fn count_families(&self, side: Side) {
        for (family, table) in FAMILIES {
            let chain = "{ type filter hook input priority 0; }";
            self.nft(
                side,
                &format!(
                    "add table {family} {table}\nadd chain {family} {table} seen {chain}\n\
                     add rule {family} {table} seen udp dport 1514 counter\n"
                ),
            );
        }
    }

    /// The datagrams counted since [`Self::count_families`]: over IPv4, over IPv6.
    pub(crate) fn counted_families(&self, side: Side) -> [u64; 2] {
        FAMILIES.map(|(family, table)| self.counted(side, [family, table]))
    }

    /// Takes the cut away, and nothing else.
    pub(crate) fn heal_cut(&self) {
        for side in Side::BOTH {
            self.nft(side, "delete table netdev obk\n");
        }
    }

    /// Takes every cut and every firewall away.
    pub(crate) fn heal(&self) {
        for side in Side::BOTH {
            self.nft(side, "flush ruleset\n");
        }
    }

    /// Pulls the cable out of that host: it loses its routes, the other one its carrier.
    pub(crate) fn link_down(&self, side: Side) {
        self.ip(side, &["link", "set", WIRE, "down"]);
    }

    /// Plugs the cable in again.
    pub(crate) fn link_up(&self, side: Side) {
        self.ip(side, &["link", "set", WIRE, "up"]);
    }

    /// Datagrams that the kernel has dropped at the sockets on that UDP port because their buffers were full.
    pub(crate) fn udp_drops(&self, side: Side, port: u16) -> u64 {
        let drops = |line: &str| line.split_ascii_whitespace().last()?.parse::<u64>().ok();
        self.udp_sockets(side, port).iter().filter_map(|line| drops(line)).sum()
    }

    /// Bytes of receive buffer in use at the sockets on that UDP port.
    pub(crate) fn udp_queue(&self, side: Side, port: u16) -> u64 {
        let queue =
            |line: &str| u64::from_str_radix(line.split_ascii_whitespace().nth(4)?.split_once(':')?.1, 16).ok();
        self.udp_sockets(side, port).iter().filter_map(|line| queue(line)).sum()
    }

    /// Whether somebody has a UDP socket on that port.
    pub(crate) fn has_udp_socket(&self, side: Side, port: u16) -> bool {
        !self.udp_sockets(side, port).is_empty()
    }

    /// The lines of `/proc/net/udp{,6}` for the sockets on that port.
    pub(crate) fn udp_sockets(&self, side: Side, port: u16) -> Vec<String> {
        let tables = run(self.command(side, "cat").args(["/proc/self/net/udp", "/proc/self/net/udp6"]));
        let suffix = format!(":{port:04X}");
        let is_there = |line: &&str| line.split_ascii_whitespace().nth(1).is_some_and(|at| at.ends_with(&suffix));
        tables.lines().filter(is_there).map(str::to_owned).collect()
    }

    /// Starts to count the datagrams that arrive at `side` from that source port.
    pub(crate) fn count_datagrams(&self, side: Side, source_port: u16) {
        let chain = "{ type filter hook input priority 0; }";
        let rule = format!("udp sport {source_port} counter");
        self.nft(
            side,
            &format!("add table inet tally\nadd chain inet tally seen {chain}\nadd rule inet tally seen {rule}\n"),
        );
    }

    /// The datagrams counted since [`Self::count_datagrams`].
    pub(crate) fn counted_datagrams(&self, side: Side) -> u64 {
        self.counted(side, ["inet", "tally"])
    }

    /// The first counter of that table.
    fn counted(&self, side: Side, table: [&str; 2]) -> u64 {
        let table = run(self.command(side, "nft").args(["list", "table"]).args(table));
        let mut words = table.split_ascii_whitespace();
        let count = words.find(|word| *word == "packets").and_then(|_| words.next()?.parse().ok());
        count.expect("the rule counts")
    }

    fn name(&self, side: Side) -> &str {
        &self.names[side as usize]
    }

    fn ip(&self, side: Side, arguments: &[&str]) {
        run(Command::new("ip").args(["-n", self.name(side)]).args(arguments));
    }

    fn nft(&self, side: Side, script: &str) {
        let mut command = self.command(side, "nft");
        let mut child = command.args(["-f", "-"]).stdin(Stdio::piped()).spawn().expect("ip runs, as it did before");
        let mut input = child.stdin.take().expect("is a pipe");
        input.write_all(script.as_bytes()).expect("nft reads its script");
        drop(input);
        assert!(child.wait().expect("nft ends").success(), "nft refuses (is it installed?): {script}");
    }
}

impl Drop for Namespaces {
    fn drop(&mut self) {
        for name in self.names.iter().chain([&self.router]) {
            remove(name);
        }
    }
}

/// Deletes a namespace and ends the processes that still run in it.
fn remove(name: &str) {
    // Failures are ignored: this runs while a test is failing, too. The next run removes the leftovers.
    if let Ok(Output { stdout, .. }) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&stdout).split_ascii_whitespace() {
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).output();
        }
    }
    let _ = Command::new("ip").args(["netns", "del", name]).output();
    let _ = fs::remove_dir_all(Path::new(NAMES).join(name));
}

/// Removes the namespaces of test processes that are no more.
fn remove_leftovers() {
    for entry in fs::read_dir(NETNS).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if is_leftover(&name, PREFIX) {
            remove(&name);
        }
    }
}

/// Whether `name`, which goes `prefix PID-…`, was made by a process that is no more.
pub(crate) fn is_leftover(name: &str, prefix: &str) -> bool {
    let maker = name.strip_prefix(prefix).and_then(|rest| rest.split('-').next()?.parse::<u32>().ok());
    maker.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists())
}

/// Runs a command that has to succeed and returns what it printed.
pub(crate) fn run(command: &mut Command) -> String {
    let output = command.output().unwrap_or_else(|error| panic!("cannot run {command:?}: {error} (is it installed?)"));
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} fails ({}): {complaint}", output.status);
    String::from_utf8_lossy(&output.stdout).into_owned()
}
