//! `rialto.messaging.v1.MessageService`: single messages.

use prost::Message as _;
use tonic::{Request, Response, Status};
use uuid::Uuid;

use super::changes::Locked;
use super::encryption::{self, Viewer};
use super::model::{self, MEMBER, Reaction, Visible};
use super::service::{MessagingService, with_reactions};
use crate::domains::auth;
use crate::kernel::caller::Caller;
use crate::kernel::db::PooledConn;
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::messaging::v1::message_service_server::MessageService as Contract;
use crate::proto::rialto::messaging::v1::subscribe_response::Event;
use crate::proto::rialto::messaging::v1::{
    self as contract, AddReactionRequest, AddReactionResponse, DeleteMessageRequest, DeleteMessageResponse,
    EditMessageRequest, EditMessageResponse, ForwardMessageRequest, ForwardMessageResponse, GetMessageRequest,
    GetMessageResponse, ListMessageEditsRequest, ListMessageEditsResponse, ListReactionsRequest, ListReactionsResponse,
    Message, MessageDeleted, MessageDetails, MessageEdit, ReactionChanged, RemoveReactionRequest,
    RemoveReactionResponse,
};

/// How often a message can be edited.
const EDITS: i32 = 100;
/// Reactions of an account to a message, and different ones that a message takes.
const REACTIONS_OF_ACCOUNT: usize = 10;
const REACTIONS: usize = 50;

impl MessagingService {
    async fn message(&self, caller: &Caller, request: &GetMessageRequest) -> Result<Message, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let viewer = Viewer::of(caller, request.device_id.as_deref())?;
        let mut conn = self.app().db.get().await?;
        let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let row = model::Message::one(&mut conn, self.view(caller, &conversation), id, request.seq).await?;
        let mut rows = [row.ok_or_else(no_message)?];
        model::Message::read_ciphertexts(&mut conn, &mut rows, usize::MAX).await?;
        let mut messages = with_reactions(&mut conn, &viewer, id, &rows).await?;
        messages.pop().ok_or_else(no_message)
    }

    /// The conversation of a message that the caller sees, and a connection to read more of it.
    async fn readable(
        &self,
        caller: &Caller,
        conversation_id: &str,
        seq: i64,
    ) -> Result<(Uuid, PooledConn<'_>), Error> {
        let id = wire::id("conversation_id", conversation_id)?;
        let mut conn = self.app().db.get().await?;
        let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
        let found = model::Message::one(&mut conn, self.view(caller, &conversation), id, seq).await?;
        found.map(|_| (id, conn)).ok_or_else(no_message)
    }

    async fn edit(&self, caller: &Caller, request: EditMessageRequest) -> Result<Message, Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            if locked.conversation.encrypted {
                return Err(encryption::required("text"));
            }
            let row = model::Message::one(conn, self.view(caller, &locked.conversation), id, request.seq).await?;
            let mut row = row.filter(|row| row.sender_id == caller.account_id).ok_or_else(no_message)?;
            let mut details =
                row.details.as_deref().and_then(|details| MessageDetails::decode(details).ok()).unwrap_or_default();
            if row.deleted_at.is_some() {
                return Err(Error::new(Reason::ResourceDeleted, "the message was deleted"));
            }
            if details.forwarded.is_some() {
                return Err(Error::new(Reason::ResourceConflict, "what was forwarded can't be edited"));
            }
            locked.require_may_write(conn, now).await?;
            if row.text == request.text && details.mentions == request.mentions {
                return Ok((Message::from(&row), None));
            }
            if !row.keep_edit(conn, EDITS, now).await? {
                let message = format!("a message can be edited {EDITS} times");
                return Err(Error::new(Reason::ResourceConflict, message));
            }
            details.mentions = request.mentions;
            row.text = request.text;
            row.details = Some(details.encode_to_vec()).filter(|details| !details.is_empty());
            row.edited_at = Some(now);
            row.store_content(conn).await?;
            let message = Message::from(&row);
            Ok((message.clone(), Some(Event::Edited(message))))
        })
        .await
    }

    async fn delete(&self, caller: &Caller, request: DeleteMessageRequest) -> Result<(), Error> {
        let id = wire::id("conversation_id", &request.conversation_id)?;
        let now = self.app().clock.now();
        if !request.for_all {
            let mut conn = self.app().db.get().await?;
            let (conversation, _) = model::Conversation::of_member(&mut conn, id, Visible::to(caller)?).await?;
            let view = self.view(caller, &conversation);
            if let Some(row) = model::Message::one(&mut conn, view, id, request.seq).await? {
                row.hide(&mut conn, caller.account_id).await?;
            }
            return Ok(());
        }
        self.change(caller, id, async |conn, locked: Locked| {
            let row = model::Message::one(conn, self.view(caller, &locked.conversation), id, request.seq).await?;
            let mut row = row.ok_or_else(no_message)?;
            if row.sender_id != caller.account_id && locked.member.role == MEMBER {
                let message = "only its sender and the group's administrators delete a message for all";
                return Err(Error::new(Reason::InsufficientPermissions, message));
            }
            if row.deleted_at.is_some() {
                return Ok(((), None));
            }
            row.deleted_at = Some(now);
            row.text.clear();
            row.details = None;
            row.store_content(conn).await?;
            row.forget_edits(conn).await?;
            Reaction::delete_all(conn, id, request.seq).await?;
            let deleted = MessageDeleted {
                message_seq: request.seq,
                deleted_by: caller.account_id.to_string(),
                deleted_at: Some(timestamp(now)),
            };
            Ok(((), Some(Event::Deleted(deleted))))
        })
        .await
    }

    async fn react(&self, caller: &Caller, id: &str, seq: i64, emoji: &str, add: bool) -> Result<(), Error> {
        let id = wire::id("conversation_id", id)?;
        // Emoji are many code points, and more every year: whatever is neither a letter nor space, and seen, as names are.
        let is_text = |c: char| c.is_alphabetic() || c.is_whitespace();
        if emoji.is_ascii() || emoji.chars().any(is_text) || auth::display_name(emoji).is_err() {
            return Err(Error::invalid_field("emoji", "must be an emoji"));
        }
        let now = self.app().clock.now();
        self.change(caller, id, async |conn, locked: Locked| {
            if add && locked.conversation.encrypted {
                return Err(encryption::required("emoji"));
            }
            let row = model::Message::one(conn, self.view(caller, &locked.conversation), id, seq).await?;
            let row = row.filter(|row| row.deleted_at.is_none()).ok_or_else(no_message)?;
            let changed = if add {
                locked.require_may_write(conn, now).await?;
                let all = Reaction::all(conn, id, seq).await?;
                let mine = all.iter().filter(|reaction| reaction.account_id == caller.account_id).count();
                let mut kinds: Vec<_> = all.iter().map(|reaction| reaction.emoji.as_str()).collect();
                kinds.sort_unstable();
                kinds.dedup();
                let is_there =
                    |reaction: &Reaction| reaction.account_id == caller.account_id && reaction.emoji == emoji;
                if all.iter().any(is_there) {
                    false
                } else if mine >= REACTIONS_OF_ACCOUNT || (kinds.len() >= REACTIONS && !kinds.contains(&emoji)) {
                    return Err(Error::new(Reason::ResourceConflict, "the message has as many reactions as it takes"));
                } else {
                    Reaction::new(&row, caller.account_id, emoji, now).insert(conn).await?;
                    true
                }
            } else {
                Reaction::delete(conn, id, seq, caller.account_id, emoji).await?
            };
            let event = ReactionChanged {
                message_seq: seq,
                account_id: caller.account_id.to_string(),
                emoji: emoji.to_owned(),
                removed: !add,
            };
            Ok(((), changed.then_some(Event::Reaction(event))))
        })
        .await
    }
}

