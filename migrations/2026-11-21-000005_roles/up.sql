-- Roles of an installation's own, what they grant, and who has them.

ALTER TABLE accounts
    DROP CONSTRAINT accounts_role_check,
    ADD CONSTRAINT accounts_role_check CHECK (role IN ('user', 'moderator', 'support', 'admin'));

-- Its row lock puts changes of roles and assignments one after the other, so that no two of them make a cycle together.
-- Its number grows with each, and tells nodes whether what they remember still holds.
CREATE TABLE roles_version (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    version bigint NOT NULL
);
INSERT INTO roles_version (version) VALUES (1);

CREATE TABLE roles (
    id uuid PRIMARY KEY,
    name text NOT NULL UNIQUE,
    description text NOT NULL,
    -- Built-in roles are here to be inherited from and listed. The contract says what they grant.
    built_in boolean NOT NULL DEFAULT false,
    -- NULL for built-in roles, and where the account is gone.
    created_by uuid REFERENCES accounts ON DELETE SET NULL,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    -- Grows with each change; the etag.
    version bigint NOT NULL DEFAULT 1
);
CREATE INDEX roles_created_by ON roles (created_by);

-- The ids of built-in roles are fixed.
INSERT INTO roles (id, name, description, built_in, created_at, updated_at) VALUES
    ('00000000-0000-7000-8000-000000000001', 'user', 'Every account.', true, '2026-11-21 00:00:00Z', '2026-11-21 00:00:00Z'),
    ('00000000-0000-7000-8000-000000000002', 'admin', 'Holds every permission.', true, '2026-11-21 00:00:00Z', '2026-11-21 00:00:00Z'),
    ('00000000-0000-7000-8000-000000000003', 'moderator', 'Keeps order among users.', true, '2026-11-21 00:00:00Z', '2026-11-21 00:00:00Z'),
    ('00000000-0000-7000-8000-000000000004', 'support', 'Helps users with their accounts.', true, '2026-11-21 00:00:00Z', '2026-11-21 00:00:00Z');

CREATE TABLE role_grants (
    role_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE,
    -- As the role was written down.
    position integer NOT NULL,
    -- resource:action, resource:* or *
    permission text NOT NULL,
    deny boolean NOT NULL,
    condition text CHECK (condition IN ('own', 'member', 'equals')),
    attribute text,
    value text,
    PRIMARY KEY (role_id, position),
    CHECK ((condition IS NOT DISTINCT FROM 'equals') = (attribute IS NOT NULL AND value IS NOT NULL))
);

CREATE TABLE role_parents (
    role_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE,
    parent_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE,
    PRIMARY KEY (role_id, parent_id),
    CHECK (role_id <> parent_id)
);
CREATE INDEX role_parents_parent_id ON role_parents (parent_id);

-- The roles that an account has besides its built-in one, which is accounts.role.
CREATE TABLE account_roles (
    account_id uuid NOT NULL REFERENCES accounts ON DELETE CASCADE,
    role_id uuid NOT NULL REFERENCES roles ON DELETE CASCADE,
    assigned_by uuid REFERENCES accounts ON DELETE SET NULL,
    assigned_at timestamptz NOT NULL,
    expires_at timestamptz,
    PRIMARY KEY (account_id, role_id)
);
CREATE INDEX account_roles_role_id ON account_roles (role_id);
CREATE INDEX account_roles_assigned_by ON account_roles (assigned_by);
CREATE INDEX account_roles_expires_at ON account_roles (expires_at);

-- Nodes remember the built-in role of an account too, whoever changes it.
CREATE FUNCTION count_role_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE roles_version SET version = version + 1;
    RETURN NULL;
END
$$;
CREATE TRIGGER count_role_change AFTER UPDATE OF role ON accounts FOR EACH ROW
    WHEN (OLD.role <> NEW.role)
    EXECUTE FUNCTION count_role_change();

-- There is always an active administrator, once there was one, whoever changes accounts: the lock makes two
-- administrators who demote each other come one after the other, and the query sees what the first has left.
CREATE FUNCTION keep_an_administrator() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(7215380419);
    IF NOT EXISTS (SELECT FROM accounts WHERE role = 'admin' AND state = 'active') THEN
        RAISE EXCEPTION 'no active administrator would be left'
            USING ERRCODE = 'check_violation', CONSTRAINT = 'accounts_last_administrator', TABLE = 'accounts';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER keep_an_administrator_updated AFTER UPDATE OF role, state ON accounts FOR EACH ROW
    WHEN (OLD.role = 'admin' AND OLD.state = 'active' AND (NEW.role <> 'admin' OR NEW.state <> 'active'))
    EXECUTE FUNCTION keep_an_administrator();
CREATE TRIGGER keep_an_administrator_deleted AFTER DELETE ON accounts FOR EACH ROW
    WHEN (OLD.role = 'admin' AND OLD.state = 'active')
    EXECUTE FUNCTION keep_an_administrator();
