-- Accounts, their sessions, and the refresh tokens that keep a session going.

CREATE TABLE accounts (
    id uuid PRIMARY KEY,
    -- Lower case; the application folds it before it compares or stores.
    email text NOT NULL UNIQUE CHECK (email = lower(email)),
    display_name text NOT NULL,
    -- Argon2id in the PHC string format.
    password_hash text NOT NULL,
    role text NOT NULL CHECK (role IN ('user', 'admin')),
    state text NOT NULL CHECK (state IN ('unverified', 'pending', 'active', 'rejected', 'suspended', 'deleted')),
    -- Access tokens carry the version they were made under; raising it invalidates all of them.
    token_version integer NOT NULL DEFAULT 0,
    email_verified_at timestamptz,
    approved_at timestamptz,
    rejection_reason text,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL
);

CREATE TABLE sessions (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    -- Moves with every refresh.
    last_seen_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    user_agent text NOT NULL,
    address text NOT NULL
);
CREATE INDEX sessions_account_id ON sessions (account_id);
CREATE INDEX sessions_expires_at ON sessions (expires_at);

CREATE TABLE refresh_tokens (
    -- SHA-256. The token is 32 random bytes, so a fast hash without salt is enough.
    hash bytea PRIMARY KEY,
    session_id uuid NOT NULL REFERENCES sessions ON DELETE CASCADE,
    created_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL,
    -- Set when it was exchanged. Presented once more, it ends the session.
    used_at timestamptz
);
CREATE INDEX refresh_tokens_session_id ON refresh_tokens (session_id);