fn no_message() -> Error {
    Error::not_found("message")
}

#[tonic::async_trait]
impl Contract for MessagingService {
    async fn get_message(&self, request: Request<GetMessageRequest>) -> Result<Response<GetMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let message = self.message(&caller, request.get_ref()).await?;
        Ok(Response::new(GetMessageResponse { message: Some(message) }))
    }

    async fn edit_message(
        &self,
        request: Request<EditMessageRequest>,
    ) -> Result<Response<EditMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let message = self.edit(&caller, request.into_inner()).await?;
        Ok(Response::new(EditMessageResponse { message: Some(message) }))
    }

    async fn list_message_edits(
        &self,
        request: Request<ListMessageEditsRequest>,
    ) -> Result<Response<ListMessageEditsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let ListMessageEditsRequest { conversation_id, seq } = request.into_inner();
        let (id, mut conn) = self.readable(&caller, &conversation_id, seq).await?;
        let edits = model::Message::edits(&mut conn, id, seq).await?.into_iter();
        let edits = edits.map(|(text, at)| MessageEdit { text, replaced_at: Some(timestamp(at)) }).collect();
        Ok(Response::new(ListMessageEditsResponse { edits }))
    }

    async fn delete_message(
        &self,
        request: Request<DeleteMessageRequest>,
    ) -> Result<Response<DeleteMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        self.delete(&caller, request.into_inner()).await?;
        Ok(Response::new(DeleteMessageResponse {}))
    }

    async fn forward_message(
        &self,
        request: Request<ForwardMessageRequest>,
    ) -> Result<Response<ForwardMessageResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let message = self.forward(&caller, request.into_inner()).await?;
        Ok(Response::new(ForwardMessageResponse { message: Some(message) }))
    }

    async fn add_reaction(
        &self,
        request: Request<AddReactionRequest>,
    ) -> Result<Response<AddReactionResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let AddReactionRequest { conversation_id, seq, emoji } = request.get_ref();
        self.react(&caller, conversation_id, *seq, emoji, true).await?;
        Ok(Response::new(AddReactionResponse {}))
    }

    async fn remove_reaction(
        &self,
        request: Request<RemoveReactionRequest>,
    ) -> Result<Response<RemoveReactionResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let RemoveReactionRequest { conversation_id, seq, emoji } = request.get_ref();
        self.react(&caller, conversation_id, *seq, emoji, false).await?;
        Ok(Response::new(RemoveReactionResponse {}))
    }

    async fn list_reactions(
        &self,
        request: Request<ListReactionsRequest>,
    ) -> Result<Response<ListReactionsResponse>, Status> {
        let caller = Caller::of(request.extensions())?;
        let ListReactionsRequest { conversation_id, seq } = request.into_inner();
        let (id, mut conn) = self.readable(&caller, &conversation_id, seq).await?;
        let reactions = Reaction::all(&mut conn, id, seq).await?.into_iter();
        let reactions = reactions.map(|reaction| contract::Reaction {
            account_id: reaction.account_id.to_string(),
            emoji: reaction.emoji,
            created_at: Some(timestamp(reaction.created_at)),
        });
        Ok(Response::new(ListReactionsResponse { reactions: reactions.collect() }))
    }
}
