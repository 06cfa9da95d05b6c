-- The public keys of end-to-end encryption: of accounts, of their devices, and the prekeys that others claim.

CREATE TABLE account_keys (
    account_id uuid PRIMARY KEY REFERENCES accounts ON DELETE CASCADE,
    -- Ed25519. It signs the account's devices.
    public_key bytea NOT NULL CHECK (octet_length(public_key) = 32),
    created_at timestamptz NOT NULL
);

CREATE TABLE devices (
    account_id uuid NOT NULL REFERENCES account_keys ON DELETE CASCADE,
    -- Chosen by the device. Unique for the account only: nobody can take the id of somebody else's device.
    device_id uuid NOT NULL,
    registration_id bigint NOT NULL CHECK (registration_id BETWEEN 1 AND 4294967295),
    -- X25519.
    identity_key bytea NOT NULL CHECK (octet_length(identity_key) = 32),
    -- Ed25519.
    signing_key bytea NOT NULL CHECK (octet_length(signing_key) = 32),
    -- By the account's key.
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    name text NOT NULL,
    created_at timestamptz NOT NULL,
    -- The day, not the moment.
    last_seen_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, device_id)
);
CREATE INDEX devices_last_seen_at ON devices (last_seen_at);

-- The prekey of each kind that is handed out as often as it is asked for.
CREATE TABLE signed_prekeys (
    account_id uuid NOT NULL,
    device_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('x25519', 'ml_kem_768')),
    key_id bigint NOT NULL CHECK (key_id BETWEEN 0 AND 4294967295),
    public_key bytea NOT NULL,
    -- By the device's signing key.
    signature bytea NOT NULL CHECK (octet_length(signature) = 64),
    set_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, device_id, kind),
    FOREIGN KEY (account_id, device_id) REFERENCES devices ON DELETE CASCADE,
    CHECK (octet_length(public_key) = CASE kind WHEN 'x25519' THEN 32 ELSE 1184 END)
);

-- Those that are handed out once.
CREATE TABLE one_time_prekeys (
    account_id uuid NOT NULL,
    device_id uuid NOT NULL,
    kind text NOT NULL CHECK (kind IN ('x25519', 'ml_kem_768')),
    key_id bigint NOT NULL CHECK (key_id BETWEEN 0 AND 4294967295),
    public_key bytea NOT NULL,
    -- By the device's signing key. One-time X25519 keys have none.
    signature bytea CHECK (octet_length(signature) = 64),
    -- Set when it was handed out. The row stays for a while, so that an upload that is repeated does not bring it back.
    claimed_at timestamptz,
    PRIMARY KEY (account_id, device_id, kind, key_id),
    FOREIGN KEY (account_id, device_id) REFERENCES devices ON DELETE CASCADE,
    CHECK (octet_length(public_key) = CASE kind WHEN 'x25519' THEN 32 ELSE 1184 END),
    CHECK ((signature IS NULL) = (kind = 'x25519'))
);
CREATE INDEX one_time_prekeys_unclaimed ON one_time_prekeys (account_id, device_id, kind, key_id) WHERE claimed_at IS NULL;
CREATE INDEX one_time_prekeys_claimed_at ON one_time_prekeys (claimed_at) WHERE claimed_at IS NOT NULL;
