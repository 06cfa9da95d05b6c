//! Archives of what is held about an account, and its erasure.
//!
//! Promises: an archive has everything that the list of parts names, as of one moment, and is there whole or not at all;
//! only its owner downloads it, who has proved lately who they are; an account that was deleted is of no use at once, can be
//! kept until its grace period is over, and is gone from Postgres and Redis soon after; what stays of it names nobody.
//!
//! What there is to export and erase is told by each domain (`kernel::personal_data`) and listed in `server::personal_data`.
//! This domain runs the list and knows no table of others.
//!
//! Others may call: [`delete_account`] (`users`).

mod archive;
mod erasure;
mod export;
mod mails;
mod model;
mod personal_data;
mod service;

pub mod jobs;

pub use erasure::delete_account;
pub use personal_data::PERSONAL_DATA;
pub use service::PrivacyService;
