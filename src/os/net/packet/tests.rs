use proptest::prelude::*;

use super::*;

/// A packet as its receiver reads it.
#[derive(Debug, PartialEq, Eq)]
struct Read {
    from: SocketAddr,
    to: SocketAddr,
    payload: Vec<u8>,
    /// The checksum fits the packet. It is summed up here in another way than in the code under test.
    sound: bool,
}

/// Reads a whole packet as RFC 791, RFC 8200 and RFC 768 have it.
fn read(packet: &[u8]) -> Read {
    let port = |at: usize| u16::from_be_bytes([packet[at], packet[at + 1]]);
    let (ip, from, to) = match packet[0] >> 4 {
        4 => {
            assert_eq!((packet[0] & 15, packet[9], &packet[6..8]), (5, 17, &[0, 0][..]), "no options, UDP, whole");
            let address = |at: usize| -> [u8; 4] { packet[at..at + 4].try_into().expect("four bytes") };
            (20, SocketAddr::from((address(12), port(20))), SocketAddr::from((address(16), port(22))))
        }
        6 => {
            assert_eq!((packet[6], usize::from(port(4))), (17, packet.len() - 40));
            let address = |at: usize| -> [u8; 16] { packet[at..at + 16].try_into().expect("sixteen bytes") };
            (40, SocketAddr::from((address(8), port(40))), SocketAddr::from((address(24), port(42))))
        }
        other => panic!("what is IP version {other}?"),
    };
    assert_eq!(usize::from(port(ip + 4)), packet.len() - ip, "the length of UDP");
    assert_ne!(port(ip + 6), 0, "there is a checksum");
    // The sum of the whole packet, with the checksum in it, is all ones: RFC 1071.
    let addresses = if ip == 20 { &packet[12..20] } else { &packet[8..40] };
    let length = (packet.len() - ip) as u16;
    let mut all = [addresses, &packet[ip..]].concat();
    if all.len() % 2 == 1 {
        all.push(0);
    }
    let once = |sum: u16, word: u16| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    };
    let sum = all.chunks(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).fold(once(17, length), once);
    Read { from, to, payload: packet[ip + 8..].to_vec(), sound: sum == 0xFFFF }
}

/// Puts fragments together, in whatever order they come.
fn join(fragments: &[Vec<u8>]) -> Vec<u8> {
    let v4 = fragments[0][0] >> 4 == 4;
    let mut whole = fragments[0][..if v4 { 20 } else { 40 }].to_vec();
    let mut parts: Vec<(usize, bool, &[u8])> = Vec::new();
    let mut names = std::collections::BTreeSet::new();
    for fragment in fragments {
        assert!(fragment.len() <= 1_280, "{} bytes", fragment.len());
        let word = |at: usize| u16::from_be_bytes([fragment[at], fragment[at + 1]]);
        if v4 {
            parts.push((usize::from(word(6) & 0x1FFF) * 8, word(6) & 0x2000 != 0, &fragment[20..]));
            names.insert(u32::from(word(4)));
        } else {
            assert_eq!((fragment[6], fragment[40], usize::from(word(4))), (44, 17, fragment.len() - 40));
            parts.push((usize::from(word(42) & !7), word(42) & 1 != 0, &fragment[48..]));
            names.insert(u32::from(word(44)) << 16 | u32::from(word(46)));
        }
    }
    assert_eq!(names.len(), 1, "all are of one datagram");
    assert_ne!(names.first(), Some(&0), "and the system does not name them anew");
    parts.sort_unstable();
    let last = parts.len() - 1;
    for (at, (offset, more, part)) in parts.into_iter().enumerate() {
        assert_eq!((offset, more), (whole.len() - if v4 { 20 } else { 40 }, at < last));
        assert!(!more || part.len() % 8 == 0);
        whole.extend(part);
    }
    if v4 {
        whole[4..8].fill(0);
    } else {
        let length = (whole.len() - 40) as u16;
        whole[4..6].copy_from_slice(&length.to_be_bytes());
        whole[6] = 17;
    }
    whole
}

