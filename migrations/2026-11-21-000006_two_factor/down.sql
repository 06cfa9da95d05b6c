DROP TABLE login_challenges;
DROP TABLE backup_codes;
DROP TABLE two_factor;
ALTER TABLE sessions DROP COLUMN reauthenticated_at;
ALTER TABLE accounts DROP COLUMN two_factor;
