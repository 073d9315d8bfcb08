use std::net::UdpSocket;

use super::*;

#[test]
fn a_lost_answer_is_given_up_and_the_next_dump_works() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let port = socket.local_addr().expect("an address").port();
    let mut diag = Diag::new(port);
    assert!(diag.dump(Family::V4, &mut Vec::new()));
    // The kernel passes over a message whose length field says that it is shorter than its header.
    assert!(diag.dump(Family::V4, &mut Vec::new()));
    let connection = diag.connection.as_mut().expect("it is kept");
    assert_eq!(connection.sequence, 2);
    connection.requests[0][..4].fill(0);
    assert!(!diag.dump(Family::V4, &mut Vec::new()));
    assert!(diag.dump(Family::V4, &mut Vec::new()));
    assert!(diag.take_reason().is_none());
}

#[test]
fn failures_in_a_row_end_it_for_good_and_are_told_once() {
    let mut diag = Diag::new(1_514);
    let failure = || Err(io::Error::from_raw_os_error(libc::ENOENT));
    for _ in 1..FAILURES_MAX {
        assert!(!diag.account(failure()));
    }
    assert!(diag.account(Ok(())));
    for _ in 0..FAILURES_MAX {
        assert!(diag.take_reason().is_none());
        assert!(!diag.account(failure()));
    }
    assert!(!diag.dump(Family::V4, &mut Vec::new()));
    assert_eq!(diag.take_reason().and_then(|error| error.raw_os_error()), Some(libc::ENOENT));
    assert!(diag.take_reason().is_none());
}
