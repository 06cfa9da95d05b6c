//! What administrators decide about accounts.

use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::Account;
use super::service::AuthService;
use super::sessions::Sessions;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::pages;
use crate::kernel::security::{Event, Kind};
use crate::proto::rialto::auth::v1::{ListPendingAccountsRequest, ListPendingAccountsResponse};
use crate::proto::rialto::policy::v1::Role;

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
    /// From any to deleted. Ends all sessions.
    Delete,
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
    if by.account_id == id && matches!(change, StateChange::Suspend) {
        return Err(Error::new(Reason::InsufficientPermissions, "an account can't suspend itself"));
    }
    let now = app.clock.now();
    let mut conn = app.db.get().await?;
    let account = conn.transaction(async |conn| {
        may_decide_about(conn, by, id).await?;
        let (account, notice) = match change {
            StateChange::Approve => (Account::approve(conn, id, now).await?, Some(Notice::Approved)),
            StateChange::Reject(reason) => (Account::reject(conn, id, reason, now).await?, Some(Notice::Rejected)),
            StateChange::Suspend => (Account::suspend(conn, id, now).await?, None),
            StateChange::Reinstate => (Account::reinstate(conn, id, now).await?, None),
            StateChange::Delete => (Account::delete(conn, id, now).await?, None),
        };
        if let Some(notice) = notice {
            jobs::notice(app, id, notice)?.enqueue(conn).await?;
        }
        Ok::<_, Error>(account)
    });
    let account = account.await?;
    drop(conn);
    if matches!(change, StateChange::Suspend) {
        app.security.record(Event::about(Kind::AccountSuspended, id).by(by.account_id));
    }
    sessions.changed(id).await;
    crate::kernel::jobs::wake(app).await;
    Ok(account)
}

/// Refuses who decides about an administrator without being one: whoever is given `accounts:suspend` could lock all of them
/// out but one. Locks the account, whose role therefore stays what it is.
async fn may_decide_about(conn: &mut Conn, by: &Caller, id: Uuid) -> Result<(), Error> {
    let locked = Account::lock(conn, id).await?;
    if by.role != Role::Admin && locked.is_some_and(|(account, _)| account.role() == Role::Admin) {
        return Err(Error::new(Reason::InsufficientPermissions, "only administrators decide about administrators"));
    }
    Ok(())
}
