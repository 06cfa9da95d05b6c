-- Work that is done later: written in the transaction that needs it, deleted when it is done.

CREATE TABLE jobs (
    id uuid PRIMARY KEY,
    -- Names the handler, such as auth.reset_password.
    kind text NOT NULL,
    -- What the handler needs. No secrets: it makes those when it runs.
    payload jsonb NOT NULL,
    -- Of the jobs of a kind that are ready, one has this key.
    unique_key text,
    state text NOT NULL DEFAULT 'ready' CHECK (state IN ('ready', 'dead')),
    -- Not before this.
    run_at timestamptz NOT NULL,
    -- Somebody works on it until then. Afterwards the worker counts as dead, and the job is anybody's again.
    locked_until timestamptz,
    -- How often it was begun.
    attempts integer NOT NULL DEFAULT 0,
    last_error text,
    created_at timestamptz NOT NULL
);
CREATE INDEX jobs_ready ON jobs (run_at) WHERE state = 'ready';
CREATE INDEX jobs_dead ON jobs (created_at) WHERE state = 'dead';
CREATE UNIQUE INDEX jobs_unique_key ON jobs (kind, unique_key) WHERE state = 'ready' AND unique_key IS NOT NULL;
