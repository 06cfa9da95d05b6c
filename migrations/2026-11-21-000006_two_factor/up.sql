-- Two-factor authentication: secrets, backup codes, and logins that wait for a code.

-- Whether a login needs a code. Written in the transaction that enables or disables it.
ALTER TABLE accounts ADD COLUMN two_factor boolean NOT NULL DEFAULT false;

-- When its owner last proved who they are: at login, or again since.
ALTER TABLE sessions ADD COLUMN reauthenticated_at timestamptz;

CREATE TABLE two_factor (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    -- The TOTP secret (RFC 6238), sealed for this row.
    secret bytea NOT NULL,
    created_at timestamptz NOT NULL,
    -- NULL while it is being set up.
    enabled_at timestamptz,
    -- The newest time step whose code was accepted. Codes of this step and of earlier ones are refused.
    last_step bigint NOT NULL DEFAULT 0
);

CREATE TABLE backup_codes (
    account_id uuid NOT NULL REFERENCES two_factor ON DELETE CASCADE,
    -- SHA-256 of the account and the code. A code is 120 random bits, so a fast hash is enough.
    hash bytea NOT NULL,
    created_at timestamptz NOT NULL,
    used_at timestamptz,
    PRIMARY KEY (account_id, hash)
);

-- A login whose password was right, waiting for its code.
CREATE TABLE login_challenges (
    -- SHA-256 of the token.
    hash bytea PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    -- SHA-256 of the account's token version and password hash: when either changes, the challenge is void.
    credentials bytea NOT NULL,
    -- SHA-256 of the client's user agent and network.
    client bytea NOT NULL,
    attempts smallint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL
);
CREATE INDEX login_challenges_account_id ON login_challenges (account_id);
CREATE INDEX login_challenges_expires_at ON login_challenges (expires_at);
