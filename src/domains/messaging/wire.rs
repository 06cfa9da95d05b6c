//! Between rows and the contract.

use uuid::Uuid;

use super::model;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::messaging::v1::{Conversation, Message, SubscribeResponse, subscribe_response};

impl From<&model::Message> for Message {
    fn from(message: &model::Message) -> Self {
        Self {
            id: message.id.to_string(),
            conversation_id: message.conversation_id.to_string(),
            seq: message.seq,
            sender_id: message.sender_id.to_string(),
            client_message_id: message.client_message_id.clone(),
            text: message.text.clone(),
            created_at: Some(timestamp(message.created_at)),
        }
    }
}

impl From<Message> for SubscribeResponse {
    fn from(message: Message) -> Self {
        Self { seq: message.seq, event: Some(subscribe_response::Event::Message(message)) }
    }
}

/// A conversation with its members.
pub fn conversation(conversation: &model::Conversation, members: impl Iterator<Item = Uuid>) -> Conversation {
    Conversation {
        id: conversation.id.to_string(),
        title: conversation.title.clone(),
        member_ids: members.map(|id| id.to_string()).collect(),
        created_by: conversation.created_by.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(timestamp(conversation.created_at)),
        active_at: Some(timestamp(conversation.active_at)),
        last_seq: conversation.last_seq,
    }
}
