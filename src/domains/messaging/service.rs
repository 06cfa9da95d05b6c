//! `rialto.messaging.v1.MessagingService`.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use diesel_async::AsyncConnection;
use futures_util::stream::BoxStream;
use futures_util::{StreamExt, TryStreamExt};
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use uuid::Uuid;

use super::changes::joined_event;
use super::committer::Committer;
use super::encryption::{self, Viewer};
use super::heads::Heads;
use super::live::{Live, Reader};
use super::model::partitions::Partitions;
use super::model::{self, Content, DIRECT, GROUP, NewMessage, Place, View, Visible, partitions};
use super::subscribe::Events;
use super::{connect, wire as messaging_wire};
use crate::domains::users;
use crate::kernel::account_events;
use crate::kernel::app::App;
use crate::kernel::caller::Caller;
use crate::kernel::db::{Conn, PooledConn};
use crate::kernel::encoded::Encoded;
use crate::kernel::error::{Error, Violation};
use crate::kernel::sequence::Sequences;
use crate::kernel::{pages, wire};
use crate::proto::rialto::messaging::v1::messaging_service_server::MessagingService as Contract;
use crate::proto::rialto::messaging::v1::{
    ConnectRequest, ConnectResponse, Conversation, ConversationKind, CreateConversationRequest,
    CreateConversationResponse, GetConversationRequest, GetConversationResponse, ListConversationsRequest,
    ListConversationsResponse, ListMessagesRequest, ListMessagesResponse, Message, SendMessageRequest,
    SendMessageResponse, SubscribeRequest, SubscribeResponse, send_message_request,
};

/// The kinds of page tokens.
const CONVERSATIONS: u8 = 1;
const ARCHIVED_CONVERSATIONS: u8 = 4;
const MESSAGES_NEWEST_FIRST: u8 = 2;
const MESSAGES_OLDEST_FIRST: u8 = 3;

/// Events that wait for a stream's window. The rest waits in the topic or in Postgres.
const STREAM_BUFFER: usize = 16;

/// Bytes of ciphertext that are read for a list of conversations.
const ROOM: usize = 2 << 20;

/// The service.
#[derive(Clone)]
pub struct MessagingService {
    app: App,
    committer: Committer,
    live: Live,
    heads: Arc<Heads>,
    partitions: Partitions,
}

impl MessagingService {
    /// Starts the write path and the live one.
    pub fn start(app: App) -> Self {
        let (live, heads) = (Live::start(&app), Heads::start(&app));
        let partitions = Partitions::default();
        let committer = Committer::start(&app, &live.sequences, &heads, &partitions);
        Self { committer, live, heads, partitions, app }
    }

    /// How far conversations have got, for account streams.
    pub fn heads(&self) -> &Arc<Heads> {
        &self.heads
    }

    /// A message as a sender wants it.
    pub(super) fn new_message(&self, caller: &Caller, request: SendMessageRequest) -> Result<NewMessage, Error> {
        let content = match request.content {
            Some(send_message_request::Content::Text(text)) => Content::Text(text),
            Some(send_message_request::Content::Encrypted(content)) => {
                Content::Encrypted(encryption::parse(content, request.details.as_ref())?)
            }
            None => return Err(Error::invalid_field("content", "one of its fields must be set")),
        };
        let details = request.details.map(messaging_wire::sent_details).transpose()?;
        Ok(NewMessage {
            id: self.app.rng.id(self.app.clock.now())?,
            conversation_id: wire::id("conversation_id", &request.conversation_id)?,
            sender_id: caller.account_id,
            client_message_id: request.client_message_id,
            content,
            details: details.map(|details| details.encode_to_vec()),
        })
    }

    /// What the caller sees of a conversation now.
    pub(super) fn view(&self, caller: &Caller, conversation: &model::Conversation) -> View {
        View { reader: caller.account_id, now: self.app.clock.now(), since: self.kept_since(conversation) }
    }

