//! Sessions in the order of their last words. So neither a datagram nor a newcomer costs a walk through all sessions.

use crate::proto::client::buffer::SessionId;

/// No neighbour. No session has this number.
const NONE: SessionId = SessionId::MAX;

/// Sessions by their places in the table, the longest silent one first.
#[derive(Debug, Default)]
pub(super) struct Recency {
    links: Vec<Link>,
    ends: Option<Ends>,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    before: SessionId,
    after: SessionId,
}

#[derive(Clone, Copy, Debug)]
struct Ends {
    first: SessionId,
    last: SessionId,
}

impl Recency {
    /// The session was heard at this moment. A session whose place follows the last one joins the list.
    pub(super) fn handle_heard(&mut self, id: SessionId) {
        if usize::from(id) < self.links.len() {
            if self.ends.is_some_and(|ends| ends.last == id) {
                return;
            }
            self.take_out(id);
        } else {
            self.links.push(Link { before: NONE, after: NONE });
        }
        let before = self.ends.map_or(NONE, |ends| ends.last);
        self.links[usize::from(id)] = Link { before, after: NONE };
        if let Some(neighbour) = self.links.get_mut(usize::from(before)) {
            neighbour.after = id;
        }
        self.ends = Some(Ends { first: self.ends.map_or(id, |ends| ends.first), last: id });
    }

    /// All sessions, the longest silent one first.
    pub(super) fn iter(&self) -> impl Iterator<Item = SessionId> {
        let first = self.ends.map(|ends| ends.first);
        std::iter::successors(first, |&id| Some(self.links[usize::from(id)].after).filter(|&after| after != NONE))
    }

    /// Takes out a session other than the last one, which stays where it is: others join behind it.
    fn take_out(&mut self, id: SessionId) {
        let Link { before, after } = self.links[usize::from(id)];
        if let Some(neighbour) = self.links.get_mut(usize::from(before)) {
            neighbour.after = after;
        }
        if let Some(neighbour) = self.links.get_mut(usize::from(after)) {
            neighbour.before = before;
        }
        if let Some(ends) = self.ends.as_mut().filter(|ends| ends.first == id) {
            ends.first = after;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_keeps_the_order_of_a_naive_list(heard in proptest::collection::vec(0..12u16, 0..200)) {
            let (mut recency, mut naive, mut places) = (Recency::default(), Vec::new(), 0);
            for id in heard {
                // Places join one after the other.
                let id = id.min(places);
                places = places.max(id + 1);
                recency.handle_heard(id);
                naive.retain(|&known| known != id);
                naive.push(id);
                prop_assert_eq!(recency.iter().collect::<Vec<_>>(), naive.clone());
            }
        }
    }
}
