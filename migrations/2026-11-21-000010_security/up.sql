-- What happened that somebody should look at, and the alerts that it raised.

-- Of one kind, about one subject, from one address, in one minute. A flood is one row that counts.
CREATE TABLE security_events (
    id uuid PRIMARY KEY,
    -- Such as login_failed.
    kind text NOT NULL,
    -- account:<uuid>, email:<hash>, address:<address>, or everyone: what had no room of its own in its minute.
    subject text NOT NULL,
    minute timestamptz NOT NULL,
    -- Where it came from, in IPv6 the network that counts as one client; empty where unknown or from many.
    address text NOT NULL,
    -- The first and the last of them.
    at timestamptz NOT NULL,
    last_at timestamptz NOT NULL,
    count bigint NOT NULL CHECK (count > 0),
    -- The rest is of the first of them.
    user_agent text NOT NULL,
    -- The gRPC path of the method, empty where there was none.
    method text NOT NULL,
    detail text NOT NULL,
    -- Who did it, where that is somebody other than the subject.
    actor_id uuid,
    UNIQUE (kind, subject, minute, address)
);
CREATE INDEX security_events_at ON security_events (at, id);
CREATE INDEX security_events_kind ON security_events (kind, at, id);
CREATE INDEX security_events_subject ON security_events (subject, at, id);
CREATE INDEX security_events_address ON security_events (address, at, id);

-- Networks that accounts were used from lately.
CREATE TABLE security_networks (
    account_id uuid NOT NULL,
    network text NOT NULL,
    seen_at timestamptz NOT NULL,
    PRIMARY KEY (account_id, network)
);
CREATE INDEX security_networks_seen_at ON security_networks (seen_at);

CREATE TABLE security_alerts (
    id uuid PRIMARY KEY,
    kind text NOT NULL,
    subject text NOT NULL,
    -- 1 low, 2 medium, 3 high, 4 critical
    severity smallint NOT NULL CHECK (severity BETWEEN 1 AND 4),
    state text NOT NULL CHECK (state IN ('open', 'acknowledged', 'resolved')),
    count bigint NOT NULL,
    first_seen_at timestamptz NOT NULL,
    last_seen_at timestamptz NOT NULL,
    acknowledged_by uuid,
    acknowledged_at timestamptz,
    resolved_by uuid,
    resolved_at timestamptz,
    note text NOT NULL,
    CHECK ((state = 'resolved') = (resolved_at IS NOT NULL))
);
-- What is not resolved collects what comes after.
CREATE UNIQUE INDEX security_alerts_unresolved ON security_alerts (kind, subject) WHERE state <> 'resolved';
CREATE INDEX security_alerts_resolved ON security_alerts (kind, subject, resolved_at) WHERE state = 'resolved';
CREATE INDEX security_alerts_state ON security_alerts (state, id);

-- Its row lock makes the order of commits the order of changes, and lets nodes count one after the other.
CREATE TABLE security_sequence (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    last_seq bigint NOT NULL
);
INSERT INTO security_sequence (last_seq) VALUES (0);

-- What happened to alerts, for those who watch.
CREATE TABLE security_alert_changes (
    seq bigint PRIMARY KEY,
    at timestamptz NOT NULL,
    -- rialto.security.v1.WatchAlertsResponse: the alert as the change left it.
    change bytea NOT NULL
);
CREATE INDEX security_alert_changes_at ON security_alert_changes (at);
