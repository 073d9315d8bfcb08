//! The real core against a made-up world: agents, a network that fails, remoted with its counter rule, on virtual time from one seed.
//!
//! `SEEDS=1000 FIRST=1 cargo test --release --test simulation` runs more of them; `SEED=42` runs one with a trace.

mod plan;
mod promise;
mod random;
mod remoted;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::{Fault, Plan};
use world::World;

/// What may reach remoted twice for each rewind: a window of half a default buffer of the smallest datagrams, and a batch under way.
const COPIES_PER_REWIND_MAX: u64 = 128 + 64;

/// Runs a plan; what was wrong with it.
fn run(plan: &Plan, trace: bool) -> Vec<String> {
    let mut world = World::new(plan, trace);
    world.run();
    world.ledger.settle();
    let (copies, rewinds) = world.copies();
    let ledger = &mut world.ledger;
    if ledger.copies > copies + ledger.duplicated {
        ledger.complaints.push(format!("{} copies arrived, {copies} were meant", ledger.copies));
    }
    if copies > rewinds * COPIES_PER_REWIND_MAX {
        ledger.complaints.push(format!("{copies} copies after {rewinds} rewinds"));
    }
    let flood = plan.faults.iter().any(|timed| matches!(timed.fault, Fault::Flood(_)));
    if ledger.overflows > 0 && !flood && plan.lag == 0 {
        ledger.complaints.push(format!("{} drops at remoted's socket, and nobody else sends", ledger.overflows));
    }
    std::mem::take(&mut ledger.complaints)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name} is no number")))
}

/// Leaves out one fault after the other for as long as the plan still fails.
fn shrink(plan: &Plan) -> Plan {
    let mut small = plan.clone();
    let mut at = 0;
    while at < small.faults.len() {
        let mut fewer = small.clone();
        fewer.faults.remove(at);
        if fails(&fewer) { small = fewer } else { at += 1 }
    }
    small
}

fn fails(plan: &Plan) -> bool {
    catch_unwind(AssertUnwindSafe(|| !run(plan, false).is_empty())).unwrap_or(true)
}

#[test]
fn the_promise_holds_whatever_happens() {
    if let Some(seed) = number("SEED") {
        let plan = Plan::of(seed);
        println!("{plan:#?}");
        let complaints = run(&plan, true);
        assert!(complaints.is_empty(), "{complaints:#?}");
        return;
    }
    let first = number("FIRST").unwrap_or(1);
    let count = number("SEEDS").unwrap_or(2_000);
    let mut failed = Vec::new();
    for seed in first..first + count {
        let plan = Plan::of(seed);
        if fails(&plan) {
            failed.push(seed);
        }
    }
    println!("{count} seeds from {first}: {} failed: {:?}", failed.len(), &failed[..failed.len().min(20)]);
    if let Some(&seed) = failed.first() {
        let small = shrink(&Plan::of(seed));
        println!("seed {seed}, shrunk: {small:#?}");
        println!("{:?}", run(&small, true));
        panic!("{} of {count} seeds failed, the first is {seed}", failed.len());
    }
}
