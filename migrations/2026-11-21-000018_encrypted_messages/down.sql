-- Encrypted conversations of two stay, and are no longer found by their members.
DELETE FROM direct_conversations WHERE encrypted;
ALTER TABLE direct_conversations DROP CONSTRAINT direct_conversations_pkey;
ALTER TABLE direct_conversations DROP COLUMN encrypted;
ALTER TABLE direct_conversations ADD PRIMARY KEY (low, high);

ALTER TABLE messages DROP COLUMN ciphertext;
