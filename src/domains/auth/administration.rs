//! What administrators decide about accounts.

use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::Account;
use super::service::AuthService;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::pages;
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

    pub(super) async fn approve(&self, id: Uuid) -> Result<Account, Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let account = conn.transaction(async |conn| {
            let account = Account::approve(conn, id, now).await?;
            jobs::notice(&self.app, id, Notice::Approved)?.enqueue(conn).await?;
            Ok::<_, Error>(account)
        });
        let account = account.await?;
        drop(conn);
        self.decided(account).await
    }

    pub(super) async fn reject(&self, id: Uuid, reason: &str) -> Result<Account, Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let account = conn.transaction(async |conn| {
            let account = Account::reject(conn, id, reason, now).await?;
            jobs::notice(&self.app, id, Notice::Rejected)?.enqueue(conn).await?;
            Ok::<_, Error>(account)
        });
        let account = account.await?;
        drop(conn);
        self.decided(account).await
    }

    pub(super) async fn suspend(&self, by: &Caller, id: Uuid) -> Result<Account, Error> {
        if by.account_id == id {
            return Err(Error::new(Reason::InsufficientPermissions, "an account can't suspend itself"));
        }
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let account = conn.transaction(async |conn| {
            may_decide_about(conn, by, id).await?;
            Account::suspend(conn, id, now).await
        });
        let account = account.await?;
        drop(conn);
        self.decided(account).await
    }

    pub(super) async fn reinstate(&self, by: &Caller, id: Uuid) -> Result<Account, Error> {
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let account = conn.transaction(async |conn| {
            may_decide_about(conn, by, id).await?;
            Account::reinstate(conn, id, now).await
        });
        let account = account.await?;
        drop(conn);
        self.decided(account).await
    }

    /// Tells every node.
    async fn decided(&self, account: Account) -> Result<Account, Error> {
        self.sessions.changed(account.id).await;
        crate::kernel::jobs::wake(&self.app).await;
        Ok(account)
    }
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
