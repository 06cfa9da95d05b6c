//! Changes of a conversation besides new messages: each is one event, numbered under the lock of the conversation's row, and
//! told after the commit.

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use uuid::Uuid;

use super::heads;
use super::model::{self, Conversation, Member, Visible, event};
use super::service::MessagingService;
use crate::domains::{auth, users};
use crate::kernel::account_events::{self, Announcement};
use crate::kernel::caller::Caller;
use crate::kernel::db::Conn;
use crate::kernel::error::Error;
use crate::proto::rialto::account::v1::{ConversationJoined, ConversationLeft};
use crate::proto::rialto::messaging::v1::SubscribeResponse;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;

/// A conversation whose row is locked, and the caller's membership.
pub struct Locked {
    pub conversation: Conversation,
    pub member: Member,
}

impl Locked {
    /// Refuses whoever could send no message now, because what is said is not said by other ways either.
    pub async fn require_may_write(&self, conn: &mut Conn, now: DateTime<Utc>) -> Result<(), Error> {
        if let Some(until) = self.member.silenced_until.filter(|until| *until > now) {
            return Err(model::silenced(until, now));
        }
        let sender = self.member.account_id;
        let mut others: Vec<_> = Conversation::members(conn, &[self.conversation.id]).await?;
        others.retain(|(_, account)| *account != sender);
        if let [(_, other)] = others.as_slice() {
            let active = auth::role_of(conn, *other).await?.is_some_and(|(_, active)| active);
            if !active || !users::blocks_between(conn, sender, &[*other]).await?.is_empty() {
                return Err(model::unavailable());
            }
        }
        Ok(())
    }
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
        let mut conn = self.writer(now).await?;
        let (result, news) = conn
            .transaction(async |conn| {
                model::Conversation::lock(conn, id).await?;
                // Read after the lock: what was changed while this waited counts.
                let (conversation, member) = Conversation::of_member(conn, id, reader).await?;
                let (result, event) = change(conn, Locked { conversation, member }).await?;
                let Some(event) = event else { return Ok((result, None)) };
                Ok::<_, Error>((result, Some(News::append(conn, id, event, now).await?)))
            })
            .await?;
        drop(conn);
        if let Some(news) = news {
            self.announce(news).await;
        }
        Ok(result)
    }

    /// Tells whoever watches, and the members' account streams. To be called after the commit.
    pub(super) async fn announce(&self, news: News) {
        let (id, seq) = (news.id, news.event.seq);
        self.sequences().announce(vec![(id, news.event)]).await;
        let account_events = &self.app().account_events;
        account_events.announce(news.accounts).await;
        account_events.sight.changed(&news.moved, &news.members).await;
        self.heads().advance(id, seq);
        heads::tell_servers(&self.app().bus, [(id, seq)]).await;
    }
}

/// An event of a conversation, and what it is to accounts.
#[must_use = "after the commit, hand it to MessagingService::announce"]
pub struct News {
    id: Uuid,
    event: SubscribeResponse,
    accounts: Announcement,
    /// Who has come or left, and those that have more or less to do with them since.
    moved: Vec<Uuid>,
    members: Vec<Uuid>,
}

impl News {
    /// Writes an event of a conversation whose row is locked, as the last thing of the transaction.
    pub async fn append(conn: &mut Conn, id: Uuid, event: Event, now: DateTime<Utc>) -> Result<Self, Error> {
        let accounts = concerned(id, &event);
        let moved: Vec<_> = accounts.iter().map(|(account, _)| *account).collect();
        let members = if moved.is_empty() { Vec::new() } else { Conversation::members(conn, &[id]).await? };
        let members = members.into_iter().map(|(_, account)| account).collect();
        let event = event::append(conn, id, SubscribeResponse { seq: 0, event: Some(event) }, now).await?;
        Ok(Self { id, event, accounts: account_events::append(conn, &accounts, now).await?, moved, members })
    }
}

/// Whom an event concerns who does not watch the conversation.
fn concerned(id: Uuid, event: &Event) -> Vec<(Uuid, account_events::Event)> {
    let Event::Members(change) = event else { return Vec::new() };
    let joined = change.joined.iter().filter_map(|member| member.account_id.parse().ok());
    let joined = joined.map(|account: Uuid| (account, joined_event(id, &change.changed_by)));
    let left = change.left.iter().filter_map(|account| account.parse().ok()).map(|account: Uuid| {
        let left = ConversationLeft { conversation_id: id.to_string(), removed_by: change.changed_by.clone() };
        (account, account_events::Event::ConversationLeft(left))
    });
    joined.chain(left).collect()
}

/// What an account is told that is in a conversation now.
pub fn joined_event(id: Uuid, added_by: &str) -> account_events::Event {
    let joined = ConversationJoined { conversation_id: id.to_string(), added_by: added_by.to_owned() };
    account_events::Event::ConversationJoined(joined)
}
