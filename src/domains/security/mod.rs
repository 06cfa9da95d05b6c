//! Security events and the alerts that they raise.
//!
//! Promises: recording an event costs a call nothing that it notices ([`crate::kernel::security`]); a kind and a subject have
//! one unresolved alert, however many nodes count; each time that an alert is raised or gets worse, mail and webhook are told
//! of it, by jobs of the same transaction; whoever watches and comes back gets exactly the changes that it missed.
//!
//! Others call [`crate::kernel::app::Shared::security`], and nothing here.

mod alerts;
mod live;
mod model;
mod notices;
mod personal_data;
mod service;
mod travel;
mod webhook;
mod wire;
mod writer;

pub mod jobs;

pub use live::Live;
pub use personal_data::PERSONAL_DATA;
pub use service::SecurityService;
pub use writer::Writer;
