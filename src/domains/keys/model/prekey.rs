//! Prekeys: the signed ones, and those for one use.

use chrono::{DateTime, Utc};
use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Binary, Nullable, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Device;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::schema::{devices, one_time_prekeys, signed_prekeys};

/// What a prekey is for. The two have ids of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// X25519 (RFC 7748).
    X25519,
    /// ML-KEM-768 (FIPS 203).
    MlKem768,
}

impl Kind {
    /// As it is stored.
    pub fn name(self) -> &'static str {
        match self {
            Self::X25519 => "x25519",
            Self::MlKem768 => "ml_kem_768",
        }
    }

    /// How many one-time prekeys of the kind a device keeps. Those of ML-KEM are 37 times as large.
    pub fn most(self) -> i64 {
        match self {
            Self::X25519 => 200,
            Self::MlKem768 => 100,
        }
    }
}

/// A prekey that a device publishes.
pub struct NewPreKey {
    pub key_id: u32,
    pub public_key: Vec<u8>,
    /// One-time X25519 keys have none.
    pub signature: Option<Vec<u8>>,
}

/// A prekey that is handed out as often as it is asked for. A device has one of each kind.
#[derive(Queryable, Selectable)]
#[diesel(table_name = signed_prekeys, check_for_backend(Pg))]
pub struct SignedPreKey {
    pub account_id: Uuid,
    pub device_id: Uuid,
    pub kind: String,
    pub key_id: i64,
    pub public_key: Vec<u8>,
    pub signature: Vec<u8>,
    pub set_at: DateTime<Utc>,
}

impl SignedPreKey {
    /// Puts one in the place of the one that the device has.
    pub async fn set(
        conn: &mut Conn,
        device: &Device,
        kind: Kind,
        key: &NewPreKey,
        now: DateTime<Utc>,
    ) -> Result<(), Error> {
        let values = (
            signed_prekeys::key_id.eq(i64::from(key.key_id)),
            signed_prekeys::public_key.eq(&key.public_key),
            signed_prekeys::signature.eq(key.signature.as_deref().unwrap_or_default()),
            signed_prekeys::set_at.eq(now),
        );
        let owner = (
            signed_prekeys::account_id.eq(device.account_id),
            signed_prekeys::device_id.eq(device.device_id),
            signed_prekeys::kind.eq(kind.name()),
        );
        diesel::insert_into(signed_prekeys::table)
            .values((owner, values))
            .on_conflict((signed_prekeys::account_id, signed_prekeys::device_id, signed_prekeys::kind))
            .do_update()
            .set(values)
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Those of these devices, each with the registration id that its device has in the same moment. Device ids are unique for
    /// an account only, so there may be more.
    pub async fn of(conn: &mut Conn, account_ids: &[Uuid], device_ids: &[Uuid]) -> Result<Vec<(Self, i64)>, Error> {
        let same_account = devices::account_id.eq(signed_prekeys::account_id);
        let keys = signed_prekeys::table
            .inner_join(devices::table.on(same_account.and(devices::device_id.eq(signed_prekeys::device_id))))
            .filter(signed_prekeys::account_id.eq_any(account_ids))
            .filter(signed_prekeys::device_id.eq_any(device_ids))
            .select((Self::as_select(), devices::registration_id));
        Ok(keys.load(conn).await?)
    }
}

/// How many one-time prekeys of each kind a device has.
pub struct Counts {
    pub x25519: i64,
    pub ml_kem_768: i64,
}

/// A prekey that is handed out once.
#[derive(QueryableByName)]
#[diesel(check_for_backend(Pg))]
pub struct OneTimePreKey {
    #[diesel(sql_type = SqlUuid)]
    pub account_id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub device_id: Uuid,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = BigInt)]
    pub key_id: i64,
    #[diesel(sql_type = Binary)]
    pub public_key: Vec<u8>,
    #[diesel(sql_type = Nullable<Binary>)]
    pub signature: Option<Vec<u8>>,
}