    /// Since when a conversation keeps its messages.
    pub(super) fn kept_since(&self, conversation: &model::Conversation) -> DateTime<Utc> {
        let days = self.app.config.messaging.retention_days;
        partitions::kept_since(self.app.clock.now(), days, conversation.retention_days)
    }

    pub(super) fn app(&self) -> &App {
        &self.app
    }

    /// What happens in conversations.
    pub(super) fn sequences(&self) -> &Sequences<SubscribeResponse> {
        &self.live.sequences
    }

    /// A connection for writing events of conversations now.
    pub(super) async fn writer(&self, now: DateTime<Utc>) -> Result<PooledConn<'_>, Error> {
        let mut conn = self.app.db.get().await?;
        self.partitions.ensure(&mut conn, now, self.app.config.messaging.retention_days).await?;
        Ok(conn)
    }

    pub(super) fn committer(&self) -> &Committer {
        &self.committer
    }

    /// A reader, as `Subscribe` asks for it.
    pub(super) async fn reader(&self, caller: &Caller, request: &SubscribeRequest) -> Result<Reader, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let viewer = Viewer::of(caller, request.device_id.as_deref())?;
        self.live.reader(caller, viewer, id, request.after_seq).await
    }

    /// `Subscribe`.
    pub(super) async fn watch(&self, request: Request<SubscribeRequest>) -> Result<Response<Events>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.reader(&caller, request.get_ref()).await?.into_stream().boxed()))
    }

    async fn create(&self, caller: &Caller, request: CreateConversationRequest) -> Result<Conversation, Error> {
        let named = wire::ids("member_ids", &request.member_ids)?;
        let direct = request.kind() == ConversationKind::Direct;
        let mut members = [named.as_slice(), &[caller.account_id]].concat();
        members.sort_unstable();
        members.dedup();
        if direct && members.len() != 2 {
            return Err(Error::invalid_field("member_ids", "must name the one other account"));
        }
        if direct && !request.title.is_empty() {
            return Err(Error::invalid_field("title", "a conversation of two has none"));
        }
        let title = messaging_wire::title("title", &request.title)?;
        let mut conn = self.app.db.get().await?;
        let encrypted = request.encrypted;
        if direct
            && let [one, other] = *members
            && let Some(id) = model::Conversation::direct(&mut conn, one, other, encrypted).await?
        {
            return self.one(&mut conn, caller, id).await;
        }
        let contacts = model::Conversation::contacts(&mut conn, caller.account_id, &named).await?;
        let allowed = users::may_message(&mut conn, caller.account_id, &named, &contacts).await?;
        let refused: Vec<_> = (0..named.len()).filter(|index| !allowed[*index]).collect();
        if !refused.is_empty() {
            // One answer for all of them: it must not tell who hides, blocks, or was deleted.
            let violation = |index: usize| Violation {
                field: format!("member_ids[{index}]"),
                description: "there is no such account, or it takes no messages from you".into(),
            };
            return Err(Error::invalid(refused.into_iter().map(violation).collect()));
        }
        let now = self.app.clock.now();
        let kind = if direct { DIRECT } else { GROUP };
        let row = model::Conversation::new(self.app.rng.id(now)?, kind, &title, caller.account_id, now);
        let row = model::Conversation { encrypted, ..row };
        let (id, told) = conn
            .transaction(async |conn| {
                let id = match *members.as_slice() {
                    [one, other] if direct => row.insert_direct(conn, [one, other]).await?,
                    _ => row.insert(conn, &members).await.map(|()| row.id)?,
                };
                let joined = joined_event(id, &caller.account_id.to_string());
                // Of several who start a conversation of two at once, one has told.
                let members = if id == row.id { members.as_slice() } else { &[] };
                let events: Vec<_> = members.iter().map(|member| (*member, joined.clone())).collect();
                Ok::<_, Error>((id, account_events::append(conn, &events, now).await?))
            })
            .await?;
        self.app.account_events.announce(told).await;
        self.app.account_events.sight.changed(&members, &members).await;
        self.one(&mut conn, caller, id).await
    }

    /// A conversation as the caller sees it.
    pub(super) async fn one(&self, conn: &mut Conn, caller: &Caller, id: Uuid) -> Result<Conversation, Error> {
        let found = model::Conversation::of_member(conn, id, Visible::to(caller)?).await?;
        let mut conversations = self.shown(conn, caller, vec![found]).await?;
        conversations.pop().ok_or_else(|| Error::not_found("conversation"))
    }

    /// Conversations as the caller sees them.
    async fn shown(
        &self,
        conn: &mut Conn,
        caller: &Caller,
        rows: Vec<(model::Conversation, model::Member)>,
    ) -> Result<Vec<Conversation>, Error> {
        let ids: Vec<_> = rows.iter().map(|(row, _)| row.id).collect();
        let members = model::Conversation::members(conn, &ids).await?;
        let now = self.app.clock.now();
        let newest = rows.iter().filter_map(|(row, _)| {
            let kept = |at: &DateTime<Utc>| *at >= self.kept_since(row);
            Some((row.id, row.last_message_seq, row.last_message_at.filter(kept)?))
        });
        let mut last = model::Message::at(conn, caller.account_id, &newest.collect::<Vec<_>>(), now).await?;
        model::Message::read_ciphertexts(conn, &mut last, ROOM).await?;
        let unread = model::unread(conn, &rows, |row| self.kept_since(row)).await?;
        let viewer = Viewer::all(caller);
        let show = |((row, member), unread): (&(model::Conversation, model::Member), i64)| {
            let last = last.iter().find(|message| message.conversation_id == row.id);
            let members = members.iter().filter(|(of, _)| *of == row.id).map(|(_, member)| *member);
            messaging_wire::own_conversation(row, member, unread, &viewer, last, members)
        };
        Ok(rows.iter().zip(unread).map(show).collect())
    }

    async fn list(
        &self,
        caller: &Caller,
        request: &ListConversationsRequest,
    ) -> Result<ListConversationsResponse, Error> {
        let kind = if request.archived { ARCHIVED_CONVERSATIONS } else { CONVERSATIONS };
        let after = place(kind, &request.page_token)?;
        let size = pages::size(request.page_size);
        let mut conn = self.app.db.get().await?;
        let reader = Visible::to(caller)?;
        let mut rows = model::Conversation::list(&mut conn, reader, request.archived, after, size + 1).await?;
        let key = |(last, member): &(model::Conversation, model::Member)| {
            let pinned = u8::from(member.pinned_at.is_some());
            [&[pinned], pages::time_key(last.active_at, last.id).as_slice()].concat()
        };
        let next_page_token = pages::cut(&mut rows, size, kind, key);
        let conversations = self.shown(&mut conn, caller, rows).await?;
        Ok(ListConversationsResponse { conversations, next_page_token })
    }

    async fn messages(&self, caller: &Caller, request: &ListMessagesRequest) -> Result<ListMessagesResponse, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let viewer = Viewer::of(caller, request.device_id.as_deref())?;
        let size = pages::size(request.page_size);
        let kind = if request.after_seq.is_some() { MESSAGES_OLDEST_FIRST } else { MESSAGES_NEWEST_FIRST };
        let place = pages::by_seq(kind, &request.page_token)?;
        let mut conn = self.app.db.get().await?;
        let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let from = match request.after_seq {
            Some(after) => model::From::After(place.map_or(after, |(seq, _)| seq)),
            None => model::From::Before(place.map_or(i64::MAX, |(seq, _)| seq), place.map(|(_, at)| at)),
        };
        let view = self.view(caller, &conversation);
        let mut rows = model::Message::page(&mut conn, view, id, from, size + 1).await?;
        let size = size.min(fitting(&rows, self.app.config.server.max_message_bytes));
        let next_page_token = pages::cut(&mut rows, size, kind, |last| pages::seq_key(last.seq, last.created_at));
        // The page is small enough already.
        model::Message::read_ciphertexts(&mut conn, &mut rows, usize::MAX).await?;
        Ok(ListMessagesResponse { messages: with_reactions(&mut conn, &viewer, id, &rows).await?, next_page_token })
    }
}

