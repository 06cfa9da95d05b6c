//! What administrators decide about accounts.

use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::jobs::{self, Notice};
use super::model::Account;
use super::service::AuthService;
use crate::kernel::error::{Error, Reason};
use crate::kernel::pages;
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

    pub(super) async fn suspend(&self, by: Uuid, id: Uuid) -> Result<Account, Error> {
        if by == id {
            return Err(Error::new(Reason::InsufficientPermissions, "an account can't suspend itself"));
        }
        let now = self.app.clock.now();
        let mut conn = self.app.db.get().await?;
        let account = conn.transaction(async |conn| Account::suspend(conn, id, now).await).await?;
        drop(conn);
        self.decided(account).await
    }

    pub(super) async fn reinstate(&self, id: Uuid) -> Result<Account, Error> {
        let account = Account::reinstate(&mut *self.app.db.get().await?, id, self.app.clock.now()).await?;
        self.decided(account).await
    }

    /// Tells every node.
    async fn decided(&self, account: Account) -> Result<Account, Error> {
        self.sessions.changed(account.id).await;
        crate::kernel::jobs::wake(&self.app).await;
        Ok(account)
    }
}
