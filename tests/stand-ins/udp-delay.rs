//! A long path for UDP. It passes datagrams on after a delay, in order, and has room for all that are under way
//! meanwhile.
//!
//! The benchmarks run a tunnel (VXLAN) over a pair of these programs, where the kernel has no netem. That makes a path
//! with a round trip as long as wanted. It serves every protocol, with the kernel's own TCP at both ends.

use std::convert::Infallible;
use std::error::Error;
use std::net::{SocketAddr, UdpSocket};
use std::process::ExitCode;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};

use argh::FromArgs;
use nix::sys::socket::{setsockopt, sockopt};

/// Room for datagrams that come in while this program is not running.
const RECEIVE_BUFFER_BYTES: usize = 64 << 20;
/// Datagrams under way at once. More wait in the socket.
const UNDER_WAY_MAX: usize = 1 << 20;
/// The largest UDP payload.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// Passes UDP datagrams on after a delay.
#[derive(FromArgs)]
struct Args {
    /// address to receive at
    #[argh(option, arg_name = "addr:port")]
    listen: SocketAddr,
    /// address to pass on to
    #[argh(option, arg_name = "addr:port")]
    to: SocketAddr,
    /// delay in milliseconds
    #[argh(option, arg_name = "ms")]
    ms: u64,
}

fn main() -> ExitCode {
    let Err(error) = run(&argh::from_env());
    eprintln!("udp-delay: {error}");
    ExitCode::FAILURE
}

/// Passes on until a signal ends the process.
fn run(args: &Args) -> Result<Infallible, Box<dyn Error>> {
    let socket = UdpSocket::bind(args.listen)?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER_BYTES)?;
    let (sending, to, delay) = (socket.try_clone()?, args.to, Duration::from_millis(args.ms));
    let (under_way, arriving) = sync_channel::<(Instant, Box<[u8]>)>(UNDER_WAY_MAX);
    thread::scope(|scope| {
        scope.spawn(move || {
            for (due, bytes) in arriving {
                pause(due.saturating_duration_since(now()));
                // The receiver may be away. Then the datagram is lost, as on any path.
                let _ = sending.send_to(&bytes, to);
            }
        });
        let mut bytes = vec![0; DATAGRAM_BYTES_MAX];
        loop {
            let length = socket.recv(&mut bytes)?;
            under_way.send((now() + delay, bytes[..length].into()))?;
        }
    })
}

#[expect(clippy::disallowed_methods, reason = "a program of its own, which reads the clock where it needs it")]
fn now() -> Instant {
    Instant::now()
}

#[expect(clippy::disallowed_methods, reason = "to wait is what it is for, and only a signal ends it")]
fn pause(span: Duration) {
    thread::sleep(span);
}
