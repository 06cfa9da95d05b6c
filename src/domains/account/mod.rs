//! What concerns an account, on one stream, and the streams that an account has open.
//!
//! Promises: an account's events are numbered without a hole; whoever comes back with the last number gets exactly what was
//! missed, then what happens, on any node, with or without Redis; every open stream is listed, on whichever node it is, and
//! ends when its account wants it to; a client that does not read costs a bounded amount of memory; nobody learns more of who
//! is there, or was, than the others' privacy settings allow.
//!
//! What the events are, and how they are appended, is in [`crate::kernel::account_events`]: every domain calls that, and nothing
//! here.

mod connections;
mod model;
mod personal_data;
mod presence;
mod service;
mod stream;
mod wire;

pub mod jobs;

pub use connections::Connections;
pub use personal_data::PERSONAL_DATA;
pub use service::AccountService;
