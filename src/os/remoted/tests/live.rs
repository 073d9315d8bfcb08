//! The system that the tests run on: sockets of this process and of a child.

use std::net::UdpSocket;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use socket2::SockRef;

use super::*;

/// A socket of the test's process, which is looked for by name.
struct Target {
    socket: UdpSocket,
    wanted: Wanted,
}

impl Target {
    fn at(address: &str) -> Self {
        let socket = UdpSocket::bind(address).expect("a socket");
        let path = std::env::current_exe().expect("our own path");
        let wanted = wanted(port_of(&socket), &[path.to_str().expect("it is text")]);
        Self { socket, wanted }
    }

    /// Sends datagrams that nobody reads, more than the buffer holds.
    fn overflow(&self) {
        let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
        let to = self.socket.local_addr().expect("an address");
        for _ in 0..=self.buffer() / 1_024 {
            sender.send_to(&[0; 1_024], to).expect("sent");
        }
    }

    fn buffer(&self) -> u64 {
        SockRef::from(&self.socket).recv_buffer_size().expect("a size") as u64
    }
}

fn port_of(socket: &UdpSocket) -> u16 {
    socket.local_addr().expect("an address").port()
}

fn without_netlink(wanted: &Wanted) -> Inspector {
    Inspector::reading(Path::new("/proc"), wanted.clone())
}

#[test]
fn our_own_socket_is_found_with_the_size_of_its_buffer() {
    let target = Target::at("127.0.0.1:0");
    SockRef::from(&target.socket).set_recv_buffer_size(20_000).expect("a smaller buffer");
    let found = search(&target.wanted);
    assert!(found.qualifies() && found.doubts.is_empty());
    let mut inspector = Inspector::new(target.wanted.clone());
    let sample = inspector.sample(&found);
    assert_eq!(sample.presence, Presence::Running);
    let [owner] = sample.owners[..] else { panic!("one owner: {sample:?}") };
    assert_eq!(owner.pid, std::process::id());
    let [socket] = sample.sockets[..] else { panic!("one socket: {sample:?}") };
    assert_eq!((socket.rx_queue, socket.drops, socket.buffer), (0, 0, Some(target.buffer())));
    assert!(sample.age.is_some());
    assert_eq!(inspector.notice(), None);
}

#[test]
fn netlink_is_not_asked_for_a_socket_in_another_namespace() {
    let target = Target::at("127.0.0.1:0");
    SockRef::from(&target.socket).set_recv_buffer_size(20_000).expect("a smaller buffer");
    let mut found = search(&target.wanted);
    // The path through this process leads to the same tables, too.
    found.watched[0].0 = Namespace::OfProcess(std::process::id());
    let sample = Inspector::new(target.wanted.clone()).sample(&found);
    assert_eq!(sample.sockets[0].buffer, Some(found.buffer_default_bytes));
    assert_ne!(found.buffer_default_bytes, target.buffer());
}

#[test]
fn unread_datagrams_and_drops_show() {
    let target = Target::at("127.0.0.1:0");
    let found = search(&target.wanted);
    let mut inspector = Inspector::new(target.wanted.clone());
    let sender = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    sender.send_to(b"unread", target.socket.local_addr().expect("an address")).expect("sent");
    let one = inspector.sample(&found).sockets[0];
    assert!(one.rx_queue > 0 && one.rx_queue < target.buffer());
    assert_eq!(one.drops, 0);
    target.overflow();
    let full = inspector.sample(&found).sockets[0];
    assert!(full.rx_queue > one.rx_queue);
    assert!(full.drops > 0);
}

#[test]
fn a_queue_that_was_read_empty_shows_as_empty() {
    let target = Target::at("127.0.0.1:0");
    let found = search(&target.wanted);
    let mut inspector = Inspector::new(target.wanted.clone());
    target.overflow();
    assert!(inspector.sample(&found).sockets[0].rx_queue > 0);
    target.socket.set_nonblocking(true).expect("set");
    while target.socket.recv(&mut [0; 1_024]).is_ok() {}
    // The kernel gives back the memory of read datagrams only later. Neither netlink nor `/proc` may count it.
    assert_eq!(inspector.sample(&found).sockets[0].rx_queue, 0);
    assert_eq!(without_netlink(&target.wanted).sample(&found).sockets[0].rx_queue, 0);
}

