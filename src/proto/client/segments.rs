//! How large TCP's segments may be: smaller where large packets vanish on the way.
//!
//! A path may swallow every packet above some length without a word, as a tunnel does whose ICMP is filtered. TCP
//! connects over it, and greetings and heartbeats pass, since they are small. But the first full segment is sent again
//! and again, and nothing that follows it arrives. After a connection that falls silent at that point the next one has
//! smaller segments. The size is agreed upon when a connection is made, for both directions.

use std::time::Duration;

use crate::proto::time::Time;

/// The smaller sizes to try, one after the other. Every path of IPv6 takes packets of 1,280 bytes, and 60 to 72 of
/// them are headers; every host of IPv4 takes 576.
const SEGMENT_BYTES: [u16; 2] = [1_200, 500];
/// Time for which a smaller size holds, equal to the kernel's memory of a path. Then a new connection tries full
/// segments again.
const SMALL: Duration = Duration::from_mins(10);

/// The sent and acknowledged bytes of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sent {
    /// Bytes that were sent before the first full segment; `None` if there was none.
    pub first_full: Option<u64>,
    /// Bytes in a full segment.
    pub segment: u64,
    /// Bytes that the other host has acknowledged.
    pub acknowledged: u64,
    /// Bytes in a packet of the path, as far as the system knows.
    pub packet: u32,
}

impl Sent {
    /// Everything before the first full segment has arrived, but the segment has not. An outage looks like that only
    /// if it begins in that very moment.
    pub fn is_stuck(&self) -> bool {
        self.first_full.is_some_and(|before| (before..before + self.segment).contains(&self.acknowledged))
    }
}

/// The size for the next connection.
#[derive(Debug, Default)]
pub struct Segments {
    /// Number of sizes that were too large, the path's own included.
    too_large: usize,
    since: Time,
    /// Packets of this length did not get through, and that is not said yet.
    news: Option<u32>,
}

impl Segments {
    /// Bytes in a segment of a connection that is made at this moment; `None`: as large as the path takes.
    pub fn bytes_max(&mut self, now: Time) -> Option<u16> {
        if self.too_large > 0 && now.since(self.since) > SMALL {
            *self = Self::default();
        }
        SEGMENT_BYTES.get(self.too_large.checked_sub(1)?).copied()
    }

    /// A connection with segments of at most `bytes_max` has fallen silent.
    pub fn handle_silent(&mut self, now: Time, bytes_max: Option<u16>, sent: Sent) {
        if !sent.is_stuck() {
            return;
        }
        let tried = bytes_max.and_then(|bytes| SEGMENT_BYTES.iter().position(|&size| size == bytes));
        let too_large = (tried.map_or(0, |at| at + 1) + 1).min(SEGMENT_BYTES.len());
        if too_large > self.too_large {
            self.news = Some(sent.packet);
        }
        (self.too_large, self.since) = (self.too_large.max(too_large), now);
    }

    /// The length of packets that do not get through, once: a connection with smaller ones was made.
    pub const fn take_news(&mut self) -> Option<u32> {
        self.news.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: Sent = Sent { first_full: Some(300), segment: 1_448, acknowledged: 300, packet: 1_500 };

    const fn s(n: u64) -> Time {
        Time::from_millis(1_000 * n)
    }

    #[test]
    fn stuck_is_what_waits_for_its_first_full_segment_and_nothing_else() {
        let table = [
            ("all before it has arrived", FULL, true),
            ("the first full segment has arrived", Sent { acknowledged: 1_748, ..FULL }, false),
            ("it waits for a later one", Sent { acknowledged: 90_000, ..FULL }, false),
            ("it waits for a small one", Sent { acknowledged: 100, ..FULL }, false),
            ("there was none", Sent { first_full: None, ..FULL }, false),
        ];
        for (name, sent, stuck) in table {
            assert_eq!(sent.is_stuck(), stuck, "{name}");
        }
    }

    #[test]
    fn what_is_stuck_makes_the_next_segments_smaller_down_to_the_least() {
        let mut segments = Segments::default();
        assert_eq!(segments.bytes_max(s(0)), None);
        segments.handle_silent(s(1), None, Sent { acknowledged: 100, ..FULL });
        assert_eq!((segments.bytes_max(s(1)), segments.take_news()), (None, None), "an outage like any other");
        segments.handle_silent(s(2), None, FULL);
        assert_eq!(segments.bytes_max(s(2)), Some(1_200));
        assert_eq!((segments.take_news(), segments.take_news()), (Some(1_500), None), "it is said once");
        segments.handle_silent(s(3), None, FULL);
        assert_eq!(segments.bytes_max(s(3)), Some(1_200), "that was an attempt from before");
        let small = Sent { segment: 1_188, packet: 1_240, ..FULL };
        segments.handle_silent(s(4), Some(1_200), small);
        assert_eq!((segments.bytes_max(s(4)), segments.take_news()), (Some(500), Some(1_240)));
        segments.handle_silent(s(5), Some(500), small);
        assert_eq!((segments.bytes_max(s(5)), segments.take_news()), (Some(500), None), "there is no smaller one");
    }

    #[test]
    fn after_ten_minutes_full_segments_are_tried_again() {
        let mut segments = Segments::default();
        segments.handle_silent(s(0), None, FULL);
        assert_eq!(segments.bytes_max(s(600)), Some(1_200));
        assert_eq!(segments.bytes_max(s(601)), None);
    }
}
