//! The search: one walk over `/proc`, some microseconds for each process there is.

pub(super) mod candidates;
pub(super) mod claim;

use super::diag::Diag;
use super::found::{Companion, Found};
use super::proc::{Proc, Surroundings};
use super::socket::{Family, Namespace, PortSocket, inodes};
use super::vouch::Doubt;
use super::wanted::{Names, Wanted};
use crate::proto::server::judge::Binding;
use candidates::Candidates;
use claim::{Claim, listed, narrowed};

/// Looks for remoted again and again.
#[derive(Debug)]
pub struct Searcher {
    wanted: Wanted,
    /// Kept between searches: each attempt to ask the kernel may make it look for a module.
    diag: Diag,
}

impl Searcher {
    /// A searcher that has not looked yet.
    pub fn new(wanted: Wanted) -> Self {
        Self { diag: Diag::new(wanted.port), wanted }
    }

    /// Looks for remoted and the processes that belong to it. Takes milliseconds: not for the serving loop.
    pub fn search(&mut self) -> Found {
        let mut v6 = Vec::new();
        // A socket that the kernel does not tell of counts as dual-stack.
        self.diag.dump(Family::V6, &mut v6);
        v6.retain(|seen| seen.binding == Binding::AllOfV6);
        search_in(&Proc::new(), &self.wanted, &inodes(&v6))
    }
}

/// Searches a proc file system. `v6_only`: the inodes of our network namespace's sockets that take no IPv4.
pub(super) fn search_in(proc: &Proc, wanted: &Wanted, v6_only: &[u64]) -> Found {
    let mut ours = listed(proc, Namespace::Ours, wanted.port).unwrap_or_default();
    for seen in ours.iter_mut().filter(|seen| v6_only.contains(&seen.socket.inode)) {
        seen.binding = Binding::AllOfV6;
    }
    // Process 1 is always there.
    let is_blind = proc.comm(1).is_none();
    let mut found = Found { buffer_default_bytes: proc.rmem_default_bytes(), is_blind, ..Found::default() };
    found.know(&ours);
    let candidates = Candidates::find(proc, wanted, &mut found);
    if wanted.names == Names::Any {
        found.port_alone = true;
        found.watch(&narrowed(&ours, &ours, wanted));
        found.required = candidates.required(wanted, None);
    } else {
        let claims: Vec<_> = candidates.accepted().map(|it| Claim::of(it, proc, &ours, wanted)).collect();
        settle(&mut found, proc, &claims);
        let is_owner = |claim: &&Claim<'_>| found.owners.contains(&claim.candidate.process);
        let remoted = claims.iter().find(is_owner).or(claims.first()).map(|claim| claim.candidate);
        found.companion = remoted.map_or(Companion::NotExpected, |remoted| candidates.companion_of(remoted));
        found.required = candidates.required(wanted, remoted);
    }
    found.bindings = found.bindings_of(&ours);
    found
}

/// Takes over the claims to sockets of our network namespace; if there are none, the claims to others.
fn settle(found: &mut Found, proc: &Proc, claims: &[Claim<'_>]) {
    let is_ours = |seen: &PortSocket| seen.namespace == Namespace::Ours;
    let at_home = claims.iter().any(|claim| claim.sockets.iter().any(is_ours));
    let mut first: Option<Surroundings> = None;
    for claim in claims {
        let process = claim.candidate.process;
        found.know(&claim.visible);
        let sockets: Vec<_> = claim.sockets.iter().copied().filter(|seen| is_ours(seen) == at_home).collect();
        if !sockets.is_empty() {
            found.owners.push(process);
            found.watch(&sockets);
            let its = proc.surroundings(process.pid);
            found.scattered |= !first.get_or_insert_with(|| its.clone()).are_beside(&its);
        } else if claim.is_unreadable {
            found.doubt(process.pid, Doubt::Unreadable);
        } else if claim.is_elsewhere {
            found.elsewhere.push(process);
        } else if claim.sockets.is_empty() {
            found.bare.push(process);
        }
    }
    found.owners.sort_unstable();
}