#[test]
fn netlink_and_proc_agree() {
    for address in ["127.0.0.1:0", "0.0.0.0:0"] {
        let target = Target::at(address);
        target.overflow();
        let found = search(&target.wanted);
        let mut by_netlink = Inspector::new(target.wanted.clone()).sample(&found);
        let mut by_proc = without_netlink(&target.wanted).sample(&found);
        assert_eq!(by_netlink.sockets.len(), 1);
        for sample in [&mut by_netlink, &mut by_proc] {
            sample.age = None;
            sample.sockets[0].buffer.take().expect("both have some size");
        }
        assert_eq!(by_netlink, by_proc);
    }
}

#[test]
fn a_socket_of_ipv6_is_found_too() {
    if UdpSocket::bind("[::1]:0").is_err() {
        // This system has no IPv6.
        return;
    }
    let target = Target::at("[::1]:0");
    let found = search(&target.wanted);
    let [by_netlink] = Inspector::new(target.wanted.clone()).sample(&found).sockets[..] else { panic!("one socket") };
    let [by_proc] = without_netlink(&target.wanted).sample(&found).sockets[..] else { panic!("one socket") };
    assert_eq!(by_netlink.inode, by_proc.inode);
    assert_eq!(by_netlink.buffer, Some(target.buffer()));
}

#[test]
fn a_connected_socket_is_not_found() {
    let target = Target::at("127.0.0.1:0");
    let found = search(&target.wanted);
    target.socket.connect("127.0.0.1:9").expect("connected");
    assert_eq!(Inspector::new(target.wanted.clone()).sample(&found).presence, Presence::NoSocket);
    assert!(!search(&target.wanted).qualifies());
}

/// Takes samples until one of them shows the condition: some changes take effect a moment later.
fn wait_for(inspector: &mut Inspector, found: &Found, shows: impl Fn(&Sample) -> bool) -> Sample {
    (0..1_000_000).map(|_| inspector.sample(found)).find(shows).expect("it comes about")
}

fn is(presence: Presence) -> impl Fn(&Sample) -> bool {
    move |sample| sample.presence == presence
}

#[test]
fn closing_the_socket_shows() {
    let Target { socket, wanted } = Target::at("127.0.0.1:0");
    let found = search(&wanted);
    let mut inspector = Inspector::new(wanted.clone());
    assert_eq!(inspector.sample(&found).presence, Presence::Running);
    drop(socket);
    // A child that another test is about to start has the socket, too, until it executes its program.
    wait_for(&mut inspector, &found, is(Presence::NoSocket));
    assert_eq!(without_netlink(&wanted).sample(&found).presence, Presence::NoSocket);
    let found = search(&wanted);
    assert!(!found.qualifies());
    assert_eq!(inspector.sample(&found).presence, Presence::NoSocket);
}

/// A child that has the socket as its standard input; killed when dropped.
struct Sleeper(Child);

impl Sleeper {
    fn with(socket: UdpSocket) -> Self {
        let command = Command::new("sleep").arg("1000").stdin(Stdio::from(OwnedFd::from(socket))).spawn();
        Self(command.expect("a child"))
    }

    fn signal(&self, name: &str) {
        let status = Command::new("sh").arg("-c").arg(format!("kill -{name} {}", self.0.id())).status();
        assert!(status.expect("a shell").success());
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn another_process_is_watched_from_its_start_to_its_end() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let wanted = wanted(port_of(&socket), &["sleep"]);
    let mut inspector = Inspector::new(wanted.clone());
    let sleeper = Sleeper::with(socket);
    // A child gets its name a moment after the parent goes on.
    let found = (0..10_000).map(|_| search(&wanted)).find(Found::qualifies).expect("it is there");
    let running = wait_for(&mut inspector, &found, is(Presence::Running));
    assert_eq!(running.owners.iter().map(|owner| owner.pid).collect::<Vec<_>>(), [sleeper.0.id()]);
    assert_eq!(running.companion, None);

    sleeper.signal("STOP");
    let stopped = wait_for(&mut inspector, &found, is(Presence::Stopped));
    assert_eq!((&stopped.sockets, &stopped.owners), (&running.sockets, &running.owners));
    sleeper.signal("CONT");
    wait_for(&mut inspector, &found, is(Presence::Running));

    // The parent has not waited for the child yet, so the child ends as a zombie.
    sleeper.signal("KILL");
    let gone = wait_for(&mut inspector, &found, |sample| sample.owners.is_empty());
    // Another sleep may run on this system, with no socket on the port.
    assert!(matches!(gone.presence, Presence::NoProcess | Presence::NoSocket));
    assert!(gone.sockets.is_empty());
    assert!(!search(&wanted).qualifies());
}
