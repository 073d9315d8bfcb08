//! Datagrams that were dropped from the middle: they lie on disk, and others before them are still held.

use std::collections::BTreeMap;

use crate::proto::terms::Seq;

/// Datagrams that were dropped, and nothing held between them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The first one.
    pub first: Seq,
    /// The number behind the last one.
    pub end: Seq,
}

/// All that were dropped.
#[derive(Debug, Default)]
pub(super) struct Struck {
    /// The end of each run by its first number. No two of them touch.
    runs: BTreeMap<Seq, Seq>,
}

impl Struck {
    pub(super) fn add(&mut self, Run { mut first, mut end }: Run) {
        if first >= end {
            return;
        }
        while let Some((&other, &its_end)) = self.runs.range(..=end).next_back()
            && its_end >= first
        {
            self.runs.remove(&other);
            (first, end) = (first.min(other), end.max(its_end));
        }
        self.runs.insert(first, end);
    }

    /// Whether one of these is at `from` or behind it, and below `until`.
    pub(super) fn has_any(&self, from: Seq, until: Seq) -> bool {
        from < until && self.runs.range(..until).next_back().is_some_and(|(_, &end)| end > from)
    }

    pub(super) fn has(&self, number: Seq) -> bool {
        self.has_any(number, number.next())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_has_the_numbers_of_all_runs_and_no_other(runs in prop::collection::vec((0..40_u64, 0..9_u64), 0..12)) {
            let mut struck = Struck::default();
            for &(first, count) in &runs {
                struck.add(Run { first: Seq(first), end: Seq(first + count) });
            }
            let has = |number| runs.iter().any(|&(first, count)| (first..first + count).contains(&number));
            for number in 0..60 {
                prop_assert_eq!(struck.has(Seq(number)), has(number), "{}", number);
                for until in number..60 {
                    prop_assert_eq!(struck.has_any(Seq(number), Seq(until)), (number..until).any(has));
                }
            }
            let apart = struck.runs.values().zip(struck.runs.keys().skip(1)).all(|(end, next)| end < next);
            prop_assert!(apart, "{:?}", struck);
        }
    }
}
