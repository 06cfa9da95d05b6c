-- Archives of what is held about an account, its erasure, and changes of its e-mail address.

-- An account has at most one archive, ready or being made.
CREATE TABLE exports (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL UNIQUE REFERENCES accounts ON DELETE CASCADE,
    state text NOT NULL CHECK (state IN ('waiting', 'running', 'ready')),
    -- Grows with each worker that begins. What an earlier one still writes is refused.
    attempt integer NOT NULL DEFAULT 0,
    files_done integer NOT NULL DEFAULT 0,
    -- How many there will be; 0 until a worker begins.
    files integer NOT NULL DEFAULT 0,
    -- Bytes of the archive, when it is ready.
    size bigint NOT NULL DEFAULT 0,
    requested_at timestamptz NOT NULL,
    ready_at timestamptz,
    -- Afterwards it counts as gone, finished or not.
    expires_at timestamptz NOT NULL
);
CREATE INDEX exports_expires_at ON exports (expires_at);

-- The bytes of archives. In Postgres, so that every node can serve what any worker made.
CREATE TABLE export_chunks (
    export_id uuid NOT NULL REFERENCES exports ON DELETE CASCADE,
    attempt integer NOT NULL,
    position integer NOT NULL,
    data bytea NOT NULL,
    PRIMARY KEY (export_id, attempt, position)
);
-- Compressed already.
ALTER TABLE export_chunks ALTER COLUMN data SET STORAGE EXTERNAL;

-- Deleted accounts that will be erased.
CREATE TABLE erasures (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    -- Random. Stands in the audit log in place of the account; that the two belong together is known only here.
    pseudonym uuid NOT NULL,
    -- The account's state before, for a change of mind.
    state_before text NOT NULL,
    -- Whether its owner wants it, who alone may cancel it by mail.
    by_owner boolean NOT NULL,
    -- SHA-256 of the newest token that was mailed to cancel it.
    token_hash bytea UNIQUE,
    requested_at timestamptz NOT NULL,
    erase_at timestamptz NOT NULL,
    -- From then on nothing can be cancelled.
    begun boolean NOT NULL DEFAULT false
);

-- The e-mail address that an account is to have, when somebody has proven to read mail to it.
CREATE TABLE email_changes (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    new_email text NOT NULL CHECK (new_email = lower(new_email)),
    -- The session that asked, which goes on when the others end.
    session_id uuid NOT NULL,
    -- SHA-256 of the newest token that was mailed to the new address.
    token_hash bytea UNIQUE,
    token_expires_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX email_changes_created_at ON email_changes (created_at);

-- Addresses that an account had when a change was asked for, which can take it back.
CREATE TABLE email_undos (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    email text NOT NULL CHECK (email = lower(email)),
    -- SHA-256 of the newest token that was mailed to it.
    token_hash bytea UNIQUE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    UNIQUE (account_id, email)
);
CREATE INDEX email_undos_expires_at ON email_undos (expires_at);

-- A conversation outlives who began it.
ALTER TABLE conversations
    ALTER COLUMN created_by DROP NOT NULL,
    DROP CONSTRAINT conversations_created_by_fkey,
    ADD CONSTRAINT conversations_created_by_fkey FOREIGN KEY (created_by) REFERENCES accounts ON DELETE SET NULL;
-- So that an erasure does not read all of them.
CREATE INDEX conversations_created_by ON conversations (created_by);
