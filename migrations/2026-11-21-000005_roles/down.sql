DROP TRIGGER count_role_change ON accounts;
DROP FUNCTION count_role_change;
DROP TRIGGER keep_an_administrator_deleted ON accounts;
DROP TRIGGER keep_an_administrator_updated ON accounts;
DROP FUNCTION keep_an_administrator;
DROP TABLE account_roles;
DROP TABLE role_parents;
DROP TABLE role_grants;
DROP TABLE roles;
DROP TABLE roles_version;

-- Roles that no longer exist give no more than every account has.
UPDATE accounts SET role = 'user' WHERE role NOT IN ('user', 'admin');
ALTER TABLE accounts
    DROP CONSTRAINT accounts_role_check,
    ADD CONSTRAINT accounts_role_check CHECK (role IN ('user', 'admin'));
