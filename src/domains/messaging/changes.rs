//! Changes of a conversation besides new messages: each is one event, numbered under the lock of the conversation's row, and
//! told after the commit.

use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::model::{self, Conversation, Member, Visible, event};
use super::service::MessagingService;
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;

/// A conversation whose row is locked, and the caller's membership.
pub struct Locked {
    pub conversation: Conversation,
    pub member: Member,
}

/// What a change has come to: its result, and the event that tells the members.
type Changed<T> = Result<(T, Option<Event>), Error>;

/// An async closure whose future is `Send`, which the language has no bound for yet.
pub trait Change<'r, T>: FnOnce(&'r mut Conn, Locked) -> Self::Future + Send {
    type Future: Future<Output = Changed<T>> + Send;
}

impl<'r, T, C, F> Change<'r, T> for C
where
    C: FnOnce(&'r mut Conn, Locked) -> F + Send,
    F: Future<Output = Changed<T>> + Send,
{
    type Future = F;
}

impl MessagingService {
    /// Runs a change under the lock of a conversation that the caller is a member of. `change` says what came of it, and the
    /// event that tells the members; none when nothing has changed.
    pub(super) async fn change<T: Send>(
        &self,
        caller: &Caller,
        id: Uuid,
        // The first bound is what the compiler infers the closure's type from.
        change: impl AsyncFnOnce(&mut Conn, Locked) -> Changed<T> + for<'r> Change<'r, T>,
    ) -> Result<T, Error> {
        let (reader, now) = (Visible::to(caller)?, self.app().clock.now());
        let mut conn = self.app().db.get().await?;
        self.partitions().ensure(&mut conn, now, self.app().config.messaging.retention_days).await?;
        let (result, event) = conn
            .transaction(async |conn| {
                model::Conversation::lock(conn, id).await?;
                // Read after the lock: what was changed while this waited counts.
                let (conversation, member) = Conversation::of_member(conn, id, reader).await?;
                let (result, event) = change(conn, Locked { conversation, member }).await?;
                let Some(event) = event else { return Ok((result, None)) };
                let event = SubscribeResponse { seq: 0, event: Some(event) };
                Ok::<_, Error>((result, Some(event::append(conn, id, event, now).await?)))
            })
            .await?;
        drop(conn);
        if let Some(event) = event {
            self.sequences().announce(vec![(id, event)]).await;
        }
        Ok(result)
    }
}
