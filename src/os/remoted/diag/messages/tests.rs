use std::num::NonZeroI32;

use netlink_packet_core::{DoneMessage, ErrorMessage, NetlinkBuffer};
use netlink_packet_sock_diag::inet::InetResponseHeader;
use netlink_packet_sock_diag::inet::nlas::MemInfo;
use proptest::prelude::*;

use super::*;
use crate::os::remoted::tests::garbled::garbled;

const SEQUENCE: u32 = 7;

fn bytes(sequence: u32, payload: NetlinkPayload<SockDiagMessage>) -> Vec<u8> {
    let mut message = NetlinkMessage::new(NetlinkHeader::default(), payload);
    message.header.sequence_number = sequence;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

fn response(inode: u32, attributes: &[Nla]) -> NetlinkPayload<SockDiagMessage> {
    let header = InetResponseHeader {
        family: AF_INET6,
        state: 7,
        timer: None,
        socket_id: SocketId::new_v6(),
        recv_queue: 4_096,
        send_queue: 0,
        uid: 0,
        inode,
    };
    SockDiagMessage::InetResponse(Box::new(InetResponse { header, nlas: attributes.iter().cloned().collect() })).into()
}

fn memory() -> Nla {
    Nla::MemInfo(MemInfo {
        receive_queue: 8_192,
        receive_queue_max: 212_992,
        bottom_send_queues: 0,
        send_queue_max: 212_992,
        cache: 0,
        send_queue: 0,
        options: 0,
        backlog_queue_length: 0,
        drops: 44,
    })
}

fn done(code: i32) -> NetlinkPayload<SockDiagMessage> {
    let mut done = DoneMessage::default();
    done.code = code;
    NetlinkPayload::Done(done)
}

fn expected(inode: u64, binding: Binding) -> PortSocket {
    let socket = Socket { inode, rx_queue: 4_096, drops: 44, buffer: Some(212_992) };
    PortSocket { namespace: Namespace::Ours, socket, binding }
}

#[test]
fn an_answer_gives_the_sockets_of_its_request() {
    let mut seen = Vec::new();
    let stale = bytes(SEQUENCE - 1, response(100, &[memory()]));
    let stale_end = bytes(SEQUENCE - 1, done(0));
    let dual = bytes(SEQUENCE, response(101, &[Nla::Shutdown(0), Nla::SkV6Only(false), memory()]));
    let v6_only = bytes(SEQUENCE, response(102, &[memory(), Nla::SkV6Only(true)]));
    // This message is one byte longer than its header, and padded.
    let mut noop = bytes(SEQUENCE, NetlinkPayload::Noop);
    noop[..4].copy_from_slice(&17_u32.to_ne_bytes());
    noop.extend([0; 4]);
    let end = bytes(SEQUENCE, done(0));

    let first = [stale, stale_end, noop, dual, v6_only].concat();
    assert!(!collect(&first, SEQUENCE, &mut seen).expect("a good answer"));
    let second = [bytes(SEQUENCE, response(200, &[memory()])), end].concat();
    assert!(collect(&second, SEQUENCE, &mut seen).expect("a good answer"));
    assert_eq!(seen, [expected(101, Binding::All), expected(102, Binding::AllOfV6), expected(200, Binding::All)]);
}

#[test]
fn an_error_of_the_kernel_is_told() {
    let refused = |code| {
        let mut error = ErrorMessage::default();
        error.code = NonZeroI32::new(code);
        // The kernel sends the header of the request back.
        error.header = vec![0; 16];
        NetlinkPayload::Error(error)
    };
    for (code, told) in [(-libc::ENOENT, libc::ENOENT), (i32::MIN, i32::MAX)] {
        for answer in [refused(code), done(code)] {
            let error = collect(&bytes(SEQUENCE, answer), SEQUENCE, &mut Vec::new()).expect_err("an error");
            assert_eq!(error.raw_os_error(), Some(told));
        }
    }
}

#[test]
fn what_is_no_answer_is_an_error() {
    let without_memory = bytes(SEQUENCE, response(100, &[]));
    let mut a_request = request(Family::V4, 1_514);
    NetlinkBuffer::new(&mut a_request).set_sequence_number(SEQUENCE);
    let mut too_long = bytes(SEQUENCE, response(100, &[memory()]));
    too_long[0] += 4;
    let mut too_short = bytes(SEQUENCE, done(0));
    too_short[..4].copy_from_slice(&15_u32.to_ne_bytes());
    for answer in [without_memory, a_request, too_long, too_short, vec![0; 3]] {
        let error = collect(&answer, SEQUENCE, &mut Vec::new()).expect_err("an error");
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }
}

#[test]
fn a_request_asks_for_one_port_and_for_unconnected_sockets() {
    for (family, number) in [(Family::V4, AF_INET), (Family::V6, AF_INET6)] {
        let request = request(family, 1_514);
        // struct nlmsghdr, 16 bytes, then struct inet_diag_req_v2, 56 bytes.
        assert_eq!(request.len(), 72);
        assert_eq!(request[16..19], [number, IPPROTO_UDP, 1 << 6]);
        assert_eq!(request[20..24], (1_u32 << 7).to_ne_bytes());
        assert_eq!(request[24..26], 1_514_u16.to_be_bytes());
    }
}

/// The kernel's answer with two sockets.
fn answer() -> Vec<u8> {
    let one = response(100, &[memory(), Nla::Shutdown(0)]);
    let other = response(101, &[Nla::SkV6Only(false), memory()]);
    [bytes(SEQUENCE, one), bytes(SEQUENCE, other), bytes(SEQUENCE, done(0))].concat()
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic_nor_tell_of_more_sockets_than_fit_in_them(
        answer in prop_oneof![1 => prop::collection::vec(any::<u8>(), 0..200), 4 => garbled(answer())],
    ) {
        let mut seen = Vec::new();
        let _ = collect(&answer, SEQUENCE, &mut seen);
        // struct nlmsghdr and struct inet_diag_msg.
        prop_assert!(seen.len() <= answer.len() / (16 + 72), "{:?}", seen);
    }

    #[test]
    fn what_was_told_before_an_answer_breaks_off_is_taken(after in garbled(answer())) {
        let mut seen = Vec::new();
        let whole = [bytes(SEQUENCE, response(200, &[memory()])), after].concat();
        let _ = collect(&whole, SEQUENCE, &mut seen);
        prop_assert_eq!(seen.first(), Some(&expected(200, Binding::All)));
    }
}
