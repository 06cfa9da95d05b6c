DROP INDEX accounts_email_prefix;
DROP INDEX accounts_role;
DROP INDEX accounts_state;
DROP INDEX accounts_created;
ALTER TABLE accounts DROP COLUMN folded_name; -- with its indexes
DROP TABLE user_blocks;
DROP TABLE profiles;
DROP EXTENSION pg_trgm;
