//! Devices that an account has logged in from.

use chrono::{DateTime, TimeDelta, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::kernel::rng::hash_token;
use crate::schema::{accounts, known_devices};

/// An account knows so many; beyond them the one that was seen longest ago, to the day, is forgotten.
const KNOWN: usize = 50;

/// A device, as it is stored: the hash of the token that it keeps.
#[derive(Insertable)]
#[diesel(table_name = known_devices, treat_none_as_default_value = false)]
pub struct KnownDevice {
    account_id: Uuid,
    token_hash: Vec<u8>,
    last_seen_at: DateTime<Utc>,
}

impl KnownDevice {
    /// Whether an account knows the device that has this token.
    pub async fn is_known(conn: &mut Conn, account_id: Uuid, token: &str) -> Result<bool, Error> {
        let known = diesel::dsl::exists(known_devices::table.find((account_id, hash_token(token))));
        Ok(diesel::select(known).get_result(conn).await?)
    }

    /// The same of the account that has an e-mail address, if any. One query, so that it does not tell whether one has.
    pub async fn is_known_to(conn: &mut Conn, email: &str, token: &str) -> Result<bool, Error> {
        let of_account = known_devices::table
            .inner_join(accounts::table)
            .filter(accounts::email.eq(email))
            .filter(known_devices::token_hash.eq(hash_token(token)));
        Ok(diesel::select(diesel::dsl::exists(of_account)).get_result(conn).await?)
    }

    /// The hashes of the tokens of all devices that an account knows.
    pub async fn hashes(conn: &mut Conn, account_id: Uuid) -> Result<Vec<Vec<u8>>, Error> {
        let of_account = known_devices::table.filter(known_devices::account_id.eq(account_id));
        Ok(of_account.select(known_devices::token_hash).load(conn).await?)
    }

    /// Notes that a known device was seen, to the day; false when it is not known.
    pub async fn seen(conn: &mut Conn, account_id: Uuid, token: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let device = known_devices::table.find((account_id, hash_token(token)));
        let seen: Option<DateTime<Utc>> =
            device.clone().select(known_devices::last_seen_at).first(conn).await.optional()?;
        if seen.is_some_and(|seen| seen + TimeDelta::days(1) <= now) {
            diesel::update(device).set(known_devices::last_seen_at.eq(now)).execute(conn).await?;
        }
        Ok(seen.is_some())
    }

    /// Adds a device; returns whether the account knew any before.
    pub async fn add(conn: &mut Conn, account_id: Uuid, token: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let newest_first = known_devices::table
            .filter(known_devices::account_id.eq(account_id))
            .order(known_devices::last_seen_at.desc())
            .select(known_devices::token_hash);
        let mut known: Vec<Vec<u8>> = newest_first.load(conn).await?;
        let knew_any = !known.is_empty();
        let forgotten = known.split_off(known.len().min(KNOWN - 1));
        if !forgotten.is_empty() {
            let of_account = known_devices::table.filter(known_devices::account_id.eq(account_id));
            diesel::delete(of_account.filter(known_devices::token_hash.eq_any(forgotten))).execute(conn).await?;
        }
        let row = Self { account_id, token_hash: hash_token(token), last_seen_at: now };
        diesel::insert_into(known_devices::table).values(&row).execute(conn).await?;
        Ok(knew_any)
    }
}
