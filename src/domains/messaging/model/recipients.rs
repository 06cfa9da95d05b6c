//! For which devices the ciphertext of a batch must be.

use diesel::pg::Pg;
use diesel::prelude::*;
use diesel::query_builder::{AstPass, Query, QueryFragment, QueryId};
use diesel::sql_types::{Array, Bool, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::batch::{Content, Encrypted, NewMessage};
use crate::domains::keys::{self, DeviceRef};
use crate::domains::messaging::encryption;
use crate::kernel::db::Conn;
use crate::kernel::error::{Error, Reason};

/// A member of a conversation, as a sender of the batch sees it.
#[derive(Queryable)]
struct Recipient {
    conversation_id: Uuid,
    sender_id: Uuid,
    account_id: Uuid,
    /// It is active, and neither blocks the other.
    reachable: bool,
}

/// Why messages of a batch can't be taken as what they are, text or ciphertext: one answer for each. To be called under the
/// locks of their conversations, of which `encrypted` says whether they are. For all the ciphertext of a batch two statements,
/// for text none.
pub async fn refusals(
    conn: &mut Conn,
    batch: &[NewMessage],
    encrypted: &[(Uuid, bool)],
) -> Result<Vec<Option<Error>>, Error> {
    let is_encrypted = |new: &NewMessage| {
        let found = encrypted.binary_search_by_key(&new.conversation_id, |(id, _)| *id).ok();
        found.map(|index| encrypted[index].1)
    };
    let ciphertexts = batch.iter().filter(|new| is_encrypted(new) == Some(true));
    let ciphertexts: Vec<_> = ciphertexts.filter(|new| matches!(new.content, Content::Encrypted(_))).collect();
    let (recipients, devices) = directory(conn, &ciphertexts).await?;
    let refusal = |new: &NewMessage| match (&new.content, is_encrypted(new)) {
        (Content::Text(_), Some(true)) => Some(encryption::required("text")),
        (Content::Encrypted(_), Some(false)) => {
            let message = "the conversation is not encrypted: it takes no ciphertext";
            Some(Error::new(Reason::ConversationNotEncrypted, message).at_field("encrypted"))
        }
        (Content::Encrypted(content), Some(true)) => check(new, content, &recipients, &devices).err(),
        // There is no such conversation, or nothing to be said against it.
        _ => None,
    };
    Ok(batch.iter().map(refusal).collect())
}

/// The members of the conversations of these messages, and their devices.
async fn directory(conn: &mut Conn, messages: &[&NewMessage]) -> Result<(Vec<Recipient>, Vec<DeviceRef>), Error> {
    if messages.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let mut senders: Vec<_> = messages.iter().map(|new| (new.conversation_id, new.sender_id)).collect();
    senders.sort_unstable();
    senders.dedup();
    let (conversations, senders) = senders.into_iter().unzip();
    let recipients: Vec<Recipient> = Recipients { conversations, senders }.load(conn).await?;
    let reachable = recipients.iter().filter(|recipient| recipient.reachable);
    let mut accounts: Vec<_> = reachable.map(|recipient| recipient.account_id).collect();
    accounts.sort_unstable();
    accounts.dedup();
    let devices = keys::devices_of(conn, &accounts).await?;
    Ok((recipients, devices))
}

fn check(new: &NewMessage, content: &Encrypted, recipients: &[Recipient], devices: &[DeviceRef]) -> Result<(), Error> {
    let of_message = |recipient: &&Recipient| {
        (recipient.conversation_id, recipient.sender_id) == (new.conversation_id, new.sender_id)
    };
    let members: Vec<_> = recipients.iter().filter(of_message).collect();
    let is_member = members.iter().any(|member| member.account_id == new.sender_id);
    let is_cut_off = members.len() == 2 && members.iter().any(|member| !member.reachable);
    if !is_member || is_cut_off {
        // Refused all the same, by whoever inserts it, for a reason that says nothing of devices.
        return Ok(());
    }
    let of = |account: Uuid| {
        let first = devices.partition_point(|device| device.account_id < account);
        devices[first..].iter().take_while(move |device| device.account_id == account)
    };
    if !of(new.sender_id).any(|device| device.device_id == content.sender_device) {
        let message = "the sender has not registered this device, or has removed it";
        return Err(Error::new(Reason::DeviceNotRegistered, message).at_field("encrypted.sender_device_id"));
    }
    let sending = (new.sender_id, content.sender_device);
    let reachable = members.iter().filter(|member| member.reachable);
    let expected = reachable.flat_map(|member| of(member.account_id)).copied();
    let expected: Vec<_> = expected.filter(|device| (device.account_id, device.device_id) != sending).collect();
    encryption::require_devices(&expected, &content.devices)
}

/// The members of conversations, for each of them and a sender. `accounts` and `user_blocks` are read, as [`super::batch`] does.
#[derive(Debug)]
struct Recipients {
    conversations: Vec<Uuid>,
    senders: Vec<Uuid>,
}

impl QueryFragment<Pg> for Recipients {
    fn walk_ast<'b>(&'b self, mut out: AstPass<'_, 'b, Pg>) -> QueryResult<()> {
        out.push_sql(
            "SELECT i.conversation_id, i.sender_id, m.account_id, a.state = 'active' \
                 AND NOT EXISTS (SELECT FROM user_blocks b \
                     WHERE b.blocker_id = m.account_id AND b.blocked_id = i.sender_id) \
                 AND NOT EXISTS (SELECT FROM user_blocks b \
                     WHERE b.blocker_id = i.sender_id AND b.blocked_id = m.account_id) \
             FROM unnest(",
        );
        out.push_bind_param::<Array<SqlUuid>, _>(&self.conversations)?;
        out.push_sql(", ");
        out.push_bind_param::<Array<SqlUuid>, _>(&self.senders)?;
        out.push_sql(
            ") AS i (conversation_id, sender_id) \
             JOIN conversation_members m ON m.conversation_id = i.conversation_id AND m.left_at IS NULL \
             JOIN accounts a ON a.id = m.account_id",
        );
        Ok(())
    }
}

impl QueryId for Recipients {
    type QueryId = Self;
    const HAS_STATIC_QUERY_ID: bool = true;
}

impl Query for Recipients {
    type SqlType = (SqlUuid, SqlUuid, SqlUuid, Bool);
}
