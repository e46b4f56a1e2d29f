-- The views' role for a role that only uses the tables: `<text>` is its name. Not inherited, or the policies for the views would bind it always;
-- before version 16 a role cannot be had in this way.
DO $lend$
BEGIN
    IF current_setting('server_version_num')::int >= 160000
        AND EXISTS (SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = '{schema}_scoped') THEN
        EXECUTE 'GRANT "{schema}_scoped" TO ' || <text> || ' WITH INHERIT FALSE, SET TRUE';
    END IF;
END $lend$;
