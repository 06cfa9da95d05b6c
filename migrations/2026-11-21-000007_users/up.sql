-- Profiles, privacy and blocks; and what lists and searches of accounts need.

-- Trusted since PostgreSQL 13: whoever may create in the database may install it.
CREATE EXTENSION IF NOT EXISTS pg_trgm;

-- An account without a row has a profile with the defaults.
CREATE TABLE profiles (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    handle text CONSTRAINT profiles_handle UNIQUE CHECK (handle ~ '^[a-z0-9][a-z0-9_.]{1,28}[a-z0-9]$'),
    bio text NOT NULL,
    avatar_url text NOT NULL,
    locale text NOT NULL,
    time_zone text NOT NULL,
    visibility text NOT NULL CHECK (visibility IN ('everyone', 'members', 'nobody')),
    messages_from text NOT NULL CHECK (messages_from IN ('everyone', 'contacts', 'nobody')),
    presence_to text NOT NULL CHECK (presence_to IN ('everyone', 'contacts', 'nobody')),
    -- Counts the changes.
    version bigint NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE user_blocks (
    blocker_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    -- Not a reference: that an id can be blocked must not tell whether it has an account.
    blocked_id uuid NOT NULL,
    created_at timestamptz NOT NULL,
    PRIMARY KEY (blocker_id, blocked_id)
);
CREATE INDEX user_blocks_list ON user_blocks (blocker_id, created_at, blocked_id);
CREATE INDEX user_blocks_blocked ON user_blocks (blocked_id);

-- The name as lists order it and searches compare it. Stored, because folding a name costs ten times as much as comparing
-- it; ordered by code point, so that an update of the system's locales does not spoil the index.
ALTER TABLE accounts
    ADD COLUMN folded_name text COLLATE "C" NOT NULL GENERATED ALWAYS AS (lower(display_name)) STORED;

-- The orders of lists.
CREATE INDEX accounts_name ON accounts (folded_name, id);
CREATE INDEX accounts_created ON accounts (created_at, id);
-- The filters of administrators. Nearly all accounts are active users: those are found by the orders.
CREATE INDEX accounts_state ON accounts (state, created_at, id) WHERE state <> 'active';
CREATE INDEX accounts_role ON accounts (role, created_at, id) WHERE role <> 'user';
CREATE INDEX accounts_email_prefix ON accounts ((email COLLATE "C"));
-- The search.
CREATE INDEX accounts_name_search ON accounts USING gin (folded_name gin_trgm_ops);
CREATE INDEX profiles_handle_search ON profiles USING gin (handle gin_trgm_ops);
