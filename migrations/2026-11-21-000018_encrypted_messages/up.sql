-- Messages that only the devices of members can read.

-- As rialto.messaging.v1.EncryptedContent, for all devices. Never compressed: nothing would be gained.
ALTER TABLE messages ADD COLUMN ciphertext bytea;
ALTER TABLE messages ALTER COLUMN ciphertext SET STORAGE EXTERNAL;
ALTER TABLE messages ADD CONSTRAINT messages_text_or_ciphertext CHECK (ciphertext IS NULL OR text = '');

-- Two accounts have one conversation that is encrypted and one that is not.
ALTER TABLE direct_conversations ADD COLUMN encrypted boolean NOT NULL DEFAULT false;
ALTER TABLE direct_conversations DROP CONSTRAINT direct_conversations_pkey;
ALTER TABLE direct_conversations ADD PRIMARY KEY (low, high, encrypted);
