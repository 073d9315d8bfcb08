use proptest::prelude::*;

use super::*;

const KEY: &str = "b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0b3f0";

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The ids that count, in their order.
fn ids(file: &str) -> Vec<String> {
    let text = |agent: &Agent| String::from_utf8_lossy(&agent.id).into_owned();
    AgentKeys::from_bytes(file.as_bytes()).agents.iter().map(text).collect()
}

fn only(line: &str) -> Agent {
    let keys = AgentKeys::from_bytes(format!("{line}\n").as_bytes());
    let [agent] = &keys.agents[..] else { panic!("one agent: {keys:?}") };
    agent.clone()
}

#[test]
fn a_key_is_derived_from_id_name_and_key_as_both_ends_have_them() {
    let agent = only(&format!("001 web-1 10.0.0.7 {KEY}"));
    // Computed with another implementation of HKDF.
    assert_eq!(agent.key.to_text(), "d46d42d1bf1569b5eead1cb75ca43f96b54c5848e8564eacfcbf78f06756a1ed");
    let same = [format!("001 web-1 any {KEY}"), format!("001 web-1 10.0.0.7 {KEY} \t\r")];
    for line in same {
        assert_eq!(only(&line).key, agent.key, "{line:?}");
    }
    let others = [
        format!("002 web-1 10.0.0.7 {KEY}"),
        format!("001 web-2 10.0.0.7 {KEY}"),
        format!("001 web-1 10.0.0.7 {KEY}0"),
        format!("00 1web-1 10.0.0.7 {KEY}"),
    ];
    for line in others {
        assert_ne!(only(&line).key, agent.key, "{line:?}");
    }
}

#[test]
fn an_address_covers_what_it_does_for_remoted() {
    for (text, covered, not) in [
        ("any", vec!["10.0.0.7", "fd00::1"], vec![]),
        ("10.0.0.7", vec!["10.0.0.7", "::ffff:10.0.0.7"], vec!["10.0.0.8", "fd00::7"]),
        ("10.0.0.7/32", vec!["10.0.0.7"], vec!["10.0.0.8"]),
        ("fd00::7", vec!["fd00::7"], vec!["fd00::8", "10.0.0.7"]),
        ("10.0.0.9/8", vec!["10.255.0.1"], vec!["11.0.0.1"]),
        ("fd00::/16", vec!["fd00:1::1"], vec!["fd01::1", "10.0.0.7"]),
        ("!10.0.0.7", vec!["10.0.0.8", "fd00::1"], vec!["10.0.0.7"]),
        ("!10.0.0.0/8", vec!["11.0.0.1"], vec!["10.0.0.8"]),
    ] {
        let addresses = only(&format!("001 a {text} {KEY}")).addresses;
        assert!(covered.iter().all(|address| addresses.cover(ip(address))), "{text}");
        assert!(!not.iter().any(|address| addresses.cover(ip(address))), "{text}");
    }
    let fixed = |text: &str| matches!(only(&format!("001 a {text} {KEY}")).addresses, Addresses::One(_));
    assert_eq!(
        ["10.0.0.7", "10.0.0.7/32", "fd00::7/128", "10.0.0.0/31", "!10.0.0.7"].map(fixed),
        [true, true, true, false, false]
    );
}

#[test]
fn of_several_live_lines_with_one_id_or_one_fixed_address_the_first_counts() {
    let file = format!(
        "001 a 10.0.0.1 {KEY}\n001 b 10.0.0.2 {KEY}\n002 c 10.0.0.1 {KEY}\n003 d any {KEY}\n004 e any {KEY}\n\
         005 f 10.0.0.0/8 {KEY}\n006 g 10.0.0.0/8 {KEY}\n"
    );
    assert_eq!(ids(&file), ["001", "003", "004", "005", "006"]);
    assert_eq!(AgentKeys::from_bytes(file.as_bytes()).agents[0].key, only(&format!("001 a any {KEY}")).key);
    let removed = format!("001 #*#a 10.0.0.1 {KEY}\n002 !b 10.0.0.2 {KEY}\n001 c 10.0.0.1 {KEY}\n002 d any {KEY}\n");
    assert_eq!(ids(&removed), ["001", "002"], "a removed line shadows nobody");
}

#[test]
fn comments_and_blank_lines_say_nothing_and_a_line_without_its_end_waits() {
    let file = format!("# text\n\n \t\n 009 indented any {KEY}\r\n001 a any {KEY}\r\n\r\n002 b any {KEY}");
    let keys = AgentKeys::from_bytes(file.as_bytes());
    assert_eq!((keys.agents.len(), keys.strange, keys.is_unfinished), (1, 0, true));
    assert!(!AgentKeys::from_bytes(format!("{file}\n").as_bytes()).is_unfinished);
    assert_eq!(ids(&format!("{file}\n")), ["001", "002"]);
}

#[test]
fn a_line_that_makes_no_sense_is_counted_and_the_others_count() {
    let long = "x".repeat(FIELD_BYTES_MAX + 1);
    for strange in [
        "001".to_owned(),
        "001 a".to_owned(),
        "001 a any".to_owned(),
        "001 a any \r".to_owned(),
        format!("001  any {KEY}"),
        format!("001 a 10.0.0.1,10.0.0.2 {KEY}"),
        format!("001 a 10.0.0.0/33 {KEY}"),
        format!("001 a !any {KEY}"),
        format!("{long} a any {KEY}"),
        format!("001 {long} any {KEY}"),
    ] {
        let keys = AgentKeys::from_bytes(format!("{strange}\n007 b any {KEY}\n").as_bytes());
        assert_eq!((keys.agents.len(), keys.strange), (1, 1), "{strange:?}");
    }
}

#[test]
fn nothing_shows_a_key() {
    let keys = AgentKeys::from_bytes(format!("001 a any {KEY}\n").as_bytes());
    assert!(!format!("{keys:?}").contains("b3f0"), "{keys:?}");
}

proptest! {
    #[test]
    fn any_bytes_are_a_file(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        let keys = AgentKeys::from_bytes(&bytes);
        prop_assert!(keys.agents.len() + keys.strange <= bytes.split(|&byte| byte == b'\n').count());
    }

    #[test]
    fn a_part_of_a_file_says_no_more_than_the_whole(count in 1..20_usize, end in any::<prop::sample::Index>()) {
        let lines: Vec<String> = (0..count).map(|n| format!("{n:03} agent-{n} 10.0.0.{n} {KEY}\n")).collect();
        let file = lines.concat();
        let whole = AgentKeys::from_bytes(file.as_bytes()).agents;
        let part = AgentKeys::from_bytes(&file.as_bytes()[..end.index(file.len() + 1)]).agents;
        prop_assert_eq!(&whole[..part.len()], &part[..]);
    }
}
