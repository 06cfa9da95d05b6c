//! The domains. Each promises something in its `mod.rs`; its tables are touched by its `model.rs` alone.

pub mod account;
pub mod auth;
pub mod keys;
pub mod messaging;
pub mod passkeys;
pub mod privacy;
pub mod roles;
pub mod security;
pub mod two_factor;
pub mod users;
