-- One message a transaction: lock the conversation, insert under the next number unless the sender is no member or has
-- sent it before, count. The statements of src/domains/messaging/model.rs for one message, without their arrays.
\set n random(0, :conversations - 1)
\set conversation 100000000000 + :n
\set sender 100000000000 + :n % :accounts
\set message random(1, 9000000000000000000)
BEGIN;
SELECT last_seq FROM conversations WHERE id = ('00000000-0000-7000-8000-' || :conversation::text)::uuid FOR NO KEY UPDATE;
WITH inserted AS (
    INSERT INTO messages (conversation_id, seq, id, sender_id, client_message_id, text, created_at)
    SELECT c.id, c.last_seq + 1, gen_random_uuid(), m.account_id, lpad(:message::text, 36, '0'), :text::text, now()
    FROM conversations c
    JOIN conversation_members m ON m.conversation_id = c.id
        AND m.account_id = ('00000000-0000-7000-8000-' || :sender::text)::uuid
    WHERE c.id = ('00000000-0000-7000-8000-' || :conversation::text)::uuid
        AND NOT EXISTS (SELECT FROM messages e WHERE e.conversation_id = c.id AND e.sender_id = m.account_id
            AND e.client_message_id = lpad(:message::text, 36, '0'))
    RETURNING conversation_id, seq
)
UPDATE conversations c SET last_seq = i.seq, active_at = greatest(c.active_at, now())
FROM inserted i WHERE c.id = i.conversation_id;
COMMIT;
