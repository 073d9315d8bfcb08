use std::net::UdpSocket;

use crossbeam_channel::bounded;

use super::*;
use crate::os::remoted::{Names, Searcher};

#[test]
fn a_search_is_due_each_half_minute_and_soon_after_a_socket_has_come() {
    let socket = UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let port = socket.local_addr().expect("it is bound").port();
    let wanted = Wanted { port, addresses: Vec::new(), names: Names::Any, required: Vec::new() };
    let (ask_search, asked) = bounded(1);
    let (found, founds) = bounded(1);
    let mut core = ServerCore::new(Duration::ZERO, 1);
    let mut watch = Watch::new(wanted.clone(), ask_search, founds);
    let begun = net::now();
    watch.search(begun);
    asked.try_recv().expect("it searches");
    found.send(Searcher::new(wanted.clone()).search()).expect("somebody listens");
    assert!(watch.take_found());
    assert!(watch.look(begun, &mut core, false).is_some());
    assert_eq!(core.judge().verdict(), Verdict::Up);
    let mut searches = |after: u64| {
        watch.look(begun + Duration::from_secs(after), &mut core, false);
        let searches = asked.try_recv().is_ok();
        if searches {
            found.send(Searcher::new(wanted.clone()).search()).expect("somebody listens");
            assert!(watch.take_found());
        }
        searches
    };
    assert_eq!([1, 29, 30, 31, 60].map(&mut searches), [false, false, true, false, true]);
    let _second = UdpSocket::bind(("127.0.0.2", port)).expect("another address");
    assert_eq!([60, 61, 62].map(&mut searches), [false, true, false]);
}
