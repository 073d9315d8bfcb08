//! Datagrams on disk: what is written and removed, and what an opening finds. It knows a folder, but no file.
//!
//! | room | what for |
//! |---|---|
//! | [`keeper`] | runs errands over the log |
//! | [`log`] | segments as one log: appended to, read, forgotten |
//! | [`open`] | what earlier processes have left |
//! | [`segment`], `walk` | records behind a header; a walk that survives any damage |
//! | [`record`] | one record: a datagram, or something that must survive beside it |
//! | [`records`], [`folder`] | datagrams on their way; what is asked of a disk |
//! | [`struck`] | datagrams on disk that are held no more |
//!
//! **Numbers.** Each process begins a *generation*: the upper 24 bits of its datagrams' numbers, the lower 40 count.
//! The generation is on disk before the first number is given, so no two datagrams of a stream ever have the same
//! number.

pub mod folder;
pub mod keeper;
pub mod log;
pub mod open;
pub mod record;
pub mod records;
pub mod segment;
pub mod struck;
mod walk;
