use std::ffi::OsStr;

use proptest::prelude::*;

use super::*;
use crate::os::remoted::tests::garbled::garbled;

/// 300 datagrams sent to an IPv4 socket on port 1514 that nobody read, and the connected socket that sent them.
const UDP: &str = "\
   sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops            
14405: 0100007F:05EA 00000000:0000 07 00000000:00034000 00:00000000 00000000     0        0 10791 2 00000000b85f6373 44        
14406: 0100007F:05EB 0100007F:05EA 01 00000000:00000000 00:00000000 00000000     0        0 10793 2 00000000d3e8871d 0         
";

/// The same table for IPv6, with 275 datagrams and a socket bound to `::` port 1516.
const UDP6: &str = "\
  sl  local_address                         remote_address                        st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode ref pointer drops
14407: 00000000000000000000000000000000:05EC 00000000000000000000000000000000:0000 07 00000000:00034000 00:00000000 00000000     0        0 10792 2 0000000013adf269 19
14409: 00000000000000000000000001000000:05EE 00000000000000000000000001000000:05EC 01 00000000:00000000 00:00000000 00000000     0        0 10794 2 000000008b55087a 0
";

const STAT: &str = "4024 (cat) R 4008 4008 3310 0 -1 4194304 101 0 0 0 0 0 0 0 20 0 1 0 91034 3133440 393 18446744073709551615 \
94249823944704 94249823964585 140734482555536 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 94249823980592 94249823982208 94250033754112 \
140734482561706 140734482561726 140734482561726 140734482563051 0
";

#[test]
fn a_table_is_read_with_hexadecimal_queue_and_decimal_drops() {
    let row = |address: &str, port, state, rx_queue, inode, drops| Row {
        address: address.parse().expect("is an address"),
        port,
        state,
        socket: Socket { inode, rx_queue, drops, buffer: None },
    };
    assert_eq!(
        rows(UDP.as_bytes()).collect::<Vec<_>>(),
        [row("127.0.0.1", 1514, 7, 212_992, 10_791, 44), row("127.0.0.1", 1515, 1, 0, 10_793, 0)]
    );
    assert_eq!(
        rows(UDP6.as_bytes()).collect::<Vec<_>>(),
        [row("::", 1516, 7, 212_992, 10_792, 19), row("::1", 1518, 1, 0, 10_794, 0)]
    );
}

#[test]
fn only_an_unconnected_socket_receives_on_its_port() {
    let [free, connected] = rows(UDP.as_bytes()).collect::<Vec<_>>()[..] else { panic!("two rows") };
    assert!(free.receives_on(1514));
    assert!(!free.receives_on(1515));
    assert!(!connected.receives_on(1515));
}

#[test]
fn a_counter_of_drops_past_two_to_the_31_is_read_with_and_without_a_sign() {
    for (text, drops) in
        [("4294967295", u32::MAX), ("-1", u32::MAX), ("-2147483648", 1 << 31), ("2147483647", i32::MAX as u32)]
    {
        let table = UDP.replace(" 44  ", &format!(" {text}  "));
        assert_eq!(rows(table.as_bytes()).next().map(|row| row.socket.drops), Some(drops));
    }
}

#[test]
fn lines_that_make_no_sense_are_left_out() {
    let good = UDP.lines().nth(1).expect("a row");
    let too_large = [good.replace(":05EA", ":105EA"), good.replace(":00034000", ":100034000")];
    let all = ["", ":", "14405:", &good[..60], &good.replace(" 07 ", " 7z ")];
    for bad in all.into_iter().chain(too_large.iter().map(String::as_str)) {
        let table = format!("{bad}\n{good}\n");
        assert_eq!(rows(table.as_bytes()).count(), 1, "{bad:?}");
    }
}

#[test]
fn a_process_may_have_any_name() {
    assert_eq!(stat(STAT.as_bytes()), Some(Stat { run_state: RunState::Running, start_ticks: 91_034 }));
    for name in ["(cat) R 1 2", ") Z 0 (", "a b\tc\n", "", "))))", "\u{fffd}"] {
        let text = STAT.replace("(cat)", &format!("({name})"));
        assert_eq!(
            stat(text.as_bytes()),
            Some(Stat { run_state: RunState::Running, start_ticks: 91_034 }),
            "{name:?}"
        );
    }
}

#[test]
fn a_stat_cut_short_is_none() {
    let start_time_begins = STAT.find("91034").expect("it is there");
    for length in 0..start_time_begins {
        assert_eq!(stat(&STAT.as_bytes()[..length]), None);
    }
}

#[test]
fn every_state_of_a_process_has_its_meaning() {
    let run_state = |state: u8| {
        let text = STAT.replace(" R ", &format!(" {} ", char::from(state)));
        stat(text.as_bytes()).expect("it is whole").run_state
    };
    assert!(b"RSDIWKP".iter().all(|&state| run_state(state) == RunState::Running));
    assert!(b"Tt".iter().all(|&state| run_state(state) == RunState::Stopped));
    assert!(b"ZXx".iter().all(|&state| run_state(state) == RunState::Gone));
}

#[test]
fn the_link_of_a_descriptor_shows_its_socket() {
    let link = |target: &str| socket_link(OsStr::new(target));
    assert_eq!(link("socket:[10791]"), Some(10_791));
    for other in ["/dev/null", "pipe:[10791]", "socket:[]", "socket:[12", "socket:12]", "anon_inode:[eventpoll]", ""] {
        assert_eq!(link(other), None, "{other}");
    }
}

proptest! {
    #[test]
    fn no_bytes_make_a_parser_panic(
        bytes in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..400),
            garbled(UDP),
            garbled(UDP6),
            garbled(STAT),
            garbled("socket:[10791]"),
        ]
    ) {
        prop_assert!(rows(&bytes).count() <= bytes.split(|&byte| byte == b'\n').count());
        stat(&bytes);
        socket_link(OsStr::from_bytes(&bytes));
    }

    #[test]
    fn a_line_counts_or_not_whatever_the_others_are(table in garbled(UDP), other in garbled(UDP6)) {
        let both = [&table[..], b"\n", UDP.as_bytes(), &other].concat();
        let alone = |text: &[u8]| rows(text).collect::<Vec<_>>();
        prop_assert_eq!(alone(&both), [alone(&table), alone(UDP.as_bytes()), alone(&other)].concat());
    }

    #[test]
    fn any_bytes_may_be_the_name_of_a_process(name in prop::collection::vec(any::<u8>(), 0..20)) {
        let (before, after) = STAT.split_once("cat").expect("its name");
        let text = [before.as_bytes(), &name, after.as_bytes()].concat();
        prop_assert_eq!(stat(&text), stat(STAT.as_bytes()));
    }
}
