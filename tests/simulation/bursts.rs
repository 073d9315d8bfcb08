//! Bursts into a small buffer with a spool, while the link is down.

use std::net::SocketAddr;
use std::time::Duration;

use ossec_broker::proto::client::spool::keeper::{Errand, Keeper};
use ossec_broker::proto::client::spool::log::datagram_bytes_max;
use ossec_broker::proto::client::spool::records::Records;
use ossec_broker::proto::client::{ClientCore, Config, Origin, SyncPolicy};
use ossec_broker::proto::time::Time;

use crate::disk::Disk;
use crate::log::{CLOCK, open};
use crate::random::Random;

const SPOOL_BYTES: u64 = 64 << 20;
/// The disk takes so long for each errand.
const ERRAND: Duration = Duration::from_millis(20);
const DATAGRAM_BYTES: u64 = 150;

/// How many of the datagrams are dropped that come in in each of these milliseconds.
fn dropped(buffer_bytes: usize, arrivals: impl Iterator<Item = u64>) -> u64 {
    let (log, found) = open(Disk::new(Random::new(1)), SPOOL_BYTES);
    let mut keeper = Keeper::new(log, true);
    let config = Config { buffer_bytes, ..Config::default() };
    let mut core = ClientCore::reopen(config, SyncPolicy::Interval, &found, datagram_bytes_max(SPOOL_BYTES));
    let origin = Origin { agent: SocketAddr::from(([127, 0, 0, 1], 4_000)), local: None };
    let mut records = Records::default();
    let mut under_way: Option<(Errand, Time)> = None;
    for (count, at) in arrivals.zip(1_000_000..) {
        let now = Time::from_millis(at);
        (0..count).for_each(|_| core.handle_datagram(now, origin, &[7; DATAGRAM_BYTES as usize]));
        if let Some((errand, _)) = under_way.take_if(|(_, since)| now.since(*since) >= ERRAND) {
            let report = keeper.run(errand, CLOCK, &mut records);
            core.handle_errand(now, errand, &records, &report);
        }
        if under_way.is_none() {
            let errand = core.poll_spool(now, &mut records);
            under_way = Some((errand, now)).filter(|_| errand != Errand::Wait);
        }
    }
    core.snapshot(Time::from_millis(2_000_000)).counters.dropped_total()
}

#[test]
fn a_small_buffer_takes_as_much_as_an_idle_disk_for_as_long_as_that_has_room() {
    for buffer_bytes in [64 << 10, 256 << 10, 1 << 20] {
        // A steady stream: so much that the disk is asked for a tenth of the buffer each time.
        let each = buffer_bytes as u64 / 10 / ERRAND.as_millis() as u64 / DATAGRAM_BYTES;
        let lost = dropped(buffer_bytes, std::iter::repeat_n(each.max(1), 10_000));
        assert_eq!(lost, 0, "of {each} in a millisecond, with {buffer_bytes} bytes");
        // Bursts of half the buffer at once, with pauses.
        let burst = buffer_bytes as u64 / 2 / DATAGRAM_BYTES;
        let bursts = (0..10_000).map(|at| if at % 1_500 == 0 { burst } else { 0 });
        assert_eq!(dropped(buffer_bytes, bursts), 0, "of bursts of {burst}, with {buffer_bytes} bytes");
    }
}
