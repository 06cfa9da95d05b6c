//! What an account is told of its devices.

use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::model::Device;
use super::wire::number;
use crate::kernel::account_events::{self, Announcement, Event};
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::account::v1::{DeviceAdded, DeviceRemoved};

/// A device was added, or has new keys. Last in the transaction.
pub async fn added(conn: &mut Conn, device: &Device, now: DateTime<Utc>) -> Result<Announcement, Error> {
    let event = Event::DeviceAdded(DeviceAdded {
        device_id: device.device_id.to_string(),
        registration_id: number(device.registration_id),
        name: device.name.clone(),
    });
    account_events::append(conn, &[(device.account_id, event)], now).await
}

/// Devices (account, device) were removed. Last in the transaction.
pub async fn removed(conn: &mut Conn, devices: &[(Uuid, Uuid)], now: DateTime<Utc>) -> Result<Announcement, Error> {
    let event = |(account_id, device_id): &(Uuid, Uuid)| {
        (*account_id, Event::DeviceRemoved(DeviceRemoved { device_id: device_id.to_string() }))
    };
    account_events::append(conn, &devices.iter().map(event).collect::<Vec<_>>(), now).await
}
