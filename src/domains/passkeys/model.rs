//! Rows and SQL of passkeys and ceremonies. The token of a ceremony is 32 random bytes and is stored as its SHA-256.

use chrono::{DateTime, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use serde_json::Value;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::rng::hash_token;
use crate::schema::{passkey_ceremonies, passkeys};

/// A passkey.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = passkeys, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Passkey {
    pub id: Uuid,
    pub account_id: Uuid,
    /// As authenticators name it.
    pub credential_id: Vec<u8>,
    pub name: String,
    /// `webauthn_rs::prelude::Passkey`.
    pub credential: Value,
    pub created_at: DateTime<Utc>,
    pub last_used_at: Option<DateTime<Utc>>,
}

impl Passkey {
    /// Inserts it. False when there is one of the same credential id.
    pub async fn insert(&self, conn: &mut Conn) -> Result<bool, Error> {
        let insert = diesel::insert_into(passkeys::table).values(self);
        Ok(insert.on_conflict(passkeys::credential_id).do_nothing().execute(conn).await? == 1)
    }

    /// Those of an account, the oldest first.
    pub async fn of(conn: &mut Conn, account_id: Uuid) -> Result<Vec<Self>, Error> {
        let own = passkeys::table.filter(passkeys::account_id.eq(account_id)).order(passkeys::id);
        Ok(own.select(Self::as_select()).load(conn).await?)
    }

    /// How many an account has.
    pub async fn count(conn: &mut Conn, account_id: Uuid) -> Result<i64, Error> {
        Ok(passkeys::table.filter(passkeys::account_id.eq(account_id)).count().get_result(conn).await?)
    }

    /// That of an account with this credential id, locked until the transaction ends: its counter is compared and set by one
    /// login at a time.
    pub async fn lock(conn: &mut Conn, account_id: Uuid, credential_id: &[u8]) -> Result<Option<Self>, Error> {
        let own = passkeys::table
            .filter(passkeys::credential_id.eq(credential_id))
            .filter(passkeys::account_id.eq(account_id))
            .select(Self::as_select())
            .for_no_key_update();
        Ok(own.first(conn).await.optional()?)
    }

    /// Notes that it was used, and how it is since.
    pub async fn used(conn: &mut Conn, id: Uuid, credential: &Value, now: DateTime<Utc>) -> Result<(), Error> {
        let values = (passkeys::credential.eq(credential), passkeys::last_used_at.eq(now));
        diesel::update(passkeys::table.find(id)).set(values).execute(conn).await?;
        Ok(())
    }

    /// Gives one of an account another name. `None` when it has no such passkey.
    pub async fn rename(conn: &mut Conn, account_id: Uuid, id: Uuid, name: &str) -> Result<Option<Self>, Error> {
        let own = passkeys::table.find(id).filter(passkeys::account_id.eq(account_id));
        let renamed = diesel::update(own).set(passkeys::name.eq(name)).returning(Self::as_returning());
        Ok(renamed.get_result(conn).await.optional()?)
    }

    /// Deletes one of an account. False when it has no such passkey.
    pub async fn delete(conn: &mut Conn, account_id: Uuid, id: Uuid) -> Result<bool, Error> {
        let own = passkeys::table.find(id).filter(passkeys::account_id.eq(account_id));
        Ok(diesel::delete(own).execute(conn).await? == 1)
    }

    /// Deletes all of an account.
    pub async fn delete_all(conn: &mut Conn, account_id: Uuid) -> Result<(), Error> {
        diesel::delete(passkeys::table.filter(passkeys::account_id.eq(account_id))).execute(conn).await?;
        Ok(())
    }
}

/// What a ceremony is for, and who began it.
pub enum Purpose<'a> {
    /// To add a passkey, in this session.
    Registration(Uuid),
    /// To prove again who one is, in this session.
    Reauthentication(Uuid),
    /// To log in, from this client (its fingerprint).
    Login(&'a [u8]),
    /// To answer this login challenge.
    SecondFactor(&'a str),
}

impl Purpose<'_> {
    fn binding(&self) -> Vec<u8> {
        let (tag, who): (u8, &[u8]) = match self {
            Self::Registration(session) => (0, session.as_bytes()),
            Self::Reauthentication(session) => (1, session.as_bytes()),
            Self::Login(client) => (2, client),
            Self::SecondFactor(challenge) => (3, challenge.as_bytes()),
        };
        Sha256::new().chain_update([tag]).chain_update(who).finalize().to_vec()
    }
}

/// A challenge that was given out.
#[derive(Insertable)]
#[diesel(table_name = passkey_ceremonies)]
pub struct Ceremony {
    hash: Vec<u8>,
    binding: Vec<u8>,
    state: Value,
    expires_at: DateTime<Utc>,
}

impl Ceremony {
    /// One that waits until then.
    pub fn new(token: &str, purpose: &Purpose<'_>, state: Value, expires_at: DateTime<Utc>) -> Self {
        Self { hash: hash_token(token), binding: purpose.binding(), state, expires_at }
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(passkey_ceremonies::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// Uses one up, and returns its state. Of two at the same instant one is refused. Whoever did not begin it can't use it
    /// up either.
    pub async fn take(conn: &mut Conn, token: &str, purpose: &Purpose<'_>, now: DateTime<Utc>) -> Result<Value, Error> {
        let own = passkey_ceremonies::table
            .find(hash_token(token))
            .filter(passkey_ceremonies::binding.eq(purpose.binding()))
            .filter(passkey_ceremonies::expires_at.gt(now));
        let state = diesel::delete(own).returning(passkey_ceremonies::state).get_result(conn).await.optional()?;
        let message = "the ceremony has expired, was answered before, or was begun by somebody else; begin again";
        state.ok_or_else(|| Error::new(Reason::PasskeyCeremonyVoid, message).at_field("ceremony_token"))
    }

    /// Forgets those that have expired; returns how many.
    pub async fn delete_expired(conn: &mut Conn, now: DateTime<Utc>) -> Result<usize, Error> {
        let expired = passkey_ceremonies::table.filter(passkey_ceremonies::expires_at.lt(now));
        Ok(diesel::delete(expired).execute(conn).await?)
    }
}
