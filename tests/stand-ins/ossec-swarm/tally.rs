//! Sums over all clients.

use std::time::Duration;

use ossec_broker::proto::client::Counters;
use ossec_broker::proto::time::Time;

/// The confirmed datagrams of the least and of the most favoured client.
pub(crate) type Spread = (u64, u64);

/// Sums and moments.
#[derive(Debug)]
pub(crate) struct Tally {
    begun: Time,
    /// All datagrams that there will ever be.
    pub(crate) total: u64,
    pub(crate) confirmed: u64,
    /// The first release of any client, and the heartbeats until then.
    first: Option<(Time, u64)>,
    half: Option<(Time, Spread)>,
    pub(crate) heartbeats: u64,
    pub(crate) connections: u64,
}

impl Tally {
    pub(crate) const fn new(begun: Time) -> Self {
        Self { begun, total: 0, confirmed: 0, first: None, half: None, heartbeats: 0, connections: 0 }
    }

    /// The moment when the first datagram was released.
    pub(crate) fn first_release(&self) -> Option<Time> {
        self.first.map(|(at, _)| at)
    }

    /// Something was released.
    pub(crate) fn handle_release(&mut self, now: Time) {
        self.first.get_or_insert((now, self.heartbeats));
    }

    /// Half of everything has been confirmed and nobody has looked at the shares yet.
    pub(crate) const fn wants_half(&self) -> bool {
        self.half.is_none() && 2 * self.confirmed >= self.total
    }

    pub(crate) const fn handle_half(&mut self, now: Time, spread: Spread) {
        self.half = Some((now, spread));
    }

    /// The line that stands at the end.
    pub(crate) fn line(&self, now: Time, counters: &[Counters], longest_wait: Duration, most_unsent: u64) -> String {
        let sum = |of: fn(&Counters) -> u64| counters.iter().map(of).sum::<u64>();
        let (received, confirmed) = (sum(|one| one.received), sum(|one| one.confirmed));
        let dropped = sum(Counters::dropped_total);
        let (fewest, most) = spread(counters.iter().map(|one| one.confirmed));
        let (first, before) = self.first.unwrap_or((now, self.heartbeats));
        let (half, (half_fewest, half_most)) = self.half.unwrap_or((now, (0, 0)));
        let drained = now.since(first);
        let heartbeats = self.heartbeats - before;
        let names: [(&str, u128); 22] = [
            ("clients", counters.len() as u128),
            ("received", received.into()),
            ("confirmed", confirmed.into()),
            ("dropped", dropped.into()),
            ("left", received.saturating_sub(confirmed + dropped).into()),
            ("sent", sum(|one| one.sent).into()),
            ("copies", sum(|one| one.copies).into()),
            ("rewinds", sum(|one| one.rewinds).into()),
            ("refusals", sum(|one| one.refusals).into()),
            ("connections", self.connections.into()),
            ("half_fewest", half_fewest.into()),
            ("half_most", half_most.into()),
            ("fewest", fewest.into()),
            ("most", most.into()),
            ("first_ms", first.since(self.begun).as_millis()),
            ("half_ms", half.since(first).as_millis()),
            ("drained_ms", drained.as_millis()),
            ("per_s", u128::from(confirmed) * 1_000 / drained.as_millis().max(1)),
            ("longest_wait_ms", longest_wait.as_millis()),
            ("most_unsent", most_unsent.into()),
            ("heartbeats", heartbeats.into()),
            ("heartbeats_per_s", u128::from(heartbeats) * 1_000 / drained.as_millis().max(1)),
        ];
        names.map(|(name, value)| format!("{name} {value}")).join(" ")
    }
}

/// The least and the greatest of the numbers.
pub(crate) fn spread(confirmed: impl Iterator<Item = u64> + Clone) -> Spread {
    (confirmed.clone().min().unwrap_or(0), confirmed.max().unwrap_or(0))
}
