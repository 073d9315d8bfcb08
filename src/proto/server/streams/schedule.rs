//! The order in which streams inject. Streams take turns, and a newcomer has no turn until the streams that it follows
//! have nothing left.

use std::collections::{HashMap, HashSet, VecDeque};

use crate::proto::terms::StreamId;

/// The most datagrams of one stream in a row, so that one system call can send them. Then the next stream has its
/// turn.
pub(super) const TURN_DATAGRAMS: usize = 32;

/// The streams that have something to inject.
#[derive(Debug, Default)]
pub(super) struct Schedule {
    /// All streams that wait.
    waiting: HashSet<StreamId>,
    /// The waiting streams that follow no other stream, in the order of their turns.
    queue: VecDeque<StreamId>,
    /// The number of datagrams that the first stream has had in its turn.
    had: usize,
    /// The followers of each stream: they wait until it has nothing left.
    followers: HashMap<StreamId, Vec<StreamId>>,
    /// The number of streams that each follower waits for.
    leaders: HashMap<StreamId, usize>,
}

impl Schedule {
    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// The stream whose turn it is, and the number of datagrams left in its turn.
    pub(super) fn first(&self) -> Option<(StreamId, usize)> {
        self.queue.front().map(|&id| (id, TURN_DATAGRAMS - self.had))
    }

    /// The first stream has had `count` datagrams more.
    pub(super) fn handle_injected(&mut self, count: usize) {
        self.had += count;
        if self.had >= TURN_DATAGRAMS {
            self.had = 0;
            self.queue.rotate_left(1);
        }
    }

    /// This stream has something to inject.
    pub(super) fn join(&mut self, id: StreamId) {
        if self.waiting.insert(id) && !self.leaders.contains_key(&id) {
            self.queue.push_back(id);
        }
    }

    /// This stream has nothing to inject at the moment. It may have something again before its followers go on.
    pub(super) fn rest(&mut self, id: StreamId) {
        if self.queue.front() == Some(&id) {
            self.queue.pop_front();
            self.had = 0;
            self.waiting.remove(&id);
        } else if self.waiting.remove(&id) && !self.leaders.contains_key(&id) {
            self.queue.retain(|&other| other != id);
        }
    }

    /// This stream has nothing left: its followers go on.
    pub(super) fn leave(&mut self, id: StreamId) {
        self.rest(id);
        for follower in self.followers.remove(&id).unwrap_or_default() {
            if let Some(leaders) = self.leaders.get_mut(&follower) {
                *leaders -= 1;
                if *leaders == 0 {
                    self.leaders.remove(&follower);
                    self.queue.extend(self.waiting.get(&follower));
                }
            }
        }
    }

    /// Until this stream leaves, the newcomer has no turn.
    pub(super) fn follow(&mut self, newcomer: StreamId, leader: StreamId) {
        self.followers.entry(leader).or_default().push(newcomer);
        *self.leaders.entry(newcomer).or_default() += 1;
    }

    /// This stream is forgotten.
    pub(super) fn forget(&mut self, id: StreamId) {
        self.leave(id);
        if self.leaders.remove(&id).is_some() {
            self.followers.values_mut().for_each(|followers| followers.retain(|&follower| follower != id));
        }
    }
}
