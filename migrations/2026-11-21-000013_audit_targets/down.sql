DROP INDEX audit_log_target;
ALTER TABLE audit_log
    DROP COLUMN target_kind,
    DROP COLUMN target_id,
    DROP COLUMN before,
    DROP COLUMN after;
