use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;

use super::*;
use crate::proto::terms::LAG_MAX;

mod crowds;

impl Windows {
    /// A client asks. The server knows only that the client has something to send.
    fn handle_request(&mut self, now: Time, demand: Demand, capacity: Capacity) -> Grant {
        self.handle_demand(now, demand, u64::MAX, capacity)
    }
}

const BUFFER: u64 = 212_992;
const SMALL: u64 = 832;
const LEASE: Duration = Duration::from_millis(100);
const EMPTY: Capacity = Capacity { buffer: BUFFER, queue: 0, overflows: false, reads: true };

const fn ms(n: u64) -> Time {
    Time::from_millis(1_000 + n)
}

const fn address(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 0, 0, host))
}

/// The demand of a client that has its own address and small datagrams to send.
fn asks(client: u8) -> Demand {
    Demand {
        client: ConnectionId::from(client),
        address: address(client),
        wants: true,
        next_cost: SMALL,
        unconfirmed_cost: 0,
        lease: LEASE,
    }
}

#[test]
fn a_client_alone_gets_half_the_buffer_again_and_again() {
    let mut windows = Windows::default();
    for at in [0, 1, 2, 50, 5_000] {
        assert_eq!(windows.handle_request(ms(at), asks(1), EMPTY).window, BUFFER / 2);
        assert_eq!(windows.booked(ms(at)), BUFFER / 2, "a bound, not a credit");
    }
    assert_eq!(windows.booked(ms(5_100)), 0, "it expires with the lease");
}

#[test]
fn who_has_nothing_to_send_gets_nothing() {
    let mut windows = Windows::default();
    let grant = windows.handle_request(ms(0), Demand { wants: false, ..asks(1) }, EMPTY);
    assert_eq!(grant, Grant { window: 0, ask_again: Duration::ZERO });
    assert_eq!(windows.handle_request(ms(0), asks(2), EMPTY).window, BUFFER / 2);
}

#[test]
fn in_a_steady_stream_the_window_stays_between_two_datagrams() {
    let mut windows = Windows::default();
    windows.handle_request(ms(0), asks(1), EMPTY);
    let sent_all = Demand { wants: false, unconfirmed_cost: SMALL, ..asks(1) };
    assert_eq!(windows.handle_request(ms(50), sent_all, EMPTY).window, BUFFER / 2);
    assert_eq!(windows.handle_request(ms(400), sent_all, EMPTY).window, 0, "not after its lease");
}

#[test]
fn what_lies_in_the_queue_is_not_granted_again() {
    let mut windows = Windows::default();
    let filled = Capacity { queue: BUFFER / 2, ..EMPTY };
    let window = windows.handle_request(ms(0), asks(1), filled).window;
    assert!(window > 0 && window + filled.queue <= BUFFER * USABLE_PERCENT / 100, "{window}");
    // The window already bounds the client's own datagrams in the queue.
    let own = Demand { unconfirmed_cost: window, ..asks(1) };
    let half = windows.handle_request(ms(200), own, Capacity { queue: window, ..EMPTY }).window;
    assert_eq!(half, BUFFER / 2);
    let own = Demand { unconfirmed_cost: 100_000, ..asks(1) };
    assert_eq!(windows.handle_request(ms(210), own, Capacity { queue: 100_000, ..EMPTY }).window, BUFFER / 2);
    // The datagrams that another client has under way count, though its grant has expired.
    assert_eq!(windows.handle_request(ms(600), asks(2), Capacity { queue: 100_000, ..EMPTY }).window, 49_094);
}

#[test]
fn one_that_says_it_has_more_under_way_than_it_was_ever_granted_takes_no_room_with_that() {
    let mut windows = Windows::default();
    let modest = Demand { wants: true, next_cost: SMALL, lease: Duration::from_secs(10), ..asks(1) };
    assert!(windows.handle_demand(ms(0), modest, SMALL, EMPTY).window > 0);
    let boast = Demand { unconfirmed_cost: 1 << 32, ..modest };
    for at in 1..30 {
        windows.handle_demand(ms(at * 900), boast, SMALL, EMPTY);
        let other = windows.handle_request(ms(at * 900 + 500), asks(2), EMPTY).window;
        // While the first client was alone, it may have been granted half the buffer for as long as its lease lasts.
        assert!(other > 0 || at * 900 < 12_000, "after {at}");
    }
}

#[test]
fn a_newcomer_waits_until_a_larger_grant_has_expired_and_then_has_its_share() {
    let mut windows = Windows::default();
    windows.handle_request(ms(0), asks(1), EMPTY);
    let grant = windows.handle_request(ms(10), asks(2), EMPTY);
    assert!(grant.window == 0 && grant.ask_again <= LEASE, "{grant:?}");
    assert_eq!(windows.handle_request(ms(20), asks(1), EMPTY).window, BUFFER / 4);
    assert_eq!(windows.handle_request(ms(101), asks(2), EMPTY).window, BUFFER / 4);
}

