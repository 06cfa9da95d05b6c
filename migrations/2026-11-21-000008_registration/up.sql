-- What leads to an account, back into one, and which devices it knows.

-- Who has registered an address and not verified it. Held apart from accounts: until then nobody knows whose address it is,
-- and there may be several for one, some of them for an address that has an account.
CREATE TABLE registrations (
    id uuid PRIMARY KEY,
    email text NOT NULL CHECK (email = lower(email)),
    display_name text NOT NULL,
    password_hash text NOT NULL,
    -- SHA-256 of the newest token that was mailed for it.
    token_hash bytea UNIQUE,
    token_expires_at timestamptz,
    created_at timestamptz NOT NULL
);
CREATE INDEX registrations_email ON registrations (email, id);
CREATE INDEX registrations_created_at ON registrations (created_at);

-- The newest token to reset a password, if it was not used.
CREATE TABLE password_resets (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    -- SHA-256.
    token_hash bytea NOT NULL UNIQUE,
    expires_at timestamptz NOT NULL
);

-- Devices that an account has logged in from: random tokens that they keep.
CREATE TABLE known_devices (
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    -- SHA-256.
    token_hash bytea NOT NULL,
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, token_hash)
);

CREATE INDEX accounts_pending ON accounts (id) WHERE state = 'pending';
