//! Account streams: who hears what, and the streams that are open.

mod connections;
pub mod kinds;
mod nodes;
mod presence;
mod presence_live;
mod streams;

use diesel_async::AsyncConnection;
use rialto::kernel::account_events::{self, Announcement, Event};
use rialto::proto::rialto::account::v1::account_service_client::AccountServiceClient;
use rialto::proto::rialto::account::v1::{Presence, RoleAssigned, SubscribeRequest, SubscribeResponse};
use tonic::{Code, Status, Streaming};
use uuid::Uuid;

use crate::harness::{Authorized, Bearer, Events, Node, User, refusal, soon};

const EVENTS: &str = "/v1/account/events";
const CONNECTIONS: &str = "/v1/account/connections";

fn client(node: &Node, user: &User) -> AccountServiceClient<Authorized> {
    AccountServiceClient::with_interceptor(node.channel(), Bearer(user.token.clone()))
}

/// A stream over gRPC.
pub struct Stream {
    pub connection_id: String,
    messages: Streaming<SubscribeResponse>,
}

impl Stream {
    pub async fn open(node: &Node, user: &User, after_seq: Option<i64>) -> Self {
        Self::try_open(node, user, after_seq).await.unwrap()
    }

    async fn try_open(node: &Node, user: &User, after_seq: Option<i64>) -> Result<Self, Status> {
        Self::begin(node, user, SubscribeRequest { after_seq, ..Default::default() }).await
    }

    /// One that watches these accounts.
    async fn watching(node: &Node, user: &User, accounts: &[&User]) -> Self {
        let presence_of = accounts.iter().map(|account| account.id.clone()).collect();
        Self::begin(node, user, SubscribeRequest { after_seq: None, presence_of }).await.unwrap()
    }

    async fn begin(node: &Node, user: &User, request: SubscribeRequest) -> Result<Self, Status> {
        let after_seq = request.after_seq;
        let mut messages = client(node, user).subscribe(request).await?.into_inner();
        let first = soon(messages.message()).await?.unwrap();
        let Some(Event::Opened(opened)) = first.event else { panic!("{first:?}") };
        if let Some(after) = after_seq {
            assert_eq!(first.seq, Some(after));
        }
        Ok(Self { connection_id: opened.connection_id, messages })
    }

    /// The presence that is told next. Conversations come and go besides.
    async fn presence(&mut self) -> Presence {
        loop {
            let message = soon(self.messages.message()).await.unwrap().expect("the stream has ended");
            match message.event {
                Some(Event::Presence(presence)) => {
                    // It has no number of its own.
                    assert!(message.seq.is_some() && message.at.is_none());
                    return presence;
                }
                Some(Event::ConversationJoined(_) | Event::ConversationLeft(_) | Event::ConversationHead(_)) => {}
                event => panic!("{event:?}"),
            }
        }
    }

    /// The conversation whose head is told next, and the head.
    async fn head(&mut self) -> (String, i64) {
        let message = soon(self.messages.message()).await.unwrap().expect("the stream has ended");
        let Some(Event::ConversationHead(head)) = message.event else { panic!("{message:?}") };
        (head.conversation_id, head.last_seq)
    }

    /// The next event and its number.
    pub async fn next(&mut self) -> (i64, Event) {
        let message = soon(self.messages.message()).await.unwrap().expect("the stream has ended");
        assert!(message.at.is_some(), "{message:?}");
        (message.seq.unwrap(), message.event.unwrap())
    }

    /// The name in the next event, which `tell` has made, and its number.
    async fn name(&mut self) -> (i64, String) {
        let (seq, Event::RoleAssigned(role)) = self.next().await else { panic!("something else was told") };
        (seq, role.name)
    }

    /// Expects these numbers next, each with the name that `name` gives it.
    async fn expect(&mut self, seqs: impl IntoIterator<Item = i64>, name: impl Fn(i64) -> String) {
        for seq in seqs {
            assert_eq!(self.name().await, (seq, name(seq)));
        }
    }

    /// How the stream ends, after whatever is still told.
    async fn end(mut self) -> (Code, String) {
        loop {
            match soon(self.messages.message()).await {
                Ok(Some(_)) => {}
                ended => return refusal(ended),
            }
        }
    }
}

async fn events(node: &Node, user: &User, query: &str, last_event_id: Option<&str>) -> Events {
    Events::open_path(node, user, &format!("{EVENTS}{query}"), last_event_id).await
}

fn named(name: &str) -> Event {
    Event::RoleAssigned(RoleAssigned { role_id: Uuid::nil().to_string(), name: name.into(), expires_at: None })
}

/// Commits events as a domain would, and does not announce them.
async fn commit(node: &Node, told: &[(&User, &str)]) -> Announcement {
    let app = &node.server.app;
    let events: Vec<_> = told.iter().map(|(user, name)| (user.id.parse().unwrap(), named(name))).collect();
    let now = app.clock.now();
    let mut conn = app.db.get().await.unwrap();
    conn.transaction(async |conn| account_events::append(conn, &events, now).await).await.unwrap()
}

/// Tells an account something.
async fn tell(node: &Node, user: &User, name: &str) {
    let announcement = commit(node, &[(user, name)]).await;
    node.server.app.account_events.announce(announcement).await;
}

fn plain(seq: i64) -> String {
    format!("n{seq}")
}

/// Tells an account these numbers.
async fn tell_all(node: &Node, user: &User, seqs: impl IntoIterator<Item = i64>) {
    for seq in seqs {
        tell(node, user, &plain(seq)).await;
    }
}