#[test]
fn a_host_with_many_connections_gets_no_more_than_one_with_one() {
    let mut windows = Windows::default();
    let of_host_1 = |client| Demand { address: address(1), ..asks(client) };
    let all = [of_host_1(1), of_host_1(2), asks(3)];
    let mut last = [0; 3];
    for round in 0..5 {
        last = all.map(|demand| windows.handle_request(ms(round * 110), demand, EMPTY).window);
    }
    assert_eq!(last, [BUFFER / 8, BUFFER / 8, BUFFER / 4]);
}

#[test]
fn a_datagram_larger_than_half_the_buffer_goes_when_it_has_the_socket_to_itself() {
    let mut windows = Windows::default();
    let large = Demand { next_cost: BUFFER, ..asks(1) };
    assert_eq!(windows.handle_request(ms(0), large, Capacity { queue: 832, ..EMPTY }).window, 0);
    assert_eq!(windows.handle_request(ms(1), large, EMPTY).window, BUFFER);
}

#[test]
fn where_others_fill_the_buffer_clients_go_on() {
    let mut windows = Windows::default();
    let filled = Capacity { queue: BUFFER, ..EMPTY };
    assert_eq!(
        windows.handle_request(ms(0), asks(1), filled).window,
        SHARE_DATAGRAMS_MIN * SMALL,
        "it may yet be read"
    );
    let overflows = Capacity { overflows: true, ..filled };
    assert_eq!(windows.handle_request(ms(200), asks(1), overflows).window, BUFFER / 2, "it is lost anyway");
    let stands_still = Capacity { reads: false, ..overflows };
    assert_eq!(windows.handle_request(ms(400), asks(1), stands_still).window, 0, "more would only be lost");
}

#[test]
fn a_driver_that_charges_more_makes_the_buffer_count_as_smaller() {
    let mut windows = Windows::default();
    windows.handle_request(ms(0), Demand { unconfirmed_cost: 20_000, ..asks(1) }, EMPTY);
    windows.handle_queue(ms(200), 60_000, false);
    assert_eq!(windows.handle_request(ms(201), asks(1), EMPTY).window, BUFFER / 3 / 2);
    for _ in 0..5_000 {
        windows.handle_queue(ms(202), 0, false);
    }
    assert_eq!(windows.handle_request(ms(400), asks(1), EMPTY).window, BUFFER / 2, "it forgets slowly");
}

/// Lets clients that all have something to send contend for `millis`. Each asks again when it was told to. Returns how
/// much each was granted, and for how many milliseconds nobody had a window.
fn contend(clients: u8, per_address: u8, millis: u64) -> (Vec<u64>, u64) {
    let mut windows = Windows::default();
    let mut next = vec![ms(0); usize::from(clients)];
    let mut granted = vec![0; usize::from(clients)];
    let mut idle = 0;
    for at in 0..millis {
        for client in 0..clients {
            let index = usize::from(client);
            if next[index] <= ms(at) {
                let demand = Demand { address: address(client / per_address), ..asks(client) };
                let grant = windows.handle_request(ms(at), demand, EMPTY);
                granted[index] += grant.window;
                next[index] = ms(at) + grant.ask_again.max(Duration::from_millis(5));
            }
        }
        let booked = windows.booked(ms(at));
        assert!(booked <= BUFFER / 2, "{booked} granted at a time");
        idle += u64::from(booked == 0);
    }
    (granted, idle)
}

#[test]
fn hundreds_of_clients_take_turns_and_nobody_starves() {
    const MILLIS: u64 = 10_000;
    for (clients, per_address) in [(2, 1), (8, 1), (9, 1), (30, 1), (200, 1), (30, 30), (200, 50)] {
        let (granted, idle) = contend(clients, per_address, MILLIS);
        let (least, most) = (granted.iter().min().copied().unwrap_or(0), granted.iter().max().copied().unwrap_or(0));
        assert!(least > 0, "{clients} clients, {per_address} at an address: somebody got nothing");
        assert!(most <= 8 * least, "{clients} clients, {per_address} at an address: from {least} to {most}");
        assert!(
            idle <= MILLIS / 20,
            "{clients} clients, {per_address} at an address: nobody had a window for {idle} ms"
        );
    }
}

