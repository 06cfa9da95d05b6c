//! Roles: what accounts may do.
//!
//! Promises: what an account may do is decided without asking Postgres or Redis while nothing changed, and a change holds
//! on every node within a second; a denial wins over every allowance, but administrators hold everything; roles inherit
//! without cycles; nobody hands out what they don't hold; there is always an active administrator, once there was one.
//!
//! Others may call: [`Roles`] (the gate) and [`require_reach`] (`auth`).

mod casl;
mod change;
mod directory;
mod events;
mod graph;
mod model;
mod personal_data;
mod service;
mod wire;

pub mod jobs;

pub use change::require_reach;
pub use directory::Roles;
pub use personal_data::PERSONAL_DATA;
pub use service::RoleService;