/// Messages of a conversation as the viewer sees them, with how they were reacted to.
pub(super) async fn with_reactions(
    conn: &mut Conn,
    viewer: &Viewer,
    id: Uuid,
    rows: &[model::Message],
) -> Result<Vec<Message>, Error> {
    let seqs: Vec<_> = rows.iter().map(|row| row.seq).collect();
    let reactions = model::Reaction::of_messages(conn, id, &seqs).await?;
    let show = |row: &model::Message| {
        let of_message = reactions.iter().filter(|reaction| reaction.message_seq == row.seq);
        let reactions = messaging_wire::reactions(of_message, viewer.account_id);
        Message { reactions, ..viewer.narrow(row.into()) }
    };
    Ok(rows.iter().map(show).collect())
}

/// The place in a token of a list of conversations; `None` for the first page.
fn place(kind: u8, token: &str) -> Result<Option<Place>, Error> {
    let Some(key) = pages::key::<25>(kind, token)? else { return Ok(None) };
    let (pinned, key) = key.split_first_chunk::<1>().unwrap_or((&[0], &[]));
    let (active_at, id) = pages::time(key)?;
    Ok(Some(Place { pinned: *pinned == [1], active_at, id }))
}

/// How many of these messages fit into one answer: at least one, and no more than half of what a message may be, which
/// leaves room for everything besides what messages say.
fn fitting(rows: &[model::Message], max_bytes: usize) -> i64 {
    let mut room = max_bytes / 2;
    let mut fits = |row: &&model::Message| {
        let needed = row.text.len() + row.ciphertext.len() + row.client_message_id.len() + 256;
        let fits = needed <= room;
        room = room.saturating_sub(needed);
        fits
    };
    i64::try_from(rows.iter().take_while(|row| fits(row)).count()).unwrap_or(i64::MAX).max(1)
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn create_conversation(
        &self,
        request: Request<CreateConversationRequest>,
    ) -> Result<Response<CreateConversationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let conversation = self.create(&caller, request.into_inner()).await?;
        Ok(Response::new(CreateConversationResponse { conversation: Some(conversation) }))
    }

    async fn list_conversations(
        &self,
        request: Request<ListConversationsRequest>,
    ) -> Result<Response<ListConversationsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.list(&caller, request.get_ref()).await?))
    }

    async fn get_conversation(
        &self,
        request: Request<GetConversationRequest>,
    ) -> Result<Response<GetConversationResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let id = wire::id("conversation_id", &request.get_ref().conversation_id)?;
        let mut conn = self.app.db.get().await.map_err(Status::from)?;
        let conversation = self.one(&mut conn, &caller, id).await?;
        Ok(Response::new(GetConversationResponse { conversation: Some(conversation) }))
    }

    async fn send_message(
        &self,
        request: Request<SendMessageRequest>,
    ) -> Result<Response<SendMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let new = self.new_message(&caller, request.into_inner())?;
        let message = self.committer.commit(new).await?;
        Ok(Response::new(SendMessageResponse { message: Some(message) }))
    }

    async fn list_messages(
        &self,
        request: Request<ListMessagesRequest>,
    ) -> Result<Response<ListMessagesResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        Ok(Response::new(self.messages(&caller, request.get_ref()).await?))
    }

    type SubscribeStream = BoxStream<'static, Result<SubscribeResponse, Status>>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Result<Response<Self::SubscribeStream>, Status> {
        // The server answers by `serve_subscribe` instead, which does not copy them.
        let events = self.watch(request).await?;
        Ok(events.map(|events| events.map_ok(Encoded::into_message).boxed()))
    }

    type ConnectStream = ReceiverStream<Result<ConnectResponse, Status>>;

    async fn connect(
        &self,
        request: Request<Streaming<ConnectRequest>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let caller = Caller::of(request.extensions())?;
        let (sender, receiver) = mpsc::channel(STREAM_BUFFER);
        tokio::spawn(connect::run(self.clone(), caller, request.into_inner(), sender));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}
