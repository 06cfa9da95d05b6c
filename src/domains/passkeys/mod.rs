//! Passkeys: WebAuthn credentials, with which an account logs in without a password, or which follow it.
//!
//! Promises: a ceremony works once, for five minutes, and for who began it alone; the authenticator has verified its user
//! each time; a passkey whose signature counter goes backwards is refused; a session alone neither adds nor takes one.
//!
//! Others may call: [`Assertion`] (`auth`, at login), [`count`] (`auth` and `two_factor`: whether there is a second factor) and
//! [`delete_all`] (`two_factor`, when everything is reset). Here only the service calls `auth` and `two_factor`, and what
//! those call is below it, so that the domains stay without a circle.

mod assertion;
mod model;
mod personal_data;
mod relying_party;
mod service;
mod wire;

pub mod jobs;

use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;

pub use assertion::Assertion;
pub use model::Purpose;
pub use personal_data::PERSONAL_DATA;
pub use service::PasskeyService;

/// How many passkeys an account has.
pub async fn count(conn: &mut Conn, account_id: Uuid) -> Result<i64, Error> {
    model::Passkey::count(conn, account_id).await
}

/// Takes all passkeys from an account. To be called in a transaction that has locked it.
pub async fn delete_all(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
    model::Passkey::delete_all(conn, account_id).await
}
