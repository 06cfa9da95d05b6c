//! Rows and SQL of accounts, sessions and refresh tokens; in modules of their own what leads to an account and back into it.

pub mod device;
pub mod email_change;
pub mod ending;
pub mod registration;
pub mod reset;
pub mod states;

use chrono::{DateTime, Duration, Utc};
use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use crate::kernel::account_events::Announcement;
use crate::kernel::app::App;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::policy;
use crate::kernel::rng::hash_token;
use crate::proto::rialto::account::v1::SessionEndReason;
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
    /// Whether a login by password needs a second factor.
    pub two_factor: bool,
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
    email_verified_at: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl Account {
    /// The built-in role.
    pub fn role(&self) -> Role {
        policy::role_by_name(&self.role)
    }

    /// Whether its role is among those that need two-factor authentication.
    pub fn needs_two_factor(&self, roles: &[String]) -> bool {
        roles.contains(&self.role)
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

    /// By id, with the hash of its password.
    pub async fn with_password_hash(conn: &mut Conn, id: Uuid) -> Result<Option<(Self, String)>, Error> {
        let columns = (Self::as_select(), accounts::password_hash);
        Ok(accounts::table.find(id).select(columns).first(conn).await.optional()?)
    }

    /// By id, with the hash of its password, locked until the transaction ends.
    pub async fn lock(conn: &mut Conn, id: Uuid) -> Result<Option<(Self, String)>, Error> {
        let columns = (Self::as_select(), accounts::password_hash);
        Ok(accounts::table.find(id).select(columns).for_no_key_update().first(conn).await.optional()?)
    }

    /// Notes whether a login by password needs a second factor. False when there is no such account.
    pub async fn set_two_factor(conn: &mut Conn, id: Uuid, enabled: bool, now: DateTime<Utc>) -> Result<bool, Error> {
        let values = (accounts::two_factor.eq(enabled), accounts::updated_at.eq(now));
        Ok(diesel::update(accounts::table.find(id)).set(values).execute(conn).await? == 1)
    }

    /// Gives it the name that others see. False when there is no such account.
    pub async fn rename(conn: &mut Conn, id: Uuid, display_name: &str, now: DateTime<Utc>) -> Result<bool, Error> {
        let renamed = diesel::update(accounts::table.find(id))
            .set((accounts::display_name.eq(display_name), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        Ok(renamed == 1)
    }

    /// Gives it another built-in role. False when there is no such account. The database refuses to leave no active
    /// administrator.
    pub async fn set_role(conn: &mut Conn, id: Uuid, role: Role, now: DateTime<Utc>) -> Result<bool, Error> {
        let updated = diesel::update(accounts::table.find(id))
            .set((accounts::role.eq(policy::role_name(role)), accounts::updated_at.eq(now)))
            .execute(conn)
            .await?;
        Ok(updated == 1)
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
            role: policy::role_name(role),
            state: ACTIVE,
            email_verified_at: None,
            created_at: now,
            updated_at: now,
        })
    }

    /// Has to be approved before it can log in.
    pub fn pending(mut self, pending: bool) -> Self {
        self.state = if pending { "pending" } else { ACTIVE };
        self
    }

    /// Its owner reads mail to its address.
    pub fn verified(mut self) -> Self {
        self.email_verified_at = Some(self.created_at);
        self
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
    pub reauthenticated_at: Option<DateTime<Utc>>,
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

    /// Notes that the owner has proved who they are.
    pub async fn reauthenticated(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        diesel::update(sessions::table.find(id)).set(sessions::reauthenticated_at.eq(now)).execute(conn).await?;
        Ok(())
    }

    /// When the owner last proved who they are, if the session is live.
    pub async fn last_proof(conn: &mut Conn, id: Uuid, now: DateTime<Utc>) -> Result<Option<DateTime<Utc>>, Error> {
        let live = sessions::table
            .find(id)
            .filter(sessions::revoked_at.is_null())
            .filter(sessions::expires_at.gt(now))
            .select(sessions::reauthenticated_at);
        Ok(live.first(conn).await.optional()?.flatten())
    }

    /// Notes that the session was used and goes on.
    pub async fn extend(conn: &mut Conn, id: Uuid, now: DateTime<Utc>, expires_at: DateTime<Utc>) -> Result<(), Error> {
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

/// How long sessions go on.
#[derive(Clone, Copy)]
pub struct Lifetimes {
    /// Without being used.
    pub idle: Duration,
    /// At most.
    pub absolute: Duration,
}

impl Lifetimes {
    /// When a session ends that was opened then and is used now.
    pub fn end(self, opened: DateTime<Utc>, now: DateTime<Utc>) -> DateTime<Utc> {
        (now + self.idle).min(opened + self.absolute)
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
    Reused(Session, Announcement),
    /// It had been used so shortly before that it may be the same client, twice at once. Nothing has changed.
    Superseded,
}

impl RefreshToken {
    /// Inserts the hash of a token.
    pub async fn insert(
        conn: &mut Conn,
        token: &str,
        session_id: Uuid,
        now: DateTime<Utc>,
        expires_at: DateTime<Utc>,
    ) -> Result<(), Error> {
        let row = Self { hash: hash_token(token), session_id, created_at: now, expires_at, used_at: None };
        diesel::insert_into(refresh_tokens::table).values(&row).execute(conn).await?;
        Ok(())
    }

    /// Voids those of a session that were not used: used now, they count as used before.
    pub async fn void(conn: &mut Conn, session_id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
        let unused = refresh_tokens::table
            .filter(refresh_tokens::session_id.eq(session_id))
            .filter(refresh_tokens::used_at.is_null());
        diesel::update(unused).set(refresh_tokens::used_at.eq(now)).execute(conn).await?;
        Ok(())
    }

    /// The session of a token, whether that is used or not.
    pub async fn session(conn: &mut Conn, token: &str) -> Result<Option<Session>, Error> {
        let session = refresh_tokens::table
            .inner_join(sessions::table)
            .filter(refresh_tokens::hash.eq(hash_token(token)))
            .select(Session::as_select())
            .first(conn)
            .await;
        Ok(session.optional()?)
    }

    /// Exchanges `old` for `new`. Used again within `tolerance`, it is refused without ending the session. To be called in a
    /// transaction, and committed whatever comes of it.
    pub async fn exchange(
        conn: &mut Conn,
        old: &str,
        new: &str,
        now: DateTime<Utc>,
        lifetimes: Lifetimes,
        tolerance: Option<Duration>,
    ) -> Result<Exchange, Error> {
        // The row lock makes two clients with the same token come one after the other: the second finds it used.
        let found = refresh_tokens::table
            .find(hash_token(old))
            .select(Self::as_select())
            .for_update()
            .first(conn)
            .await
            .optional()?;
        let Some(token) = found else { return Ok(Exchange::Unknown) };
        let Some((session, account)) = Session::with_account(conn, token.session_id).await? else {
            return Ok(Exchange::Unknown);
        };
        if let Some(used_at) = token.used_at {
            if tolerance.is_some_and(|tolerance| session.is_live(now) && used_at + tolerance > now) {
                return Ok(Exchange::Superseded);
            }
            let told = Session::revoke(conn, session.id, SessionEndReason::RefreshTokenReused, now).await?;
            return Ok(Exchange::Reused(session, told));
        }
        if token.expires_at <= now {
            return Ok(Exchange::Expired);
        }
        if !session.is_live(now) || !account.is_active() {
            return Ok(Exchange::Ended);
        }
        diesel::update(refresh_tokens::table.find(hash_token(old)))
            .set(refresh_tokens::used_at.eq(now))
            .execute(conn)
            .await?;
        let expires_at = lifetimes.end(session.created_at, now);
        Self::insert(conn, new, session.id, now, expires_at).await?;
        Session::extend(conn, session.id, now, expires_at).await?;
        Ok(Exchange::Renewed(Box::new(account), Session { expires_at, ..session }))
    }
}
