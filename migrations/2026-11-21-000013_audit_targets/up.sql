-- To what somebody did it, and for administration what became of that.

ALTER TABLE audit_log
    -- account, role or session.
    ADD COLUMN target_kind text,
    ADD COLUMN target_id uuid,
    -- What mattered of the target, as a JSON object; NULL where there is nothing to say.
    ADD COLUMN before jsonb,
    ADD COLUMN after jsonb,
    ADD CHECK ((target_kind IS NULL) = (target_id IS NULL));
CREATE INDEX audit_log_target ON audit_log (target_id, at) WHERE target_id IS NOT NULL;
