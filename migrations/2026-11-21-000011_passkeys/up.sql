-- Passkeys (WebAuthn credentials), and ceremonies that wait for an authenticator.

CREATE TABLE passkeys (
    id uuid PRIMARY KEY,
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    -- As the authenticator names it (WebAuthn Level 3, section 4): 1023 bytes at most.
    credential_id bytea NOT NULL UNIQUE CHECK (octet_length(credential_id) BETWEEN 1 AND 1023),
    name text NOT NULL,
    -- Public key, signature counter and flags, as webauthn-rs writes them. Replaced by compare-and-set.
    credential jsonb NOT NULL,
    created_at timestamptz NOT NULL,
    last_used_at timestamptz
);
CREATE INDEX passkeys_account_id ON passkeys (account_id, id);

-- A challenge that was given out. It is deleted when it is answered, whatever comes of that.
CREATE TABLE passkey_ceremonies (
    -- SHA-256 of the token.
    hash bytea PRIMARY KEY,
    -- SHA-256 of what it is for, and of the session, client or login challenge that began it: nobody else can finish it.
    binding bytea NOT NULL,
    -- The challenge and what was asked, as webauthn-rs writes them.
    state jsonb NOT NULL,
    expires_at timestamptz NOT NULL
);
CREATE INDEX passkey_ceremonies_expires_at ON passkey_ceremonies (expires_at);

-- An account whose only second factor is a passkey has backup codes too.
ALTER TABLE backup_codes DROP CONSTRAINT backup_codes_account_id_fkey;
ALTER TABLE backup_codes ADD FOREIGN KEY (account_id) REFERENCES accounts ON DELETE CASCADE;
