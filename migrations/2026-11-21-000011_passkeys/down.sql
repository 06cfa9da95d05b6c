DELETE FROM backup_codes WHERE account_id NOT IN (SELECT account_id FROM two_factor);
ALTER TABLE backup_codes DROP CONSTRAINT backup_codes_account_id_fkey;
ALTER TABLE backup_codes ADD FOREIGN KEY (account_id) REFERENCES two_factor ON DELETE CASCADE;
-- Without passkeys, who had nothing else has no second factor.
UPDATE accounts SET two_factor = false
    WHERE two_factor AND id NOT IN (SELECT account_id FROM two_factor WHERE enabled_at IS NOT NULL);
DROP TABLE passkey_ceremonies;
DROP TABLE passkeys;
