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
        File {
            name: "message-edits.json",
            description: "What your messages said before you edited them.",
            query: "SELECT e.conversation_id, e.message_seq, e.text, e.replaced_at FROM conversation_members c \
                    JOIN message_edits e ON e.conversation_id = c.conversation_id \
                    WHERE c.account_id = $1 AND EXISTS (SELECT FROM messages m WHERE m.conversation_id = e.conversation_id \
                        AND m.seq = e.message_seq AND m.created_at = e.message_created_at AND m.sender_id = $1) \
                    ORDER BY e.conversation_id, e.message_seq, e.place",
        },
        File {
            name: "reactions.json",
            description: "Your reactions to messages.",
            query: "SELECT conversation_id, message_seq, emoji, created_at FROM message_reactions WHERE account_id = $1 \
                    ORDER BY conversation_id, message_seq, emoji",
        },
        File {
            name: "hidden-messages.json",
            description: "The messages that you have deleted for yourself alone.",
            query: "SELECT conversation_id, message_seq FROM hidden_messages WHERE account_id = $1 \
                    ORDER BY conversation_id, message_seq",
        },
        File {
            name: "scheduled-messages.json",
            description: "Your messages that are to be sent later.",
            query: "SELECT id, conversation_id, text, send_at, created_at, refused_at FROM scheduled_messages \
                    WHERE account_id = $1 ORDER BY send_at, id",
        },
    ],
    left_out: &[
        ("direct_conversations", "which of the conversations of conversations.json are those of two"),
        ("conversation_events", "how conversations and messages have become what the files say"),
        ("join_links", "links to groups, as hashes; about nobody"),
        ("message_keys", "what messages were called by their senders, as hashes"),
        ("message_documents", "the words of the messages of messages.json, for search"),
        ("search_progress", "up to where search has read conversations"),
        ("message_partitions", "how messages are stored"),
        ("message_retention", "how many messages were deleted because they are no longer kept; about nobody"),
    ],
    erase: &[
        // Alone in a conversation: first its messages, some at a time, then itself.
        "DELETE FROM messages WHERE (conversation_id, seq) IN ( \
             SELECT m.conversation_id, m.seq FROM conversation_members c \
             JOIN messages m ON m.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND NOT EXISTS (SELECT FROM conversation_members o \
                 WHERE o.conversation_id = c.conversation_id AND o.account_id <> $1) LIMIT 5000)",
        "DELETE FROM conversation_events WHERE (conversation_id, seq) IN ( \
             SELECT e.conversation_id, e.seq FROM conversation_members c \
             JOIN conversation_events e ON e.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND NOT EXISTS (SELECT FROM conversation_members o \
                 WHERE o.conversation_id = c.conversation_id AND o.account_id <> $1) LIMIT 5000)",
        "DELETE FROM message_edits WHERE (conversation_id, message_seq, place) IN ( \
             SELECT e.conversation_id, e.message_seq, e.place FROM conversation_members c \
             JOIN message_edits e ON e.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND NOT EXISTS (SELECT FROM conversation_members o \
                 WHERE o.conversation_id = c.conversation_id AND o.account_id <> $1) LIMIT 5000)",
        // After the messages: search locks those while it reads them.
        "DELETE FROM message_documents WHERE (conversation_id, seq) IN ( \
             SELECT d.conversation_id, d.seq FROM conversation_members c \
             JOIN message_documents d ON d.conversation_id = c.conversation_id \
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
        // What is left of messages that have no text any more.
        "DELETE FROM message_edits WHERE (conversation_id, message_seq, place) IN ( \
             SELECT e.conversation_id, e.message_seq, e.place FROM conversation_members c \
             JOIN message_edits e ON e.conversation_id = c.conversation_id \
             JOIN messages m ON m.conversation_id = e.conversation_id AND m.seq = e.message_seq \
                 AND m.created_at = e.message_created_at \
             WHERE c.account_id = $1 AND m.text = '' LIMIT 5000)",
        "DELETE FROM message_documents WHERE (conversation_id, seq) IN ( \
             SELECT d.conversation_id, d.seq FROM conversation_members c \
             JOIN message_documents d ON d.conversation_id = c.conversation_id \
             JOIN messages m ON m.conversation_id = d.conversation_id AND m.seq = d.seq AND m.created_at = d.created_at \
             WHERE c.account_id = $1 AND m.text = '' LIMIT 5000)",
        // Its id in what others wrote and did: who was mentioned, forwarded, added, removed. One place at a time; what stands there
        // instead is as long, so that the rest can still be read.
        "UPDATE messages SET details = overlay(details PLACING convert_to('00000000-0000-0000-0000-000000000000', 'UTF8') \
                 FROM position(convert_to($1::text, 'UTF8') IN details)) \
         WHERE (conversation_id, seq) IN ( \
             SELECT m.conversation_id, m.seq FROM conversation_members c \
             JOIN messages m ON m.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND position(convert_to($1::text, 'UTF8') IN m.details) > 0 LIMIT 5000)",
        "UPDATE conversation_events SET event = overlay(event \
                 PLACING convert_to('00000000-0000-0000-0000-000000000000', 'UTF8') \
                 FROM position(convert_to($1::text, 'UTF8') IN event)) \
         WHERE (conversation_id, seq) IN ( \
             SELECT e.conversation_id, e.seq FROM conversation_members c \
             JOIN conversation_events e ON e.conversation_id = c.conversation_id \
             WHERE c.account_id = $1 AND position(convert_to($1::text, 'UTF8') IN e.event) > 0 LIMIT 5000)",
        "UPDATE account_events SET event = overlay(event \
                 PLACING convert_to('00000000-0000-0000-0000-000000000000', 'UTF8') \
                 FROM position(convert_to($1::text, 'UTF8') IN event)) \
         WHERE (account_id, seq) IN ( \
             SELECT e.account_id, e.seq FROM conversation_members c \
             JOIN conversation_members o ON o.conversation_id = c.conversation_id AND o.account_id <> c.account_id \
             JOIN account_events e ON e.account_id = o.account_id \
             WHERE c.account_id = $1 AND position(convert_to($1::text, 'UTF8') IN e.event) > 0 LIMIT 5000)",
        "DELETE FROM jobs WHERE kind = 'messaging.scheduled' AND unique_key IN ( \
             SELECT id::text FROM scheduled_messages WHERE account_id = $1)",
        "DELETE FROM scheduled_messages WHERE account_id = $1",
        "DELETE FROM hidden_messages WHERE account_id = $1",
        "DELETE FROM message_reactions WHERE account_id = $1",
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
