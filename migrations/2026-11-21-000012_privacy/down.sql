DROP INDEX conversations_created_by;
-- What is left of erased accounts has no place in the older schema.
DELETE FROM conversations WHERE created_by IS NULL;
ALTER TABLE conversations
    DROP CONSTRAINT conversations_created_by_fkey,
    ADD CONSTRAINT conversations_created_by_fkey FOREIGN KEY (created_by) REFERENCES accounts,
    ALTER COLUMN created_by SET NOT NULL;
DROP TABLE email_undos;
DROP TABLE email_changes;
DROP TABLE erasures;
DROP TABLE export_chunks;
DROP TABLE exports;
