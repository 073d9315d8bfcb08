//! A swarm of whole clients in one process: the moment after a long outage, when everybody comes back at once.
//!
//! It runs over transport udp, or with a key over tcp. Each client has the real core (`ClientCore`, `Dialer`), its own
//! TCP connection to the broker server, its own UDP socket to remoted and, with `--addresses`, its own source address.
//! The server shares its windows by that address. The work of the real client's four threads happens here in one loop
//! for all clients: one wait for all sockets, one heap of timers, and work only for the client that an event belongs
//! to. So thousands of clients fit into one process.
//!
//! Client number N is agent N to the stand-in `ossec-remoted`, with counters from 1 up: its journal shows order,
//! copies and gaps of each.
//!
//! It says `ready` when every client holds the datagrams that it starts with. At the end, when nothing is held any
//! more, it says one line of `name value` pairs:
//!
//! - `clients`, `received`, `confirmed`, `dropped`, `left`: the number of clients, and the fate of all their
//!   datagrams;
//! - `sent`, `copies`, `rewinds`, `refusals`, `connections`: the cost of that;
//! - `half_fewest`, `half_most`: the shares of the least and of the most favoured client when half of everything was
//!   confirmed;
//! - `fewest`, `most`: the same at the end;
//! - `first_ms`: from the start to the first release; `half_ms`, `drained_ms`: from there until half and all was
//!   confirmed; `per_s`: datagrams confirmed in each second of that;
//! - `longest_wait_ms`: the longest time that a client with something to send could release nothing, counted from the
//!   first release of any of them;
//! - `most_unsent`: the most datagrams that any client had to send at a time, from then on;
//! - `heartbeats`, `heartbeats_per_s`: heartbeats begun from the first release on.
//!
//! Exit code 1 if something is still held after `--give-up-s`; the line is printed all the same.

mod client;
#[path = "../shared/payload.rs"]
mod payload;
mod peer;
mod swarm;
mod tally;
mod timers;
mod traffic;

use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::process::ExitCode;

use argh::FromArgs;
use ossec_broker::os::{keyfile, net};

use payload::Sizes;
use swarm::Swarm;
use traffic::Load;

/// Descriptors of a client while it connects: its UDP socket, the connection in use and the attempts at a better one.
const DESCRIPTORS_EACH: u64 = 2 + ossec_broker::proto::client::dial::ATTEMPTS_MAX as u64;
/// Descriptors of the process itself.
const DESCRIPTORS_BESIDES: u64 = 32;

/// Many whole clients in one process: each holds datagrams, gets rid of them when it may, and goes on with more.
#[derive(FromArgs)]
struct Args {
    /// how many clients (200)
    #[argh(option, arg_name = "n", default = "NonZeroUsize::new(200).expect(\"is not zero\")")]
    clients: NonZeroUsize,
    /// datagrams that each client holds at the start (200)
    #[argh(option, arg_name = "n", default = "200")]
    held: u64,
    /// datagrams a second that each client gets from then on (0)
    #[argh(option, arg_name = "n", default = "0")]
    rate: u32,
    /// how many of these each client gets (what --rate brings in 10 s)
    #[argh(option, arg_name = "n")]
    count: Option<u64>,
    /// for how many seconds each client gets them, instead of --count
    #[argh(option, arg_name = "seconds")]
    duration: Option<u64>,
    /// bytes of each datagram, or a range (150)
    #[argh(option, arg_name = "min[-max]", default = "Sizes::fixed(150)")]
    size: Sizes,
    /// remoted (127.0.0.1:1514)
    #[argh(option, arg_name = "addr:port", default = "SocketAddr::from(([127, 0, 0, 1], 1514))")]
    server: SocketAddr,
    /// the broker server (port 1517 on remoted's host)
    #[argh(option, arg_name = "addr:port")]
    broker: Option<SocketAddr>,
    /// source address of the first client, or its network as a CIDR; the others take those that follow (the system's
    /// choice for all)
    #[argh(option, arg_name = "addr[/bits]", from_str_fn(first_address))]
    addresses: Option<IpAddr>,
    /// file with the server's key: over transport tcp (udp, without a key)
    #[argh(option, arg_name = "file")]
    psk_file: Option<PathBuf>,
    /// give up when so many seconds have passed (300)
    #[argh(option, arg_name = "seconds", default = "300")]
    give_up_s: u64,
}

fn main() -> ExitCode {
    match run(&argh::from_env()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("ossec-swarm: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the swarm. Returns whether everything was delivered.
fn run(args: &Args) -> Result<bool, String> {
    let load = load(args)?;
    let clients = args.clients.get();
    let wanted = DESCRIPTORS_BESIDES + DESCRIPTORS_EACH * clients as u64;
    let descriptors = net::raise_descriptor_limit(wanted);
    if descriptors < wanted {
        return Err(format!("{clients} clients need {wanted} descriptors, {descriptors} are allowed: ulimit -n"));
    }
    let broker = args.broker.unwrap_or_else(|| SocketAddr::new(args.server.ip(), 1517));
    let key = args.psk_file.as_deref().map(keyfile::load_first).transpose().map_err(|error| error.to_string())?;
    let mut swarm = Swarm::new(args.server, broker, key)?;
    for index in 0..clients {
        let source = args.addresses.map(|first| following(first, index)).transpose()?;
        swarm.add(source, &load)?;
    }
    println!("ready: {clients} clients hold {} datagrams", clients as u64 * args.held);
    let drained = swarm.run(args.give_up_s)?;
    println!("{}", swarm.summary());
    Ok(drained)
}

fn load(args: &Args) -> Result<Load, String> {
    const SECONDS: u64 = 10;
    let rate = u64::from(args.rate);
    let later = match (args.count, args.duration) {
        (Some(_), Some(_)) => return Err("--count or --duration, not both".into()),
        (Some(count), None) if count > 0 && rate == 0 => return Err("--count needs a --rate".into()),
        (Some(count), None) => count,
        (None, seconds) => rate * seconds.unwrap_or(SECONDS),
    };
    Ok(Load { held: args.held, rate: args.rate, later, sizes: args.size })
}

/// The first address to use: `10.78.0.1`, or the first host of `10.78.0.0/16`.
fn first_address(text: &str) -> Result<IpAddr, String> {
    let wrong = || format!("`{text}` is neither an address nor a network");
    let Some((network, bits)) = text.split_once('/') else {
        return text.parse().map_err(|_| wrong());
    };
    bits.parse::<u8>().map_err(|_| wrong())?;
    following(network.parse().map_err(|_| wrong())?, 1)
}

/// The address that is so many places after `first`.
fn following(first: IpAddr, places: usize) -> Result<IpAddr, String> {
    let next = match first {
        IpAddr::V4(v4) => u32::try_from(places).ok().and_then(|places| u32::from(v4).checked_add(places)).map(v4_of),
        IpAddr::V6(v6) => u128::from(v6).checked_add(places as u128).map(|bits| IpAddr::V6(bits.into())),
    };
    next.ok_or_else(|| format!("there are no {places} addresses after {first}"))
}

fn v4_of(bits: u32) -> IpAddr {
    IpAddr::V4(bits.into())
}
