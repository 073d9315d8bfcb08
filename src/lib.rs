//! wip
pub mod buffer;
pub mod check;
pub mod cli;
pub mod client;
pub mod link;
pub mod logging;
pub mod net;
pub mod relay;
pub mod remoted;
pub mod server;
pub mod threads;
pub mod time;
pub mod verdict;
pub mod wire;
