//! Between rows and the contract.

use chrono::{DateTime, Utc};
use prost::Message as _;
use uuid::Uuid;

use super::encryption::Viewer;
use super::model::{self, ADMIN, Ciphertext, DIRECT, OWNER};
use crate::domains::auth;
use crate::kernel::error::Error;
use crate::kernel::wire::timestamp;
use crate::proto::rialto::messaging::v1::{
    Conversation, ConversationKind, EncryptedContent, Member, MemberRole, Membership, Message, MessageDetails, Passage,
    ReactionCount, SubscribeResponse, message, subscribe_response,
};

/// Characters of a last message that come with its conversation.
const SHOWN: usize = 500;

impl From<&model::Message> for Message {
    fn from(message: &model::Message) -> Self {
        Self {
            id: message.id.to_string(),
            conversation_id: message.conversation_id.to_string(),
            seq: message.seq,
            sender_id: message.sender_id.to_string(),
            client_message_id: message.client_message_id.clone(),
            content: content(message),
            created_at: Some(timestamp(message.created_at)),
            edited_at: message.edited_at.map(timestamp),
            deleted_at: message.deleted_at.map(timestamp),
            expires_at: message.expires_at.map(timestamp),
            // Written by this server; what it can't read it does not show.
            details: message.details.as_deref().and_then(|details| MessageDetails::decode(details).ok()),
            reactions: Vec::new(),
        }
    }
}

/// What a message says. Ciphertext that was not read is left out.
fn content(row: &model::Message) -> Option<message::Content> {
    match &row.ciphertext {
        Ciphertext::None => Some(message::Content::Text(row.text.clone())),
        Ciphertext::Unread(_) => None,
        // Written by this server, like the details.
        Ciphertext::Read(content) => EncryptedContent::decode(content.as_slice()).ok().map(message::Content::Encrypted),
    }
}

/// The answer to who has sent a message: it has the ciphertext already.
pub fn sent(mut row: model::Message) -> Message {
    if row.ciphertext != Ciphertext::None {
        row.ciphertext = Ciphertext::Unread(row.ciphertext.len());
    }
    Message::from(&row)
}

impl From<&model::Message> for SubscribeResponse {
    fn from(message: &model::Message) -> Self {
        Self { seq: message.seq, event: Some(subscribe_response::Event::Message(message.into())) }
    }
}

/// Whether all who may see an event see the same of it, whenever they look.
pub fn is_same_for_all(event: &SubscribeResponse) -> bool {
    use subscribe_response::Event::{Edited, Message};
    let Some(Message(shown) | Edited(shown)) = &event.event else { return true };
    shown.expires_at.is_none() && !matches!(shown.content, Some(message::Content::Encrypted(_)))
}

/// Takes the content out of an event's message, if that has disappeared.
pub fn as_of(event: &mut SubscribeResponse, now: DateTime<Utc>) {
    use subscribe_response::Event::{Edited, Message};
    let Some(Message(shown) | Edited(shown)) = &mut event.event else { return };
    let now = timestamp(now);
    if let Some(expired) = shown.expires_at.filter(|at| (at.seconds, at.nanos) <= (now.seconds, now.nanos)) {
        shown.deleted_at = shown.deleted_at.or(Some(expired));
        shown.content = match shown.content.take() {
            Some(message::Content::Text(_)) => Some(message::Content::Text(String::new())),
            _ => None,
        };
        shown.details = None;
    }
}

/// Passages in which U+0001 and U+0002 are around what was found, cut into pieces.
pub fn passages(marked: &str) -> Vec<Passage> {
    let mut pieces = Vec::new();
    let mut add = |text: &str, found: bool| {
        if !text.is_empty() {
            pieces.push(Passage { text: text.to_owned(), found });
        }
    };
    for (index, part) in marked.split('\u{1}').enumerate() {
        match part.split_once('\u{2}') {
            Some((found, rest)) if index > 0 => {
                add(found, true);
                add(rest, false);
            }
            _ => add(part, false),
        }
    }
    pieces
}

/// A group's title as it is stored: a name like those of accounts, or none.
pub fn title(field: &str, text: &str) -> Result<String, Error> {
    if text.is_empty() {
        return Ok(String::new());
    }
    auth::display_name(text).map_err(|description| Error::invalid_field(field, description))
}

