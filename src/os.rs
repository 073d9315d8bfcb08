//! The outside world: sockets, processes, threads, files, rights. Everything that differs between systems lies here.
//!
//! | room | what for |
//! |---|---|
//! | [`net`] | sockets, the clock, batches of datagrams, TCP connections that carry frames |
//! | [`remoted`] | remoted's processes and sockets, as the system shows them |
//! | [`threads`], [`signals`] | named and joined threads, doorbells, the stop |
//! | [`keyfile`], [`privileges`] | a key from a file; another user instead of root |
//! | [`mod@line`] | a line of the log |

pub mod keyfile;
pub mod line;
pub mod net;
pub mod privileges;
pub mod remoted;
pub mod signals;
pub mod threads;
