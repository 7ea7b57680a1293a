-- walcast_setup(): makes what is missing around the schema (the publication, the roles, the auth
-- helpers, the short names in `public`), keeps what is there, and returns one row for each thing it
-- made, kept because it is somebody else's, or may not make.
--
-- A function, not part of the migrations proper, because it is called again each time: an
-- administrator may have created the roles in between. With nothing missing it writes nothing.
--
-- kind: 'created', 'kept', 'missing' (then remedy is what an administrator has to run).

-- Runs a statement; NULL if it went through or somebody else was faster, else what Postgres said.
CREATE OR REPLACE FUNCTION realtime.walcast_try(statement text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  EXECUTE statement;
  RETURN NULL;
EXCEPTION
  WHEN insufficient_privilege THEN RETURN SQLERRM;
  WHEN duplicate_object OR duplicate_function OR duplicate_table OR duplicate_schema OR unique_violation THEN RETURN NULL;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup_roles()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted record;
  statement text;
BEGIN
  FOR wanted IN
    SELECT * FROM (VALUES ('anon', ''), ('authenticated', ''), ('service_role', ' BYPASSRLS')) AS r (name, option)
     WHERE NOT EXISTS (SELECT FROM pg_roles p WHERE p.rolname = r.name)
     ORDER BY r.name
  LOOP
    statement := format('CREATE ROLE %I NOLOGIN NOINHERIT', wanted.name);
    IF realtime.walcast_try(statement || wanted.option) IS NULL THEN
      RETURN QUERY SELECT 'created', format('role %I', wanted.name), NULL;
    ELSIF wanted.option <> '' AND realtime.walcast_try(statement) IS NULL THEN
      RETURN QUERY SELECT 'created', format('role %I, without BYPASSRLS: row-level security holds for it too', wanted.name), NULL;
      RETURN QUERY SELECT 'missing', format('BYPASSRLS of role %I', wanted.name), format('ALTER ROLE %I BYPASSRLS; (as a superuser)', wanted.name);
    ELSE
      RETURN QUERY SELECT 'missing', format('role %I: %I may not create roles', wanted.name, current_user),
                          format('%s%s; (as a role with CREATEROLE%s)', statement, wanted.option,
                                 CASE wanted.option WHEN '' THEN '' ELSE ', or a superuser on Postgres 15' END);
    END IF;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup_auth()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  helper record;
  said text;
BEGIN
  IF to_regnamespace('auth') IS NULL THEN
    said := realtime.walcast_try('CREATE SCHEMA auth');
    IF said IS NOT NULL THEN
      RETURN QUERY SELECT 'missing', 'schema auth: ' || said,
        format('GRANT CREATE ON DATABASE %I TO %I; then run walcast migrate again', current_database(), current_user);
      RETURN;
    END IF;
    COMMENT ON SCHEMA auth IS 'walcast: who is asking, for policies';
    RETURN QUERY SELECT 'created', 'schema auth', NULL;
  END IF;
  FOR helper IN
    SELECT h.name, h.type, h.body, f.oid AS present,
           coalesce(obj_description(f.oid, 'pg_proc') LIKE 'walcast:%', false) AS ours
      FROM (VALUES
             -- after a transaction that had set them, the claims are '' and not NULL
             (1, 'jwt', 'jsonb', $b$nullif(current_setting('request.jwt.claims', true), '')::jsonb$b$),
             (2, 'uid', 'uuid', $b$(nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'sub')::uuid$b$),
             (3, 'role', 'text', $b$nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'role'$b$),
             (4, 'email', 'text', $b$nullif(current_setting('request.jwt.claims', true), '')::jsonb ->> 'email'$b$)
           ) AS h (place, name, type, body)
      LEFT JOIN pg_proc f ON f.pronamespace = to_regnamespace('auth')
                         AND f.proname = h.name AND f.pronargs - f.pronargdefaults = 0
     ORDER BY h.place
  LOOP
    IF helper.present IS NOT NULL THEN
      IF NOT helper.ours THEN
        RETURN QUERY SELECT 'kept', format('function auth.%I() as it is', helper.name), NULL;
      END IF;
      CONTINUE;
    END IF;
    -- RETURN instead of a body in quotes: parsed now, so no search_path can change what it means,
    -- and the planner can still inline it
    said := realtime.walcast_try(format(
      'CREATE FUNCTION auth.%I() RETURNS %s LANGUAGE sql STABLE PARALLEL SAFE RETURN %s',
      helper.name, helper.type, helper.body));
    IF said IS NULL THEN
      EXECUTE format('COMMENT ON FUNCTION auth.%I() IS %L', helper.name,
                     'walcast: from the claims in request.jwt.claims');
      RETURN QUERY SELECT 'created', format('function auth.%I()', helper.name), NULL;
    ELSE
      RETURN QUERY SELECT 'missing', format('function auth.%I(): %s', helper.name, said),
        format('GRANT USAGE, CREATE ON SCHEMA auth TO %I; then run walcast migrate again', current_user);
    END IF;
  END LOOP;
  RETURN QUERY SELECT * FROM realtime.walcast_setup_auth_grants();
END
$$;

-- The application's roles must be able to call the helpers that walcast made: a policy runs with
-- the rights of the role it is for.
CREATE OR REPLACE FUNCTION realtime.walcast_setup_auth_grants()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  needed record;
BEGIN
  FOR needed IN
    WITH ours AS (
      SELECT f.oid FROM pg_proc f
       WHERE f.pronamespace = 'auth'::regnamespace AND f.pronargs = 0
         AND obj_description(f.oid, 'pg_proc') LIKE 'walcast:%'),
    app AS (SELECT r.oid, r.rolname FROM pg_roles r WHERE r.rolname IN ('anon', 'authenticated', 'service_role'))
    SELECT 'USAGE ON SCHEMA auth' AS privilege, a.rolname FROM app a
     WHERE EXISTS (SELECT FROM ours) AND NOT has_schema_privilege(a.oid, 'auth', 'USAGE')
    UNION ALL
    SELECT format('EXECUTE ON FUNCTION %s', o.oid::regprocedure), a.rolname FROM app a, ours o
     WHERE NOT has_function_privilege(a.oid, o.oid, 'EXECUTE')
     ORDER BY 1 DESC, 2 -- USAGE first: without it an EXECUTE is worth nothing
  LOOP
    IF realtime.walcast_try(format('GRANT %s TO %I', needed.privilege, needed.rolname)) IS NULL
       AND (needed.privilege NOT LIKE 'USAGE%' OR has_schema_privilege(needed.rolname, 'auth', 'USAGE')) THEN
      RETURN QUERY SELECT 'created', format('grant of %s to %I', needed.privilege, needed.rolname), NULL;
    ELSE
      RETURN QUERY SELECT 'missing', format('grant of %s to %I', needed.privilege, needed.rolname),
                          format('GRANT %s TO %I;', needed.privilege, needed.rolname);
    END IF;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup_publication()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  publication record;
  has_generated boolean := current_setting('server_version_num')::int >= 180000;
  said text;
BEGIN
  SELECT p.*, to_jsonb(p) ->> 'pubgencols' AS generated INTO publication FROM pg_publication p WHERE p.pubname = 'realtime';
  IF NOT FOUND THEN
    said := realtime.walcast_try('CREATE PUBLICATION realtime WITH (publish_via_partition_root = true'
      || CASE WHEN has_generated THEN ', publish_generated_columns = stored)' ELSE ')' END);
    IF said IS NULL THEN
      RETURN QUERY SELECT 'created', 'publication realtime', NULL;
    ELSE
      RETURN QUERY SELECT 'missing', 'publication realtime: ' || said,
        format('GRANT CREATE ON DATABASE %I TO %I; then run walcast migrate again', current_database(), current_user);
    END IF;
    RETURN;
  END IF;
  IF NOT publication.pubviaroot THEN
    RETURN QUERY SELECT 'missing', 'publish_via_partition_root of publication realtime: changes of partitioned tables bear the names of partitions',
      'ALTER PUBLICATION realtime SET (publish_via_partition_root = true);';
  END IF;
  IF NOT (publication.pubinsert AND publication.pubupdate AND publication.pubdelete AND publication.pubtruncate) THEN
    RETURN QUERY SELECT 'missing', 'some operations of publication realtime: nobody hears about them',
      'ALTER PUBLICATION realtime SET (publish = ''insert, update, delete, truncate'');';
  END IF;
  IF NOT has_table_privilege(publication.pubowner, 'realtime.walcast_tables', 'INSERT')
     AND realtime.walcast_try(format(
           'GRANT SELECT, INSERT, UPDATE, DELETE ON realtime.walcast_tables, realtime.walcast_identities TO %I',
           pg_get_userbyid(publication.pubowner))) IS NULL THEN
    -- the publication was there before, and its owner is the one who can call enable_realtime()
    PERFORM realtime.walcast_try(format('GRANT USAGE ON SCHEMA realtime TO %I', pg_get_userbyid(publication.pubowner)));
    RETURN QUERY SELECT 'created', format('grants on walcast''s tables to %I, which owns publication realtime',
                                          pg_get_userbyid(publication.pubowner)), NULL;
  END IF;
  IF has_generated AND publication.generated IS DISTINCT FROM 's' THEN
    RETURN QUERY SELECT 'missing', 'publish_generated_columns of publication realtime: stored generated columns are not sent',
      'ALTER PUBLICATION realtime SET (publish_generated_columns = stored);';
  END IF;
END
$$;

-- enable_realtime, disable_realtime and realtime_enabled_tables without a schema in front. They are
-- open to everybody, because they lend no rights and explain what is missing.
CREATE OR REPLACE FUNCTION realtime.walcast_setup_short_names()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  gate CONSTANT text := $b$
  IF NOT pg_catalog.has_schema_privilege('realtime', 'USAGE') THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('role %I may not use schema realtime', current_user),
      HINT = pg_catalog.format('GRANT USAGE ON SCHEMA realtime TO %I;', current_user);
  END IF;$b$;
  short record;
  said text;
BEGIN
  FOR short IN
    SELECT * FROM (VALUES
      ('function', 'enable_realtime',
       format('CREATE FUNCTION public.enable_realtime(table_name text, events text[] DEFAULT NULL, replica_identity text DEFAULT ''full'') RETURNS text LANGUAGE plpgsql AS %L',
              E'BEGIN' || gate || E'\n  RETURN realtime.walcast_enable(table_name, events, replica_identity, pg_catalog.current_schemas(true));\nEND'),
       (SELECT bool_or(coalesce(obj_description(f.oid, 'pg_proc') LIKE 'walcast:%', false))
          FROM pg_proc f WHERE f.pronamespace = to_regnamespace('public') AND f.proname = 'enable_realtime')),
      ('function', 'disable_realtime',
       format('CREATE FUNCTION public.disable_realtime(table_name text) RETURNS text LANGUAGE plpgsql AS %L',
              E'BEGIN' || gate || E'\n  RETURN realtime.walcast_disable(table_name, pg_catalog.current_schemas(true));\nEND'),
       (SELECT bool_or(coalesce(obj_description(f.oid, 'pg_proc') LIKE 'walcast:%', false))
          FROM pg_proc f WHERE f.pronamespace = to_regnamespace('public') AND f.proname = 'disable_realtime')),
      ('view', 'realtime_enabled_tables',
       'CREATE VIEW public.realtime_enabled_tables WITH (security_invoker = true) AS SELECT * FROM realtime.realtime_enabled_tables',
       (SELECT coalesce(obj_description(c.oid, 'pg_class') LIKE 'walcast:%', false)
          FROM pg_class c WHERE c.relnamespace = to_regnamespace('public') AND c.relname = 'realtime_enabled_tables'))
    ) AS s (kind, name, statement, ours) -- ours: NULL if there is none, false if somebody else's
  LOOP
    CONTINUE WHEN short.ours;
    IF NOT short.ours THEN
      RETURN QUERY SELECT 'kept', format('%s public.%I, which is not walcast''s: write realtime.%I', short.kind, short.name, short.name), NULL;
      CONTINUE;
    END IF;
    IF to_regnamespace('public') IS NULL THEN
      said := 'there is no schema public';
    ELSE
      said := realtime.walcast_try(short.statement);
    END IF;
    IF said IS NULL THEN
      EXECUTE format('COMMENT ON %s public.%I IS %L', short.kind, short.name, 'walcast: the same as realtime.' || short.name);
      RETURN QUERY SELECT 'created', format('%s public.%I', short.kind, short.name), NULL;
    ELSE
      RETURN QUERY SELECT 'missing', format('%s public.%I: %s; realtime.%I is there', short.kind, short.name, said, short.name),
        format('GRANT CREATE ON SCHEMA public TO %I; then run walcast migrate again', current_user);
    END IF;
  END LOOP;
END
$$;

-- Rows about tables that have been dropped.
CREATE OR REPLACE FUNCTION realtime.walcast_forget_dropped() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF EXISTS (SELECT FROM realtime.walcast_tables t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation)) THEN
    DELETE FROM realtime.walcast_tables t WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation);
  END IF;
  IF EXISTS (SELECT FROM realtime.walcast_identities i WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = i.relation)) THEN
    DELETE FROM realtime.walcast_identities i WHERE NOT EXISTS (SELECT FROM pg_class c WHERE c.oid = i.relation);
  END IF;
EXCEPTION WHEN insufficient_privilege OR read_only_sql_transaction THEN
  NULL; -- tidying, for whoever may do it
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  RETURN QUERY SELECT * FROM realtime.walcast_setup_publication();
  RETURN QUERY SELECT * FROM realtime.walcast_setup_roles();
  RETURN QUERY SELECT * FROM realtime.walcast_setup_auth();
  RETURN QUERY SELECT * FROM realtime.walcast_setup_short_names();
  PERFORM realtime.walcast_forget_dropped();
END
$$;
COMMENT ON FUNCTION realtime.walcast_setup() IS
  'walcast: make what is missing (publication, roles, auth helpers, short names) and say what was done';
