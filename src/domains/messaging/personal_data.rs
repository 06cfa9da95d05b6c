//! What conversations hold about a person.

use crate::kernel::personal_data::{File, Part};

/// Conversations and messages. Who leaves stays as a row, so that an account's messages are in the conversations that it has a
/// row in, and nothing has to be found among all messages. What messages were called by their sender is kept as a hash, for as
/// long as messages are.
///
/// Erased messages stay as numbers without sender and text: conversations have no holes. A conversation goes altogether
/// when nobody else is left in it.
pub const PERSONAL_DATA: Part = Part {
    name: "messages",
    files: &[
        File {
            name: "conversations.json",
            description: "The conversations that you are a member of, with the ids of their members.",
            query: "SELECT c.id, c.kind, c.title, c.created_by, c.created_at, c.active_at, m.joined_at, m.left_at, m.role, \
                    m.muted_until, m.archived, m.pinned_at, m.read_seq, \
                    ARRAY(SELECT o.account_id FROM conversation_members o WHERE o.conversation_id = c.id \
                    AND o.left_at IS NULL ORDER BY o.account_id) AS members \
                    FROM conversation_members m JOIN conversations c ON c.id = m.conversation_id \
                    WHERE m.account_id = $1 ORDER BY c.id",
        },
        File {
            name: "messages.json",
            description: "The messages of these conversations, yours (your id is in account.json) and those sent to you. Those that \
                          are encrypted as the server has them (EncryptedContent in protobuf's encoding, in base64): only \
                          your devices can read them.",
            query: "SELECT m.conversation_id, m.seq, m.id, m.sender_id, m.client_message_id, m.text, \
                    translate(encode(m.ciphertext, 'base64'), E'\\n', '') AS ciphertext, m.created_at, m.edited_at, m.deleted_at \
                    FROM conversation_members c JOIN messages m ON m.conversation_id = c.conversation_id \
                    AND (c.left_at IS NULL OR m.created_at <= c.left_at) \
                    WHERE c.account_id = $1 ORDER BY m.conversation_id, m.seq",
        },
    ],
    left_out: &[],
    erase: &[
        // Alone in a conversation: first its messages, some at a time, then itself.
        "DELETE FROM messages WHERE (conversation_id, seq) IN ( \
             SELECT m.conversation_id, m.seq FROM conversation_members c \
             JOIN messages m ON m.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND NOT EXISTS (SELECT FROM conversation_members o \
                 WHERE o.conversation_id = c.conversation_id AND o.account_id <> $1) LIMIT 5000)",
        "DELETE FROM conversations WHERE id IN ( \
             SELECT c.conversation_id FROM conversation_members c \
             WHERE c.account_id = $1 AND NOT EXISTS (SELECT FROM conversation_members o \
                 WHERE o.conversation_id = c.conversation_id AND o.account_id <> $1) LIMIT 1000)",
        // The name that the client gave a message is unique for its sender; those of several erased senders might meet.
        "UPDATE messages SET sender_id = '00000000-0000-0000-0000-000000000000', text = '', details = NULL, ciphertext = NULL, \
             client_message_id = id::text \
         WHERE (conversation_id, seq) IN ( \
             SELECT m.conversation_id, m.seq FROM conversation_members c \
             JOIN messages m ON m.conversation_id = c.conversation_id AND m.sender_id = $1 \
             WHERE c.account_id = $1 LIMIT 5000)",
        // In the envelopes of what others have sent to it: what they hold nobody can read any more, and whose they were is
        // forgotten. In protobuf's encoding an id is its 36 characters; one envelope of each message at a time.
        "UPDATE messages SET ciphertext = overlay(ciphertext \
             PLACING convert_to('00000000-0000-0000-0000-000000000000', 'UTF8') \
             FROM position(convert_to($1::text, 'UTF8') IN ciphertext) FOR 36) \
         WHERE (conversation_id, seq) IN ( \
             SELECT m.conversation_id, m.seq FROM conversation_members c \
             JOIN messages m ON m.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND m.ciphertext IS NOT NULL \
             AND position(convert_to($1::text, 'UTF8') IN m.ciphertext) > 0 LIMIT 1000)",
        "DELETE FROM conversation_members WHERE account_id = $1",
    ],
};
