//! wip
pub mod time;
pub mod wire;
pub mod buffer;
pub mod link;
pub mod relay;
pub mod verdict;
pub mod net;
pub mod threads;
pub mod remoted;
pub mod client;
pub mod server;
pub mod check;
pub mod cli;
pub mod logging;
