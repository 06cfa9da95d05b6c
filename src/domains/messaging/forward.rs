//! Forwarding: the server copies a message that the caller sees, and says where it came from.

use prost::Message as _;

use super::model::{self, Content, NewMessage, Visible};
use super::service::MessagingService;
use crate::kernel::caller::Caller;
use crate::kernel::error::{Error, Reason};
use crate::kernel::wire::{self, timestamp};
use crate::proto::rialto::messaging::v1::{Forward, ForwardMessageRequest, Message, MessageDetails};

impl MessagingService {
    /// Sends the text and files of a message to another conversation. What is forwarded again is still of who first sent it.
    pub(super) async fn forward(&self, caller: &Caller, request: ForwardMessageRequest) -> Result<Message, Error> {
        let from = wire::id("from_conversation_id", &request.from_conversation_id)?;
        let to = wire::id("conversation_id", &request.conversation_id)?;
        let source = {
            let mut conn = self.app().db.get().await?;
            let (conversation, _) = model::Conversation::of_member(&mut conn, from, Visible::to(caller)?).await?;
            if conversation.encrypted {
                let message = "the server can't read what is encrypted; send it again instead";
                return Err(Error::new(Reason::ResourceConflict, message));
            }
            let source =
                model::Message::one(&mut conn, self.view(caller, &conversation), from, request.from_seq).await?;
            source.ok_or_else(|| Error::not_found("message"))?
        };
        if source.deleted_at.is_some() {
            return Err(Error::new(Reason::ResourceDeleted, "the message was deleted"));
        }
        let details = source.details.as_deref().and_then(|details| MessageDetails::decode(details).ok());
        let details = details.unwrap_or_default();
        let first =
            || Forward { sender_id: source.sender_id.to_string(), created_at: Some(timestamp(source.created_at)) };
        // Whom it mentions, what it answers and what it is about stay where they are.
        let details = MessageDetails {
            forwarded: Some(details.forwarded.unwrap_or_else(first)),
            attachments: details.attachments,
            ..MessageDetails::default()
        };
        let new = NewMessage {
            id: self.app().rng.id(self.app().clock.now())?,
            conversation_id: to,
            sender_id: caller.account_id,
            client_message_id: request.client_message_id,
            content: Content::Text(source.text),
            details: Some(details.encode_to_vec()),
        };
        self.committer().commit(new).await
    }
}
