//! Rows and SQL of account keys, devices and prekeys. `accounts` is read in joins and written by `auth` alone.

mod prekey;

use chrono::{DateTime, NaiveTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::schema::{account_keys, accounts, devices};

pub use prekey::{Counts, Kind, NewPreKey, OneTimePreKey, SignedPreKey};

/// The key of an account.
pub struct AccountKey;

impl AccountKey {
    /// It, if the account has one.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Option<Vec<u8>>, Error> {
        Ok(account_keys::table.find(account_id).select(account_keys::public_key).first(conn).await.optional()?)
    }

    /// Gives one to an account that has none.
    pub async fn insert(conn: &mut Conn, account_id: Uuid, key: &[u8], now: DateTime<Utc>) -> Result<(), Error> {
        let row = (
            account_keys::account_id.eq(account_id),
            account_keys::public_key.eq(key),
            account_keys::created_at.eq(now),
        );
        diesel::insert_into(account_keys::table).values(row).execute(conn).await?;
        Ok(())
    }

    /// Takes it away, and the devices with it, of which it returns account and id.
    pub async fn delete(conn: &mut Conn, account_id: Uuid) -> Result<Vec<(Uuid, Uuid)>, Error> {
        let devices = diesel::delete(devices::table.filter(devices::account_id.eq(account_id)));
        let removed = devices.returning((devices::account_id, devices::device_id)).load(conn).await?;
        diesel::delete(account_keys::table.find(account_id)).execute(conn).await?;
        Ok(removed)
    }
}

/// A device.
#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = devices, primary_key(account_id, device_id))]
#[diesel(check_for_backend(Pg), treat_none_as_default_value = false)]
pub struct Device {
    pub account_id: Uuid,
    pub device_id: Uuid,
    pub registration_id: i64,
    pub identity_key: Vec<u8>,
    pub signing_key: Vec<u8>,
    pub signature: Vec<u8>,
    pub name: String,
    pub created_at: DateTime<Utc>,
    /// See [`day`].
    pub last_seen_at: DateTime<Utc>,
}

/// A device that was not seen for long.
#[derive(QueryableByName)]
struct Stale {
    #[diesel(sql_type = SqlUuid)]
    account_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    device_id: Uuid,
}

/// The day of a moment: of when a device was seen, nobody needs to know more.
pub fn day(now: DateTime<Utc>) -> DateTime<Utc> {
    now.date_naive().and_time(NaiveTime::MIN).and_utc()
}

impl Device {
    /// Whether both were registered with the same keys.
    pub fn has_keys_of(&self, other: &Self) -> bool {
        (&self.identity_key, &self.signing_key) == (&other.identity_key, &other.signing_key)
    }

    /// One of an account's.
    pub async fn find(conn: &mut Conn, account_id: Uuid, device_id: Uuid) -> Result<Option<Self>, Error> {
        let device = devices::table.find((account_id, device_id)).select(Self::as_select());
        Ok(device.first(conn).await.optional()?)
    }

    /// One of an account's, locked until the transaction ends: its prekeys are changed by one at a time.
    pub async fn lock(conn: &mut Conn, account_id: Uuid, device_id: Uuid) -> Result<Option<Self>, Error> {
        let device = devices::table.find((account_id, device_id)).select(Self::as_select()).for_no_key_update();
        Ok(device.first(conn).await.optional()?)
    }

    /// How many an account has.
    pub async fn count(conn: &mut Conn, account_id: Uuid) -> Result<i64, Error> {
        Ok(devices::table.filter(devices::account_id.eq(account_id)).count().get_result(conn).await?)
    }

    /// Those of an account, the oldest first.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Vec<Self>, Error> {
        let own = devices::table.filter(devices::account_id.eq(account_id));
        Ok(own.order((devices::created_at, devices::device_id)).select(Self::as_select()).load(conn).await?)
    }

    /// Those of these accounts, as far as they are active, the oldest of an account first, each with the account's key.
    pub async fn of_active(conn: &mut Conn, account_ids: &[Uuid]) -> Result<Vec<(Self, Vec<u8>)>, Error> {
        let active = devices::table
            .inner_join(accounts::table)
            .inner_join(account_keys::table)
            .filter(devices::account_id.eq_any(account_ids))
            .filter(accounts::state.eq("active"))
            .order((devices::account_id, devices::created_at, devices::device_id))
            .select((Self::as_select(), account_keys::public_key));
        Ok(active.load(conn).await?)
    }

    /// Account, device and registration id of those of these accounts, as far as they are active, in this order.
    pub async fn ids_of_active(conn: &mut Conn, account_ids: &[Uuid]) -> Result<Vec<(Uuid, Uuid, i64)>, Error> {
        let active = devices::table
            .inner_join(accounts::table)
            .filter(devices::account_id.eq_any(account_ids))
            .filter(accounts::state.eq("active"))
            .order((devices::account_id, devices::device_id))
            .select((devices::account_id, devices::device_id, devices::registration_id));
        Ok(active.load(conn).await?)
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(devices::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// Replaces all of it but its id. An error if it was removed meanwhile.
    pub async fn update(&self, conn: &mut Conn) -> Result<(), Error> {
        let device = devices::table.find((self.account_id, self.device_id));
        match diesel::update(device).set(self).execute(conn).await? {
            0 => Err(Error::new(Reason::ResourceConflict, "the device was removed at the same time")),
            _ => Ok(()),
        }
    }

    /// Notes that it was seen, once a day.
    pub async fn seen(&self, conn: &mut Conn, now: DateTime<Utc>) -> Result<(), Error> {
        let today = day(now);
        if self.last_seen_at < today {
            let device = devices::table.find((self.account_id, self.device_id));
            diesel::update(device).set(devices::last_seen_at.eq(today)).execute(conn).await?;
        }
        Ok(())
    }

    /// Deletes one of an account's with its prekeys. False when it has no such device.
    pub async fn delete(conn: &mut Conn, account_id: Uuid, device_id: Uuid) -> Result<bool, Error> {
        Ok(diesel::delete(devices::table.find((account_id, device_id))).execute(conn).await? == 1)
    }

    /// Deletes some of those that were last seen before then, as far as nobody else does just now; returns account and device.
    pub async fn delete_stale(
        conn: &mut Conn,
        before: DateTime<Utc>,
        limit: usize,
    ) -> Result<Vec<(Uuid, Uuid)>, Error> {
        let stale = diesel::sql_query(
            "DELETE FROM devices USING ( \
                 SELECT account_id, device_id FROM devices WHERE last_seen_at < $1 \
                 ORDER BY last_seen_at LIMIT $2 FOR UPDATE SKIP LOCKED) stale \
             WHERE devices.account_id = stale.account_id AND devices.device_id = stale.device_id \
             RETURNING devices.account_id, devices.device_id",
        );
        let stale = stale
            .bind::<Timestamptz, _>(before)
            .bind::<BigInt, _>(i64::try_from(limit).unwrap_or(i64::MAX))
            .load::<Stale>(conn)
            .await?;
        Ok(stale.into_iter().map(|row| (row.account_id, row.device_id)).collect())
    }
}