impl OneTimePreKey {
    /// Those of a device that have one of these ids, handed out or not: their ids and keys.
    pub async fn known(
        conn: &mut Conn,
        device: &Device,
        kind: Kind,
        ids: &[i64],
    ) -> Result<Vec<(i64, Vec<u8>)>, Error> {
        let known = one_time_prekeys::table
            .filter(one_time_prekeys::account_id.eq(device.account_id))
            .filter(one_time_prekeys::device_id.eq(device.device_id))
            .filter(one_time_prekeys::kind.eq(kind.name()))
            .filter(one_time_prekeys::key_id.eq_any(ids))
            .select((one_time_prekeys::key_id, one_time_prekeys::public_key));
        Ok(known.load(conn).await?)
    }

    /// How many a device has left.
    pub async fn counts(conn: &mut Conn, account_id: Uuid, device_id: Uuid) -> Result<Counts, Error> {
        let left: Vec<(String, i64)> = one_time_prekeys::table
            .filter(one_time_prekeys::account_id.eq(account_id))
            .filter(one_time_prekeys::device_id.eq(device_id))
            .filter(one_time_prekeys::claimed_at.is_null())
            .group_by(one_time_prekeys::kind)
            .select((one_time_prekeys::kind, diesel::dsl::count_star()))
            .load(conn)
            .await?;
        let of = |kind: Kind| left.iter().find(|(name, _)| name == kind.name()).map_or(0, |(_, count)| *count);
        Ok(Counts { x25519: of(Kind::X25519), ml_kem_768: of(Kind::MlKem768) })
    }

    /// Inserts these. None of them may be known.
    pub async fn insert(conn: &mut Conn, device: &Device, kind: Kind, keys: &[&NewPreKey]) -> Result<(), Error> {
        let row = |key: &&NewPreKey| {
            (
                one_time_prekeys::account_id.eq(device.account_id),
                one_time_prekeys::device_id.eq(device.device_id),
                one_time_prekeys::kind.eq(kind.name()),
                one_time_prekeys::key_id.eq(i64::from(key.key_id)),
                one_time_prekeys::public_key.eq(key.public_key.clone()),
                one_time_prekeys::signature.eq(key.signature.clone()),
            )
        };
        let rows: Vec<_> = keys.iter().map(row).collect();
        diesel::insert_into(one_time_prekeys::table).values(rows).execute(conn).await?;
        Ok(())
    }

    /// Hands out one of each kind for each of these devices, as far as there are any and the device is still registered under
    /// the same id. One statement, so for all or none. It waits for nobody: a key that is just being handed out to somebody
    /// else is passed over.
    pub async fn claim(conn: &mut Conn, devices: &[&Device], now: DateTime<Utc>) -> Result<Vec<Self>, Error> {
        let claim = diesel::sql_query(
            "WITH picked AS MATERIALIZED ( \
                 SELECT p.* FROM unnest($1, $2, $3) AS c (account_id, device_id, registration_id) \
                 JOIN devices d ON d.account_id = c.account_id AND d.device_id = c.device_id \
                     AND d.registration_id = c.registration_id \
                 CROSS JOIN (VALUES ('x25519'), ('ml_kem_768')) AS k (kind) \
                 CROSS JOIN LATERAL ( \
                     SELECT o.account_id, o.device_id, o.kind, o.key_id FROM one_time_prekeys o \
                     WHERE o.account_id = d.account_id AND o.device_id = d.device_id AND o.kind = k.kind \
                     AND o.claimed_at IS NULL ORDER BY o.key_id LIMIT 1 FOR UPDATE SKIP LOCKED) p) \
             UPDATE one_time_prekeys o SET claimed_at = $4 FROM picked p \
             WHERE o.account_id = p.account_id AND o.device_id = p.device_id AND o.kind = p.kind AND o.key_id = p.key_id \
             RETURNING o.account_id, o.device_id, o.kind, o.key_id, o.public_key, o.signature",
        )
        .bind::<Array<SqlUuid>, _>(devices.iter().map(|device| device.account_id).collect::<Vec<_>>())
        .bind::<Array<SqlUuid>, _>(devices.iter().map(|device| device.device_id).collect::<Vec<_>>())
        .bind::<Array<BigInt>, _>(devices.iter().map(|device| device.registration_id).collect::<Vec<_>>())
        .bind::<Timestamptz, _>(now);
        Ok(claim.load(conn).await?)
    }

    /// Forgets those that were handed out before then; returns how many.
    pub async fn delete_claimed(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        Ok(diesel::delete(one_time_prekeys::table.filter(one_time_prekeys::claimed_at.lt(before)))
            .execute(conn)
            .await?)
    }
}
