//! The broker between two hosts: real processes in network namespaces, a real cable that is cut, a receiver that dies.
//!
//! These tests need root, `ip`, `nft`, `ss`, `nc`, `rsyslogd`, `logger`, `prlimit`, `taskset`, `ethtool` and `bash`
//! (Debian: iproute2, nftables, netcat-openbsd, rsyslog, bsdutils, util-linux, ethtool, bash) and the examples beside
//! the binary:
//!
//! ```text
//! cargo build --examples && cargo test --features netns --test netns
//! ```
//!
//! Each scenario sends numbered datagrams and compares them with the journal of the stand-in for remoted. Counts are
//! compared, never times: a slow machine makes a test slow, not wrong. The scenarios take turns (`Scene` holds the
//! turn), so that one does not disturb the measurements of another. `--test-threads` makes no difference.
#![cfg(target_os = "linux")]

mod bench;
mod bench_spool;
mod descriptors;
mod half_open;
mod idle;
mod injection;
mod lies;
mod load;
mod network;
mod outages;
mod paths;
mod programs;
mod reach;
mod replies;
mod routes;
mod scene;
mod spool;
mod stops;
mod stream;
#[path = "../support/mod.rs"]
mod support;
mod swarm;
