//! Stands in for an init system that keeps a service's socket: binds it, and starts the program with it again and
//! again, until it is told to end.
//!
//! `socket-activate ADDRESS PROGRAM ARGUMENTS…` prints the process id of each start.

use std::net::UdpSocket;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitCode};

use command_fds::{CommandFdExt, FdMapping};

fn start(socket: &UdpSocket, program: &str, arguments: &[String]) -> Child {
    // It ends with this process.
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", program])
        .args(arguments)
        .env("LISTEN_FDS", "1")
        .env("LISTEN_FDNAMES", "client.socket");
    let parent_fd = socket.as_fd().try_clone_to_owned().expect("a descriptor");
    command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).expect("one place");
    command.spawn().expect("the program starts")
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [address, program, arguments @ ..] = &words[..] else {
        eprintln!("socket-activate ADDRESS PROGRAM ARGUMENTS…");
        return ExitCode::FAILURE;
    };
    let socket = UdpSocket::bind(address).expect("the address is free");
    loop {
        let mut child = start(&socket, program, arguments);
        println!("started {}", child.id());
        child.wait().expect("it is a child");
    }
}
