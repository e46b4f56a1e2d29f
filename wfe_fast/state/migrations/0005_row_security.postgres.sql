-- A second wall between the tenants: a view of one tenant works as a role that sees rows of the tenant in the setting `wfe_fast.tenant` only, so
-- that a statement which forgets its filter finds nothing of anybody else. Both hold for one transaction and come with the call itself.
-- Whoever works as another role, and may use the tables at all, sees all.
-- A role belongs to the whole server. Where the tables are made by somebody who may not make roles, there is the first wall alone, until somebody
-- who may makes the role and runs this block again.
-- CASE keeps the planner from looking rows up by the policy: it would know the tenant of the moment, and keep for a large tenant what it has
-- planned for a small one.
DO $policies$
DECLARE
    place TEXT;
    owned TEXT;
BEGIN
    BEGIN
        IF NOT EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{schema}_scoped') THEN
            CREATE ROLE "{schema}_scoped" NOLOGIN;
        END IF;
    EXCEPTION WHEN insufficient_privilege OR duplicate_object OR unique_violation THEN
        NULL;
    END;
    BEGIN
        IF NOT pg_catalog.pg_has_role(current_user, '{schema}_scoped',
            CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END) THEN
            GRANT "{schema}_scoped" TO CURRENT_USER;
        END IF;
    EXCEPTION WHEN insufficient_privilege OR undefined_object THEN
        NULL;
    END;
    FOREACH place IN ARRAY ARRAY['@state_tenants', '@state_usage', '@state_definitions', '@state_executions', '@state_logs', '@state_events',
        '@state_snapshots', '@state_items', '@state_effects', '@state_reservations', '@state_tokens'] LOOP
        owned := CASE WHEN place = '@state_tenants' THEN 'id' ELSE 'tenant_id' END;
        EXECUTE format('ALTER TABLE %s ENABLE ROW LEVEL SECURITY', place);
        EXECUTE format('DROP POLICY IF EXISTS state_scope ON %s', place);
        EXECUTE format('CREATE POLICY state_scope ON %s USING (TRUE)', place);
        IF EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{schema}_scoped') THEN
            EXECUTE format('DROP POLICY IF EXISTS state_scoped ON %s', place);
            EXECUTE format('CREATE POLICY state_scoped ON %s AS RESTRICTIVE TO "{schema}_scoped"'
                ' USING (CASE WHEN %s = current_setting(''wfe_fast.tenant'', true) THEN TRUE ELSE FALSE END)', place, owned);
            EXECUTE format('GRANT %s ON %s TO "{schema}_scoped"',
                CASE WHEN place = '@state_tenants' THEN 'SELECT' ELSE 'SELECT, INSERT, UPDATE, DELETE' END, place);
        END IF;
    END LOOP;
    IF EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{schema}_scoped') THEN
        GRANT SELECT ON @state_identity TO "{schema}_scoped";
        GRANT USAGE ON SCHEMA "{schema}" TO "{schema}_scoped";
    END IF;
END $policies$;

-- The role of the views, where this one may work as it.
CREATE FUNCTION @state_role() RETURNS TEXT LANGUAGE sql STABLE AS $$
    SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = '{schema}_scoped'
        AND pg_has_role(oid, CASE WHEN current_setting('server_version_num')::int >= 160000 THEN 'SET' ELSE 'MEMBER' END)
$$;
