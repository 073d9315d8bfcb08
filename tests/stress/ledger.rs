//! The fate of each datagram, by the rule of OSSEC: within one life of remoted a counter must be greater than the last
//! one.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

/// All agents, by name.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    agents: BTreeMap<String, Account>,
    /// Datagrams that the receiver's socket dropped in all its lives.
    pub(crate) drops: u32,
    /// Times that the receiver was started.
    pub(crate) lives: u32,
}

/// One agent.
#[derive(Debug, Default)]
struct Account {
    took: BTreeSet<u64>,
    /// Lost for good: a newer one had been accepted before.
    overtaken: BTreeSet<u64>,
    newest: u64,
    upstream: Option<SocketAddr>,
}

impl Ledger {
    /// A receiver starts: it knows no counters.
    pub(crate) fn begin_life(&mut self) {
        self.lives += 1;
        for account in self.agents.values_mut() {
            account.newest = 0;
        }
    }

    /// A datagram was read.
    pub(crate) fn take(&mut self, agent: &str, counter: u64, from: SocketAddr) {
        let account = self.agents.entry(agent.to_owned()).or_default();
        account.upstream = Some(from);
        if counter > account.newest {
            account.newest = counter;
            account.took.insert(counter);
        } else if !account.took.contains(&counter) {
            account.overtaken.insert(counter);
        }
    }

    /// The address to which replies to that agent go.
    pub(crate) fn upstream(&self, agent: &str) -> Option<SocketAddr> {
        self.agents.get(agent)?.upstream
    }

    /// Whether all counters up to `sent` were accepted, each at the latest when its turn came. The error says what is
    /// wrong.
    pub(crate) fn check(&self, agent: &str, sent: u64) -> Result<(), String> {
        let nothing = Account::default();
        let account = self.agents.get(agent).unwrap_or(&nothing);
        assert!(
            account.overtaken.is_subset(&account.took),
            "{agent}: overtaken, and so lost: {:?}",
            account.overtaken
        );
        let missing = (1..=sent).filter(|counter| !account.took.contains(counter));
        match (missing.clone().next(), missing.count()) {
            (None, _) => Ok(()),
            (Some(first), count) => Err(format!("{agent}: {count} of {sent} are missing, the first is {first}")),
        }
    }
}
