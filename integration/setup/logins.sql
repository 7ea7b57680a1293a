-- The sample's logins, as a superuser; idempotent. Each can do its own part and no more.

SET client_min_messages = warning;

CREATE FUNCTION pg_temp.make_role(name text, attributes text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
        EXECUTE format('CREATE ROLE %I %s', name, attributes);
    END IF;
END
$$;

-- What subscribers are: walcast impersonates these.
SELECT pg_temp.make_role('anon', 'NOLOGIN');
SELECT pg_temp.make_role('authenticated', 'NOLOGIN');
SELECT pg_temp.make_role('service_role', 'NOLOGIN BYPASSRLS');

-- Owns the tables and applies the migrations.
SELECT pg_temp.make_role('walcast_owner', 'LOGIN');
-- Reads the replication stream.
SELECT pg_temp.make_role('walcast_replication', 'LOGIN REPLICATION NOINHERIT');
-- Asks, as a subscriber, what the policies let through. A function that a policy calls can put the
-- role back to this login, so it is nothing by itself, owns nothing, and is a member of these alone.
SELECT pg_temp.make_role('walcast_rls', 'LOGIN NOINHERIT');
ALTER ROLE walcast_rls NOINHERIT NOSUPERUSER NOCREATEDB NOCREATEROLE NOREPLICATION NOBYPASSRLS;

GRANT anon, authenticated, service_role TO walcast_rls;

SELECT 'CREATE DATABASE walcast OWNER walcast_owner'
WHERE NOT EXISTS (SELECT FROM pg_database WHERE datname = 'walcast') \gexec
