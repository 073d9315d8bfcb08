//! The outside world: sockets, processes, threads, files, rights. Everything that differs between systems lies here.

pub mod handover;
pub mod keyfile;
pub mod line;
pub mod net;
pub mod privileges;
pub mod remoted;
pub mod signals;
pub mod spool;
pub mod threads;