#[test]
fn one_that_is_to_ask_later_does_not_keep_a_turn_unused() {
    let mut windows = Windows::default();
    let brief = |client| Demand { lease: Duration::from_millis(1), ..asks(client) };
    let asked = (1..=40).map(|client| (client, windows.handle_request(ms(0), brief(client), EMPTY)));
    let (served, waiting): (Vec<_>, Vec<_>) =
        asked.collect::<Vec<_>>().into_iter().partition(|(_, grant)| grant.window > 0);
    for (client, _) in served {
        windows.handle_gone(client.into());
    }
    let [.., (second_last, _), (last, told)] = waiting[..] else { panic!("{waiting:?}") };
    assert!(told.ask_again > Duration::from_millis(100), "{told:?}");
    assert!(
        windows.handle_request(ms(2), brief(last), EMPTY).window > 0,
        "most of those before it are not about to ask"
    );
    assert_eq!(windows.handle_request(ms(300), brief(second_last), EMPTY).window, 0, "now they are");
}

#[test]
fn those_that_fall_silent_at_the_head_keep_nobody_waiting_for_long() {
    let mut windows = Windows::default();
    let mut next = 0;
    for client in 0..40 {
        windows.handle_request(ms(0), asks(client), EMPTY);
    }
    let first = (0..1_000).find(|&at| {
        next = (next + 1) % 10;
        windows.handle_request(ms(200 + at), asks(30 + next), EMPTY).window > 0
    });
    assert!(first.is_some(), "those before them are silent");
}

#[test]
fn one_behind_a_crowd_at_another_address_asks_again_soon() {
    let mut windows = Windows::default();
    for client in 0..40 {
        windows.handle_request(ms(0), Demand { address: address(1), ..asks(client) }, EMPTY);
    }
    let told = windows.handle_request(ms(0), Demand { address: address(2), ..asks(40) }, EMPTY);
    assert_eq!(told.window, 0);
    let last = windows.handle_request(ms(0), Demand { address: address(1), ..asks(41) }, EMPTY);
    assert!(told.ask_again < last.ask_again / 4, "{told:?}, and {last:?} for the last of the crowd");
}

#[test]
fn one_that_dies_in_its_turn_does_not_keep_the_others_waiting() {
    let mut windows = Windows::default();
    let clients: Vec<u8> = (1..=40).collect();
    let mut served = std::collections::HashSet::new();
    for at in (0..10_000).step_by(10) {
        for &client in clients.iter().filter(|&&client| client > 8 || at == 0) {
            if windows.handle_request(ms(at), asks(client), EMPTY).window > 0 {
                served.insert(client);
            }
        }
    }
    assert!((9..=40).all(|client| served.contains(&client)), "{served:?}");
}

/// One of many clients that hold datagrams, as the server sees it.
#[derive(Clone, Default)]
struct Holder {
    unsent: u64,
    /// Datagrams that are released and not confirmed. The last of them was released at `released`.
    open: u64,
    released: Time,
    next: Time,
    /// The moment when the oldest unsent datagram came, and the longest that such a datagram has waited.
    came: Time,
    longest: Duration,
}

impl Holder {
    /// Asks, and releases what it may. A heartbeat that begins a grace later confirms the released datagrams.
    fn ask(&mut self, now: Time, windows: &mut Windows, client: ConnectionId) {
        const GRACE: Duration = LAG_MAX;
        if now.since(self.released) >= GRACE {
            self.open = 0;
        }
        let octets = (client as u32).to_be_bytes();
        let demand = Demand {
            client,
            address: IpAddr::V4(Ipv4Addr::new(10, octets[1], octets[2], octets[3])),
            wants: self.unsent > 0,
            unconfirmed_cost: self.open * SMALL,
            ..asks(0)
        };
        let grant = windows.handle_demand(now, demand, self.unsent * SMALL, EMPTY);
        let sent = self.unsent.min((grant.window / SMALL).saturating_sub(self.open));
        if sent > 0 {
            self.longest = self.longest.max(now.since(self.came));
            (self.came, self.released) = (now, now);
        }
        (self.unsent, self.open) = (self.unsent - sent, self.open + sent);
        let covering = self.released + GRACE;
        self.next = match (self.unsent > 0, self.open > 0) {
            (true, _) => now + grant.ask_again.max(Duration::from_millis(2)),
            (false, true) if covering > now => covering,
            (false, _) => now + Duration::from_secs(1),
        };
    }
}

/// Lets the holders ask whenever they want to in these milliseconds, with remoted reading at once. `come` says which
/// holder gets a datagram in each millisecond.
fn live(windows: &mut Windows, holders: &mut [Holder], millis: Range<u64>, come: impl Fn(u64, usize) -> bool) {
    for at in millis {
        windows.handle_queue(ms(at), 0, false);
        for (index, holder) in holders.iter_mut().enumerate() {
            if come(at, index) {
                if holder.unsent == 0 {
                    holder.came = ms(at);
                    holder.next = ms(at);
                }
                holder.unsent += 1;
            }
            if holder.next <= ms(at) {
                holder.ask(ms(at), windows, index as ConnectionId);
            }
        }
    }
}

