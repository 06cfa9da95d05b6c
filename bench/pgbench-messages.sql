-- A message a transaction, which is one statement: take the next number of a conversation, keep the message under it.
-- The tables are those of src/messaging/tables.sql.
\set conversation random(1, :conversations)
\set message random(1, 9000000000000000000)
WITH next AS (UPDATE conversations SET last_seq = last_seq + 1 WHERE id = :conversation RETURNING last_seq)
INSERT INTO messages (conversation_id, seq, id, sender_id, client_message_id, text, created_at)
SELECT :conversation, last_seq, gen_random_uuid(), 1, lpad(:message::text, 36, '0'), :text::text, now() FROM next;
