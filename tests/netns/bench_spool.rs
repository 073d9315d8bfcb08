//! Benchmarks of the spool: how fast it takes and gives, and what it costs. They print figures and compare the figures
//! of one run. `scripts/bench` runs them, the tests do not.

use crate::bench::{LARGE_BUFFER, LISTEN, now};
use crate::scene::{AGENT, Scene, example};
use crate::spool::{spool, wait_until_on_disk};
use crate::support::namespaces::Side;

fn start_client(scene: &mut Scene, options: &[&str]) {
    scene.start_client_at(Side::Server, &[&["--server", "127.0.0.1", "--listen", LISTEN], options].concat());
}

fn send(scene: &mut Scene, count: u64, rate: u64, size: &str) -> f64 {
    let (count, rate) = (count.to_string(), rate.to_string());
    let options =
        ["--agent", AGENT, "--count", &count, "--rate", &rate, "--server", LISTEN, "--size", size, "--linger-ms", "0"];
    let begun = now();
    let mut agent = scene.start(Side::Server, example("ossec-agent"), "agent", &options);
    assert!(agent.wait().success(), "the agent fails");
    begun.elapsed().as_secs_f64()
}

#[test]
#[ignore = "a benchmark: scripts/bench runs it"]
fn a_spool_takes_and_gives_more_than_remoted_reads() {
    println!(
        "| --spool-sync | bytes | datagrams/s in | CPU, us per datagram | bytes written per byte held | \
         datagrams/s out | the same from memory |\n|---|---|---|---|---|---|---|"
    );
    for (sync, size, count) in [("interval", 150, 1_000_000), ("interval", 300, 1_000_000), ("always", 300, 300_000)] {
        let size = format!("{size}");
        let mut scene = Scene::empty();
        let path = spool(&scene);
        start_client(&mut scene, &["--spool", &path, "--spool-size", "4GiB", "--spool-sync", sync]);
        let seconds = send(&mut scene, count, 150_000, &size);
        wait_until_on_disk(&path, count);
        let client = scene.client();
        let (cpu, written) = (client.processor_ms(), client.written_bytes());
        let out = scene.drained(&LARGE_BUFFER, count);
        // One scene at a time.
        drop(scene);
        let mut memory = Scene::empty();
        start_client(&mut memory, &["--buffer", "1GiB"]);
        send(&mut memory, count, 150_000, &size);
        let from_memory = memory.drained(&LARGE_BUFFER, count);
        let held = count * size.parse::<u64>().expect("a number");
        println!(
            "| {sync} | {size} | {:.0} | {:.2} | {:.2} | {out:.0} | {from_memory:.0} |",
            count as f64 / seconds,
            cpu as f64 * 1_000.0 / count as f64,
            written as f64 / held as f64
        );
        assert!(out > 0.8 * from_memory, "the disk is the limit");
    }
}

#[test]
#[ignore = "a benchmark: scripts/bench runs it"]
fn a_good_link_writes_nothing_and_a_small_buffer_holds_an_hour() {
    let mut scene = Scene::empty();
    let path = spool(&scene);
    scene.start_remoted_and_wait(&[]);
    scene.start_server(&[]);
    scene.wait_until_up();
    start_client(&mut scene, &["--spool", &path]);
    send(&mut scene, 1_000, 500, "150");
    let before = scene.client().written_bytes();
    // Half a minute, and another.
    send(&mut scene, 15_000, 500, "150");
    send(&mut scene, 15_000, 500, "150");
    let written = scene.client().written_bytes() - before;
    println!("| 500/s for a minute over a good link: bytes written | {written} |");
    drop(scene);

    let mut scene = Scene::empty();
    let path = spool(&scene);
    start_client(&mut scene, &["--buffer", "256KiB", "--spool", &path]);
    send(&mut scene, 10, 50, "150");
    let idle = scene.client().resident_kib();
    send(&mut scene, 90_000, 2_000, "150");
    send(&mut scene, 90_000, 2_000, "150");
    wait_until_on_disk(&path, 180_010);
    let full = scene.client().resident_kib();
    println!("| an hour of 50/s with --buffer 256KiB: KiB of memory more than idle | {} |", full.saturating_sub(idle));
    assert_eq!(written, 0, "a good link leaves the disk alone");
    assert!(full < idle + 1_024, "a small host has no more");
}
