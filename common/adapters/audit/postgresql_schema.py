"""What the audit trail's tables are in PostgreSQL. They are made once, by who may; later on a role
that may only read, insert, delete, and update the anchor is enough."""

from __future__ import annotations

from typing import Final

EXISTS: Final = "SELECT to_regclass('bloomweaver_audit_anchor') IS NOT NULL"
ALONE: Final = "SELECT pg_advisory_xact_lock(hashtextextended('bloomweaver_audit', 0))"
"""Two processes that make the tables at once would stumble over each other."""

SCHEMA: Final = """
CREATE TABLE bloomweaver_audit (
    sequence bigint PRIMARY KEY, at_ms bigint NOT NULL, principal text NOT NULL,
    action text NOT NULL, namespace text NOT NULL, document_id text NOT NULL,
    subject text NOT NULL, result text NOT NULL, version bigint NOT NULL, count bigint NOT NULL,
    address text NOT NULL, request_id text NOT NULL, source text NOT NULL,
    previous_hash text NOT NULL, hash text NOT NULL);
CREATE INDEX bloomweaver_audit_by_document
    ON bloomweaver_audit (namespace, document_id, sequence);
CREATE INDEX bloomweaver_audit_by_time ON bloomweaver_audit (at_ms);

CREATE TABLE bloomweaver_audit_anchor (
    one integer PRIMARY KEY CHECK (one = 1), sequence bigint NOT NULL, hash text NOT NULL);
INSERT INTO bloomweaver_audit_anchor VALUES (1, 0, '');

CREATE FUNCTION bloomweaver_audit_refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'the audit trail is append-only'; END $$;

CREATE FUNCTION bloomweaver_audit_drop() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF OLD.sequence > (SELECT sequence FROM bloomweaver_audit_anchor) THEN
        RAISE EXCEPTION 'the audit trail is append-only';
    END IF;
    RETURN OLD;
END $$;

CREATE FUNCTION bloomweaver_audit_move_on() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.sequence <= OLD.sequence OR NOT EXISTS (SELECT 1 FROM bloomweaver_audit
            WHERE sequence = NEW.sequence AND hash = NEW.hash) THEN
        RAISE EXCEPTION 'the anchor moves to a later entry only';
    END IF;
    RETURN NEW;
END $$;

CREATE TRIGGER no_update BEFORE UPDATE ON bloomweaver_audit
    FOR EACH ROW EXECUTE FUNCTION bloomweaver_audit_refuse();
CREATE TRIGGER no_delete BEFORE DELETE ON bloomweaver_audit
    FOR EACH ROW EXECUTE FUNCTION bloomweaver_audit_drop();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON bloomweaver_audit
    FOR EACH STATEMENT EXECUTE FUNCTION bloomweaver_audit_refuse();
CREATE TRIGGER moves_on BEFORE UPDATE ON bloomweaver_audit_anchor
    FOR EACH ROW EXECUTE FUNCTION bloomweaver_audit_move_on();
CREATE TRIGGER stays BEFORE DELETE ON bloomweaver_audit_anchor
    FOR EACH ROW EXECUTE FUNCTION bloomweaver_audit_refuse();
CREATE TRIGGER no_truncate BEFORE TRUNCATE ON bloomweaver_audit_anchor
    FOR EACH STATEMENT EXECUTE FUNCTION bloomweaver_audit_refuse();
"""
