//! What administrators decide about accounts.

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use serde_json::json;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::Account;
use super::service::AuthService;
use super::sessions::Sessions;
use super::wire::state_name;
use crate::domains::roles;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::pages;
use crate::kernel::security::{Event, Kind};
use crate::kernel::trail::Target;
use crate::proto::rialto::auth::v1::{ListPendingAccountsRequest, ListPendingAccountsResponse};

/// The kind of page tokens of pending accounts.
const PENDING: u8 = 16;

impl AuthService {
    pub(super) async fn pending(
        &self,
        request: ListPendingAccountsRequest,
    ) -> Result<ListPendingAccountsResponse, Error> {
        let after = pages::key(PENDING, &request.page_token)?.map(Uuid::from_bytes);
        let size = pages::size(request.page_size);
        let mut accounts = Account::pending(&mut *self.app.db.get().await?, after, size + 1).await?;
        let next_page_token = pages::cut(&mut accounts, size, PENDING, |last| last.id.into_bytes());
        Ok(ListPendingAccountsResponse { accounts: accounts.iter().map(Into::into).collect(), next_page_token })
    }

    /// Lifts an account's locks.
    pub(super) async fn unlock(&self, by: &Caller, id: Uuid) -> Result<Account, Error> {
        by.trail.about(Target::Account(id));
        let mut conn = self.app.db.get().await?;
        let account = conn
            .transaction(async |conn| {
                may_act_on(conn, by, id, self.app.clock.now()).await?;
                Account::by_id(conn, id).await?.ok_or_else(|| Error::not_found("account"))
            })
            .await?;
        drop(conn);
        self.throttle.clear(&account).await?;
        Ok(account)
    }
}

/// A change of an account's state.
#[derive(Clone, Copy)]
pub enum StateChange<'a> {
    /// From pending to active.
    Approve,
    /// From pending to rejected, for this reason.
    Reject(&'a str),
    /// From active to suspended. Ends all sessions.
    Suspend,
    /// From suspended to active.
    Reinstate,
}

impl<'a> StateChange<'a> {
    /// A rejection for this reason, which its owner is told. An error when there is none.
    pub fn reject(reason: &'a str) -> Result<Self, Error> {
        if reason.trim().is_empty() {
            return Err(Error::new(Reason::MissingRequiredField, "rejecting needs a reason").at_field("reason"));
        }
        Ok(Self::Reject(reason))
    }
}

impl StateChange<'_> {
    /// The state that it is from.
    fn from(self) -> &'static str {
        match self {
            Self::Approve | Self::Reject(_) => "pending",
            Self::Suspend => "active",
            Self::Reinstate => "suspended",
        }
    }
}

/// Changes the state of an account, and tells every node, and its owner if it waited for approval. The database refuses to
/// leave no active administrator.
pub async fn change_state(
    app: &App,
    sessions: &Sessions,
    by: &Caller,
    id: Uuid,
    change: StateChange<'_>,
) -> Result<Account, Error> {
    by.trail.about(Target::Account(id));
    if by.account_id == id && matches!(change, StateChange::Suspend) {
        return Err(Error::new(Reason::InsufficientPermissions, "an account can't suspend itself"));
    }
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    let account = conn.transaction(async |conn| {
        may_act_on(conn, by, id, now).await?;
        let (account, notice) = match change {
            StateChange::Approve => (Account::approve(conn, id, now).await?, Some(Notice::Approved)),
            StateChange::Reject(reason) => (Account::reject(conn, id, reason, now).await?, Some(Notice::Rejected)),
            StateChange::Suspend => (Account::suspend(conn, id, now).await?, None),
            StateChange::Reinstate => (Account::reinstate(conn, id, now).await?, None),
        };
        if let Some(notice) = notice {
            jobs::notice(app, id, notice)?.enqueue(conn).await?;
        }
        Ok::<_, Error>(account)
    });
    let account = account.await?;
    drop(conn);
    by.trail.changed(Some(json!({ "state": change.from() })), Some(json!({ "state": state_name(account.state()) })));
    if matches!(change, StateChange::Suspend) {
        app.security.record(Event::about(Kind::AccountSuspended, id).by(by.account_id));
    }
    sessions.changed(id).await;
    app.account_events.sight.changed(&[id], &[]).await;
    crate::kernel::jobs::wake(app).await;
    Ok(account)
}

/// Refuses a caller who acts on an account that may do what they may not: whoever is given `accounts:suspend` could lock all
/// administrators out but one, whoever may reset second factors could take any account over. Locks the account, whose role
/// therefore stays what it is, unless it is the caller's own. Everything that is done to somebody else's account asks this.
pub async fn may_act_on(conn: &mut Conn, by: &Caller, id: Uuid, now: DateTime<Utc>) -> Result<(), Error> {
    if by.account_id == id {
        return Ok(());
    }
    let (account, _) = Account::lock(conn, id).await?.ok_or_else(|| Error::not_found("account"))?;
    roles::require_reach(conn, by, id, account.role(), now).await
}
