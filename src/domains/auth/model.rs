//! Rows and SQL of accounts, sessions and refresh tokens.

use chrono::{DateTime, Duration, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::proto::rialto::policy::v1::Role;
use crate::schema::{accounts, refresh_tokens, sessions};

const ACTIVE: &str = "active";

/// An account, without its password.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = accounts, check_for_backend(diesel::pg::Pg))]
pub struct Account {
    pub id: Uuid,
    pub email: String,
    pub display_name: String,
    role: String,
    state: String,
    pub token_version: i32,
    pub created_at: DateTime<Utc>,
}

/// An account to be created.
#[derive(Insertable)]
#[diesel(table_name = accounts, treat_none_as_default_value = false)]
pub struct NewAccount {
    pub id: Uuid,
    pub email: String,
    display_name: String,
    password_hash: String,
    role: &'static str,
    state: &'static str,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Account {
    /// The built-in role.
    pub fn role(&self) -> Role {
        if self.role == "admin" { Role::Admin } else { Role::User }
    }

    /// Whether it may do anything at all.
    pub fn is_active(&self) -> bool {
        self.state == ACTIVE
    }

    /// By id.
    pub async fn by_id(conn: &mut Conn, id: Uuid) -> Result<Option<Self>, Error> {
        Ok(accounts::table.find(id).select(Self::as_select()).first(conn).await.optional()?)
    }

    /// By e-mail address, with the hash of its password.
    pub async fn by_email(conn: &mut Conn, email: &str) -> Result<Option<(Self, String)>, Error> {
        let row = accounts::table
            .filter(accounts::email.eq(fold_email(email)))
            .select((Self::as_select(), accounts::password_hash))
            .first(conn)
            .await;
        Ok(row.optional()?)
    }

    /// Gives it the name that others see. False when there is no such account.
    pub async fn rename(conn: &mut Conn, id: Uuid, display_name: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let renamed = diesel::update(accounts::table.find(id))
            .set((accounts::display_name.eq(display_name), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        Ok(renamed == 1)
    }

    /// Brings it from one of these states to another. False when it is in none of them.
    pub async fn move_state(
        conn: &mut Conn,
        id: Uuid,
        from: &[&str],
        to: &str,
        now: DateTime<Utc>,
    ) -> Result<bool, Error> {
        let moved = diesel::update(accounts::table.find(id).filter(accounts::state.eq_any(from)))
            .set((accounts::state.eq(to), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        Ok(moved == 1)
    }

    /// Notes when it was approved.
    pub async fn note_approval(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        diesel::update(accounts::table.find(id)).set(accounts::approved_at.eq(now)).execute(conn).await?;
        Ok(())
    }

    /// Notes why it was rejected.
    pub async fn note_rejection(conn: &mut Conn, id: Uuid, reason: &str) -> Result<(), Error> {
        diesel::update(accounts::table.find(id)).set(accounts::rejection_reason.eq(reason)).execute(conn).await?;
        Ok(())
    }

    /// Whether it is deleted; `None` when there is no such account.
    pub async fn is_deleted(conn: &mut Conn, id: Uuid) -> Result<Option<bool>, Error> {
        Ok(accounts::table.find(id).select(accounts::state.eq("deleted")).first(conn).await.optional()?)
    }

    /// The active administrators, locked until the transaction ends, so that two can't go at once.
    pub async fn lock_administrators(conn: &mut Conn) -> Result<Vec<Uuid>, Error> {
        let active = accounts::table.filter(accounts::role.eq("admin")).filter(accounts::state.eq(ACTIVE));
        Ok(active.order(accounts::id).select(accounts::id).for_no_key_update().load(conn).await?)
    }

    /// Invalidates every access token and session of the account. False when there is no such account.
    pub async fn revoke_sessions(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<bool, Error> {
        let raised = diesel::update(accounts::table.find(id))
            .set((accounts::token_version.eq(accounts::token_version + 1), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        diesel::update(sessions::table.filter(sessions::account_id.eq(id)).filter(sessions::revoked_at.is_null()))
            .set(sessions::revoked_at.eq(now))
            .execute(conn)
            .await?;
        Ok(raised == 1)
    }
}

impl NewAccount {
    /// An active account.
    pub fn new(app: &App, email: &str, name: &str, password_hash: String, role: Role) -> Result<Self, Error> {
        let now = app.clock.now();
        Ok(Self {
            id: app.rng.id(now)?,
            email: fold_email(email),
            display_name: name.to_owned(),
            password_hash,
            role: if role == Role::Admin { "admin" } else { "user" },
            state: ACTIVE,
            created_at: now,
            updated_at: now,
        })
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<Account, Error> {
        let inserted = diesel::insert_into(accounts::table)
            .values(self)
            .on_conflict(accounts::email)
            .do_nothing()
            .returning(Account::as_select())
            .get_result(conn)
            .await
            .optional()?;
        inserted.ok_or_else(|| Error::new(Reason::ResourceAlreadyExists, "this e-mail address has an account"))
    }
}

/// Addresses are compared without regard to case, as every large provider does.
pub fn fold_email(email: &str) -> String {
    email.trim().to_lowercase()
}

/// A session.
#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = sessions, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct Session {
    pub id: Uuid,
    pub account_id: Uuid,
    pub created_at: DateTime<Utc>,
    pub last_seen_at: DateTime<Utc>,
    pub expires_at: DateTime<Utc>,
    pub revoked_at: Option<DateTime<Utc>>,
    pub user_agent: String,
    pub address: String,
}

impl Session {
    /// Whether it goes on.
    pub fn is_live(&self, now: DateTime<Utc>) -> bool {
        self.revoked_at.is_none() && self.expires_at > now
    }

    /// Inserts it.
    pub async fn insert(&self, conn: &mut Conn) -> Result<(), Error> {
        diesel::insert_into(sessions::table).values(self).execute(conn).await?;
        Ok(())
    }

    /// A session and its account.
    pub async fn with_account(conn: &mut Conn, id: Uuid) -> Result<Option<(Self, Account)>, Error> {
        let row = sessions::table
            .inner_join(accounts::table)
            .filter(sessions::id.eq(id))
            .select((Self::as_select(), Account::as_select()))
            .first(conn)
            .await;
        Ok(row.optional()?)
    }

    /// Sessions and their accounts, as far as they exist.
    pub async fn all_with_accounts(conn: &mut Conn, ids: &[Uuid]) -> Result<Vec<(Self, Account)>, Error> {
        let rows = sessions::table
            .inner_join(accounts::table)
            .filter(sessions::id.eq_any(ids))
            .select((Self::as_select(), Account::as_select()))
            .load(conn)
            .await?;
        Ok(rows)
    }

    /// Ends one session.
    pub async fn revoke(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        diesel::update(sessions::table.find(id).filter(sessions::revoked_at.is_null()))
            .set(sessions::revoked_at.eq(now))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Notes that the session was used and goes on.
    async fn extend(conn: &mut Conn, id: Uuid, now: DateTime<Utc>, expires_at: DateTime<Utc>) -> Result<(), Error> {
        diesel::update(sessions::table.find(id))
            .set((sessions::last_seen_at.eq(now), sessions::expires_at.eq(expires_at)))
            .execute(conn)
            .await?;
        Ok(())
    }

    /// Forgets sessions that ended before `before`; returns how many.
    pub async fn delete_ended(conn: &mut Conn, before: DateTime<Utc>) -> Result<usize, Error> {
        let ended = sessions::expires_at.lt(before).or(sessions::revoked_at.lt(before).assume_not_null());
        Ok(diesel::delete(sessions::table.filter(ended)).execute(conn).await?)
    }
}

/// A refresh token as it is stored: its hash.
#[derive(Queryable, Selectable, Insertable)]
#[diesel(table_name = refresh_tokens, check_for_backend(diesel::pg::Pg), treat_none_as_default_value = false)]
pub struct RefreshToken {
    hash: Vec<u8>,
    session_id: Uuid,
    created_at: DateTime<Utc>,
    expires_at: DateTime<Utc>,
    used_at: Option<DateTime<Utc>>,
}

/// What came of presenting a refresh token.
pub enum Exchange {
    /// It was good and is used up.
    Renewed(Box<Account>, Session),
    /// There is none like it.
    Unknown,
    /// It was good once.
    Expired,
    /// Its session or account is not live.
    Ended,
    /// It had been used before; the session is revoked now.
    Reused(Session),
}

impl RefreshToken {
    /// Inserts the hash of a token.
    pub async fn insert(
        conn: &mut Conn,
        token: &str,
        session_id: Uuid,
        now: DateTime<Utc>,
        lifetime: Duration,
    ) -> Result<(), Error> {
        let row = Self { hash: hash(token), session_id, created_at: now, expires_at: now + lifetime, used_at: None };
        diesel::insert_into(refresh_tokens::table).values(&row).execute(conn).await?;
        Ok(())
    }

    /// Exchanges `old` for `new`. To be called in a transaction, and committed whatever comes of it.
    pub async fn exchange(
        conn: &mut Conn,
        old: &str,
        new: &str,
        now: DateTime<Utc>,
        lifetime: Duration,
    ) -> Result<Exchange, Error> {
        // The row lock makes two clients with the same token come one after the other: the second finds it used.
        let found = refresh_tokens::table
            .find(hash(old))
            .select(Self::as_select())
            .for_update()
            .first(conn)
            .await
            .optional()?;
        let Some(token) = found else { return Ok(Exchange::Unknown) };
        let Some((session, account)) = Session::with_account(conn, token.session_id).await? else {
            return Ok(Exchange::Unknown);
        };
        if token.used_at.is_some() {
            Session::revoke(conn, session.id, now).await?;
            return Ok(Exchange::Reused(session));
        }
        if token.expires_at <= now {
            return Ok(Exchange::Expired);
        }
        if !session.is_live(now) || !account.is_active() {
            return Ok(Exchange::Ended);
        }
        diesel::update(refresh_tokens::table.find(hash(old)))
            .set(refresh_tokens::used_at.eq(now))
            .execute(conn)
            .await?;
        Self::insert(conn, new, session.id, now, lifetime).await?;
        Session::extend(conn, session.id, now, now + lifetime).await?;
        Ok(Exchange::Renewed(Box::new(account), session))
    }
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