fn flow(from: &str, to: &str) -> Flow {
    let address = |text: &str| text.parse().expect("an address");
    Flow::between(address(from), address(to)).expect("of one family")
}

fn packet(header: Option<Header>, payload: &[u8]) -> Vec<u8> {
    [header.expect("it is not too large").as_ref(), payload].concat()
}

#[test]
fn headers_are_those_that_the_system_makes() {
    // These are captured packets of ordinary sockets on a wire, where the kernel sums up by itself.
    let v4 = flow("10.77.0.1:1517", "10.77.0.2:1514").header(b"hello").expect("small");
    assert_eq!(
        v4.as_ref(),
        [
            0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 77, 0, 1, 10, 77, 0, 2, 0x05, 0xED, 0x05, 0xEA, 0, 13, 0x9B,
            0x8E
        ]
    );
    let v6 = flow("[fd00:77::1]:1517", "[fd00:77::2]:1514").header(b"hello!").expect("small");
    assert_eq!(v6.as_ref()[..8], [0x60, 0, 0, 0, 0, 14, 17, 64]);
    assert_eq!(v6.as_ref()[40..], [0x05, 0xED, 0x05, 0xEA, 0, 14, 0xB5, 0x15]);
}

#[test]
fn a_sum_of_all_ones_is_not_sent_as_the_zero_that_means_none() {
    let between = flow("10.0.0.1:1", "10.0.0.2:2");
    let plain = between.header(&[0, 0]).expect("small");
    // A payload that equals the checksum of the packet without it makes the checksum zero.
    let payload = [plain.as_ref()[26], plain.as_ref()[27]];
    let header = between.header(&payload).expect("small");
    assert_eq!(header.as_ref()[26..28], [0xFF, 0xFF]);
    assert!(read(&packet(Some(header), &payload)).sound);
    assert!(!read(&packet(between.spoilt(&payload), &payload)).sound);
}

#[test]
fn addresses_of_two_families_make_no_flow_and_what_is_too_large_no_datagram() {
    let [v4, v6] = ["10.0.0.1:1", "[::1]:1"].map(|text| text.parse().expect("an address"));
    assert_eq!((Flow::between(v4, v6), Flow::between(v6, v4)), (None, None));
    let payload = vec![0; 65_528];
    for (most, between) in [(65_507, flow("10.0.0.1:1", "10.0.0.2:2")), (65_527, flow("[::1]:1", "[::2]:2"))] {
        assert!(between.header(&payload[..most]).is_some() && between.fragments(1, &payload[..most]).is_some());
        assert!(between.header(&payload[..=most]).is_none() && between.fragments(1, &payload[..=most]).is_none());
    }
}

proptest! {
    #[test]
    fn what_was_built_reads_as_it_was_meant(
        (v4, from, to) in (any::<bool>(), any::<([u8; 16], u16)>(), any::<([u8; 16], u16)>()),
        payload in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..200),
            (0..65_508_usize, any::<u8>()).prop_map(|(length, byte)| vec![byte; length]),
        ],
        identification in any::<u32>(),
        turn in any::<usize>(),
    ) {
        let address = |(bytes, port): ([u8; 16], u16)| {
            let [a, b, c, d, ..] = bytes;
            if v4 { SocketAddr::from(([a, b, c, d], port)) } else { SocketAddr::from((bytes, port)) }
        };
        let (from, to) = (address(from), address(to));
        let flow = Flow::between(from, to).expect("of one family");
        let whole = packet(flow.header(&payload), &payload);
        prop_assert_eq!(read(&whole), Read { from, to, payload: payload.clone(), sound: true });
        prop_assert!(!read(&packet(flow.spoilt(&payload), &payload)).sound);
        let mut fragments = flow.fragments(identification.max(1), &payload).expect("not too large");
        let count = fragments.len();
        fragments.rotate_left(turn % count);
        prop_assert_eq!(join(&fragments), whole);
    }
}
