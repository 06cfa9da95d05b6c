//! The public keys of end-to-end encryption: which devices an account has, and prekeys with which others begin sessions.
//!
//! Promises: a device is in the directory only with a signature of its account's key, and a prekey that is to be trusted only
//! with one of its device; a one-time prekey is handed out once, whoever asks at the same time; keys with which nothing would
//! be secret are refused; nobody learns of devices of somebody whom they may not write to; nobody drains another's prekeys.
//! What the server can't promise is in `docs/e2ee.md`. An account is told of its own devices that come and go, on its stream.
//!
//! Others may call: [`devices_of`] (`messaging`: for which devices a message has to be encrypted). The service calls
//! `messaging` and `users`; what they call is below it, so that the domains stay without a circle.

mod claim;
mod curve;
mod events;
mod model;
mod personal_data;
mod publish;
mod register;
mod service;
mod signed;
mod wire;

pub mod jobs;

use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;

pub use personal_data::PERSONAL_DATA;
pub use service::KeyService;

/// A device that messages are encrypted for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceRef {
    /// Whose.
    pub account_id: Uuid,
    /// Which. Unique for the account only.
    pub device_id: Uuid,
    /// Under which keys: another one after each time that they were made anew.
    pub registration_id: u32,
}

/// The devices of these accounts, in the order of account and device id. Accounts that are not active have none.
pub async fn devices_of(conn: &mut Conn, accounts: &[Uuid]) -> Result<Vec<DeviceRef>, Error> {
    let rows = model::Device::ids_of_active(conn, accounts).await?;
    let device = |(account_id, device_id, registration_id)| DeviceRef {
        account_id,
        device_id,
        registration_id: wire::number(registration_id),
    };
    Ok(rows.into_iter().map(device).collect())
}