/// What somebody sends with a message, as it is stored. Names of files are names, too: one that turns the direction of text
/// looks like a file of another type.
pub fn sent_details(mut details: MessageDetails) -> Result<MessageDetails, Error> {
    details.forwarded = None;
    let named = details.attachments.iter_mut().enumerate().filter(|(_, attachment)| !attachment.name.is_empty());
    for (index, attachment) in named {
        let wrong = |description| Error::invalid_field(format!("details.attachments[{index}].name"), description);
        attachment.name = auth::display_name(&attachment.name).map_err(wrong)?;
    }
    Ok(details)
}

/// A conversation as its members see it alike.
pub fn conversation(conversation: &model::Conversation, members: impl Iterator<Item = Uuid>) -> Conversation {
    Conversation {
        id: conversation.id.to_string(),
        title: conversation.title.clone(),
        member_ids: members.map(|id| id.to_string()).collect(),
        created_by: conversation.created_by.map(|id| id.to_string()).unwrap_or_default(),
        created_at: Some(timestamp(conversation.created_at)),
        active_at: Some(timestamp(conversation.active_at)),
        last_seq: conversation.last_seq,
        kind: kind(&conversation.kind).into(),
        avatar_url: conversation.avatar_url.clone(),
        encrypted: conversation.encrypted,
        disappear_after_seconds: conversation.disappear_seconds.unwrap_or_default(),
        retention_days: conversation.retention_days.unwrap_or_default(),
        last_message: None,
        unread_count: 0,
        membership: None,
    }
}

/// A conversation as this member sees it.
pub fn own_conversation(
    row: &model::Conversation,
    member: &model::Member,
    unread_count: i64,
    viewer: &Viewer,
    last_message: Option<&model::Message>,
    members: impl Iterator<Item = Uuid>,
) -> Conversation {
    Conversation {
        last_message: last_message.map(|message| viewer.narrow(shortened(message))),
        unread_count,
        membership: Some(membership(member)),
        ..conversation(row, members)
    }
}

/// A message as lists of conversations show it: two hundred long ones would be more than an answer holds.
fn shortened(row: &model::Message) -> Message {
    let mut message = Message::from(row);
    if let Some(message::Content::Text(text)) = &mut message.content
        && let Some((end, _)) = text.char_indices().nth(SHOWN)
    {
        text.truncate(end);
    }
    message
}

/// Reactions to one message, counted: the most frequent first, and of as frequent ones the one that came first.
pub fn reactions<'a>(reactions: impl Iterator<Item = &'a model::Reaction>, reader: Uuid) -> Vec<ReactionCount> {
    let mut counts: Vec<ReactionCount> = Vec::new();
    for reaction in reactions {
        let mine = reaction.account_id == reader;
        match counts.iter_mut().find(|count| count.emoji == reaction.emoji) {
            Some(count) => (count.count, count.mine) = (count.count + 1, count.mine || mine),
            None => counts.push(ReactionCount { emoji: reaction.emoji.clone(), count: 1, mine }),
        }
    }
    counts.sort_by_key(|count| std::cmp::Reverse(count.count));
    counts
}

/// What a conversation is to its member.
pub fn membership(member: &model::Member) -> Membership {
    Membership {
        role: role(&member.role).into(),
        muted_until: member.muted_until.map(timestamp),
        archived: member.archived,
        pinned: member.pinned_at.is_some(),
        delivered_seq: member.delivered_seq,
        read_seq: member.read_seq,
    }
}

/// A member as the others see it.
pub fn member(member: &model::Member) -> Member {
    Member {
        account_id: member.account_id.to_string(),
        role: role(&member.role).into(),
        joined_at: Some(timestamp(member.joined_at)),
        silenced_until: member.silenced_until.map(timestamp),
        delivered_seq: member.delivered_seq,
        read_seq: member.read_seq,
    }
}

fn kind(stored: &str) -> ConversationKind {
    if stored == DIRECT { ConversationKind::Direct } else { ConversationKind::Group }
}

fn role(stored: &str) -> MemberRole {
    match stored {
        OWNER => MemberRole::Owner,
        ADMIN => MemberRole::Admin,
        _ => MemberRole::Member,
    }
}
