//! The real core against a made-up world: agents, a network that fails, remoted with its counter rule, on virtual time
//! from one seed.
//!
//! `SEEDS=1000 FIRST=1 cargo test --profile simulation --test simulation` runs more seeds; `SEED=42` runs one seed
//! with a trace. `scripts/soak` runs many, `scripts/figures` prints the tables of `docs/reliability.md`.

mod bursts;
mod clones;
mod damage;
mod disk;
mod figures;
mod log;
mod plan;
mod promise;
mod random;
mod rates;
mod remoted;
mod translation;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use plan::Plan;
use promise::Sums;
use world::{Way, World};

/// Runs a plan. Returns the sums and the complaints.
fn run(plan: &Plan, trace: bool) -> (Sums, Vec<String>) {
    let mut world = World::new(plan, Way::Broker, trace);
    world.run();
    (world.ledger.sums(), std::mem::take(&mut world.ledger.complaints))
}

/// More failed seeds than this say nothing new.
const FAILED_MAX: usize = 10;

/// Runs a plan and returns the sums and the complaints. A panic of the core counts as a complaint.
fn outcome(plan: &Plan) -> (Sums, Vec<String>) {
    let caught = catch_unwind(AssertUnwindSafe(|| run(plan, false)));
    caught.unwrap_or_else(|_| (Sums::default(), vec!["it panicked".to_owned()]))
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
        if outcome(&fewer).1.is_empty() { at += 1 } else { small = fewer }
    }
    small
}

#[test]
fn the_promise_holds_whatever_happens() {
    explore(Plan::of);
}

#[test]
fn nothing_is_lost_over_tcp_whatever_happens() {
    explore(|seed| Plan::of(seed).over_tcp());
}

#[test]
fn the_promise_holds_with_a_spool_whatever_happens() {
    explore(|seed| Plan::of(seed).with_spool());
}

#[test]
fn nothing_is_lost_over_tcp_with_a_spool_whatever_happens() {
    explore(|seed| Plan::of(seed).over_tcp().with_spool());
}

/// Runs as many seeds as asked for, or one with a trace.
fn explore(plan_of: impl Fn(u64) -> Plan) {
    if let Some(seed) = number("SEED") {
        let plan = plan_of(seed);
        println!("{plan:#?}");
        let (sums, complaints) = run(&plan, true);
        assert!(complaints.is_empty(), "{complaints:#?} {sums:?}");
        return;
    }
    let first = number("FIRST").unwrap_or(1);
    let count = number("SEEDS").unwrap_or(2_000);
    let mut sums = Sums::default();
    let mut failed = Vec::new();
    for seed in first..first + count {
        let plan = plan_of(seed);
        let (more, complaints) = outcome(&plan);
        sums.add(more);
        if !complaints.is_empty() {
            println!("seed {seed}: {complaints:?}");
            failed.push(seed);
            if failed.len() == FAILED_MAX {
                break;
            }
        }
    }
    println!("{count} seeds from {first}, {} failed: {sums:?}", failed.len());
    if let Some(&seed) = failed.first() {
        let small = shrink(&plan_of(seed));
        println!("seed {seed}, shrunk: {small:#?}");
        println!("{:?}", run(&small, true).1);
        panic!("{} of {count} seeds failed, the first is {seed}", failed.len());
    }
}