#[test]
fn two_hundred_that_come_back_at_once_are_rid_of_all_they_hold_in_half_a_minute() {
    let mut windows = Windows::default();
    let mut holders = vec![Holder { unsent: 200, ..Holder::default() }; 200];
    live(&mut windows, &mut holders, 0..15_000, |_, _| false);
    let (least, most) = holders.iter().map(|holder| holder.unsent).fold((200, 0), |(l, m), n| (n.min(l), n.max(m)));
    assert!(most <= 160, "somebody still holds {most} of 200 when another holds {least}");
    live(&mut windows, &mut holders, 15_000..30_000, |_, _| false);
    let left: u64 = holders.iter().map(|holder| holder.unsent).sum();
    assert_eq!(left, 0, "of 40,000");
}

#[test]
fn five_hundred_with_a_datagram_each_second_do_not_wait_for_one_another() {
    let mut windows = Windows::default();
    let mut holders = vec![Holder::default(); 500];
    live(&mut windows, &mut holders, 0..10_000, |at, index| at % 1_000 == 2 * index as u64);
    let longest = holders.iter().map(|holder| holder.longest).max().unwrap_or_default();
    assert!(longest < Duration::from_millis(150), "one waited for {longest:?}");
    assert!(holders.iter().all(|holder| holder.unsent == 0));
}

#[test]
fn what_has_landed_and_was_seen_read_takes_no_room_from_others() {
    let mut windows = Windows::default();
    let hold = |client| Demand { unconfirmed_cost: 100_000, ..asks(client) };
    windows.handle_request(ms(0), asks(1), EMPTY);
    windows.handle_request(ms(140), Demand { wants: false, ..hold(1) }, EMPTY);
    windows.handle_queue(ms(149), 0, false);
    let rest = BUFFER * USABLE_PERCENT / 100 - 100_000;
    assert_eq!(windows.handle_request(ms(149), asks(2), EMPTY).window, rest, "it may still be on its way");
    windows.handle_queue(ms(150), 0, false);
    assert_eq!(windows.handle_request(ms(150), asks(2), EMPTY).window, BUFFER / 2);
}

#[test]
fn what_is_sent_again_has_the_room_that_its_first_copies_leave() {
    let mut windows = Windows::default();
    windows.handle_request(ms(0), asks(1), EMPTY);
    let capacity = Capacity { queue: BUFFER / 2, ..EMPTY };
    let sent = Demand { unconfirmed_cost: BUFFER / 2, ..asks(1) };
    assert_eq!(windows.handle_request(ms(50), sent, capacity).window, BUFFER / 2, "what lies there is its own");
    let rest = BUFFER * USABLE_PERCENT / 100 - BUFFER / 2;
    assert_eq!(windows.handle_request(ms(60), asks(1), capacity).window, rest, "it begins again");
}

#[test]
fn those_that_stream_leave_a_share_to_one_that_comes_back() {
    let mut windows = Windows::default();
    let streams = |client, wants| Demand { wants, unconfirmed_cost: 20 * SMALL, ..asks(client) };
    let mut most = 0;
    for at in (0..400).step_by(10) {
        for client in [1, 2] {
            windows.handle_request(ms(at), streams(client, true), EMPTY);
            windows.handle_request(ms(at + 5), streams(client, false), EMPTY);
        }
        if at >= 100 {
            most = most.max(windows.handle_request(ms(at + 7), asks(3), EMPTY).window);
        }
    }
    assert!(most >= BUFFER / 2 / 3, "{most}");
}

#[test]
fn what_was_just_granted_comes_on_top_of_what_lies_in_the_queue() {
    let mut windows = Windows::default();
    let capacity = Capacity { queue: BUFFER / 2, ..EMPTY };
    let first = windows.handle_request(ms(0), asks(1), capacity).window;
    assert_eq!(first, BUFFER * USABLE_PERCENT / 100 - BUFFER / 2);
    assert_eq!(windows.handle_request(ms(1), asks(2), capacity).window, 0);
}

#[test]
fn nobody_gets_much_more_than_it_shows_a_need_for_while_there_are_others() {
    let mut windows = Windows::default();
    for client in 1..=100 {
        windows.handle_request(ms(0), Demand { wants: false, ..asks(client) }, EMPTY);
    }
    assert_eq!(windows.handle_demand(ms(1), asks(1), SMALL, EMPTY).window, BUFFER / 2 / 100);
    assert_eq!(windows.handle_demand(ms(1), asks(2), 9 * SMALL, EMPTY).window, 9 * SMALL);
    let streaming = Demand { unconfirmed_cost: 20 * SMALL, ..asks(3) };
    assert_eq!(windows.handle_demand(ms(1), streaming, SMALL, EMPTY).window, 41 * SMALL, "as much again");
}
