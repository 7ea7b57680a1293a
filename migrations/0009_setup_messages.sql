-- What walcast_setup() makes around channels: realtime.messages with its first partitions, its grants,
-- its place in the publication, and the functions under the names that applications know. What is there
-- already and is not walcast's is kept.

-- As in 0006, but not for subscribers, who may use the schema from here on: it is for administrators.
CREATE OR REPLACE FUNCTION realtime.walcast_try(statement text) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF current_user IN ('anon', 'authenticated', 'service_role') THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = 'walcast_setup() is for administrators';
  END IF;
  BEGIN
    EXECUTE statement;
    RETURN NULL;
  EXCEPTION
    WHEN insufficient_privilege THEN RETURN SQLERRM;
    WHEN duplicate_object OR duplicate_function OR duplicate_table OR duplicate_schema OR unique_violation THEN RETURN NULL;
  END;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup_messages()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  said text;
  today date := (now() AT TIME ZONE 'UTC')::date;
BEGIN
  IF NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = 'realtime'::regnamespace AND c.relname = 'messages') THEN
    said := realtime.walcast_try('SELECT realtime.walcast_messages_create()');
    IF said IS NOT NULL THEN
      RETURN QUERY SELECT 'missing', 'table realtime.messages: ' || said,
        format('GRANT USAGE, CREATE ON SCHEMA realtime TO %I; then run walcast migrate again', current_user);
      RETURN;
    END IF;
    PERFORM realtime.walcast_messages_add_day(today + ahead) FROM generate_series(-1, 3) ahead;
    RETURN QUERY SELECT 'created', 'table realtime.messages', NULL;
  END IF;
  IF realtime.walcast_messages_ours() THEN
    RETURN QUERY SELECT * FROM realtime.walcast_setup_messages_grants();
  ELSE
    RETURN QUERY SELECT 'kept', 'table realtime.messages, which is not walcast''s: its partitions, its retention, send, send_binary and broadcast_changes are left to whoever made it', NULL;
  END IF;
  RETURN QUERY SELECT * FROM realtime.walcast_setup_messages_publication();
  RETURN QUERY SELECT * FROM realtime.walcast_setup_channel_functions();
END
$$;

-- Policies hold for those who may try: without one nobody but who bypasses row-level security gets
-- anything.
CREATE OR REPLACE FUNCTION realtime.walcast_setup_messages_grants()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  needed record;
BEGIN
  FOR needed IN
    WITH app AS (SELECT r.oid, r.rolname FROM pg_roles r WHERE r.rolname IN ('anon', 'authenticated', 'service_role')),
    messages AS (SELECT c.oid FROM pg_class c WHERE c.relnamespace = 'realtime'::regnamespace AND c.relname = 'messages')
    SELECT 1 AS place, 'USAGE ON SCHEMA realtime' AS privilege, a.oid, a.rolname FROM app a
     WHERE NOT has_schema_privilege(a.oid, 'realtime', 'USAGE')
    UNION ALL
    SELECT 2, p.name || ' ON realtime.messages', a.oid, a.rolname
      FROM app a, messages m, (VALUES ('SELECT'), ('INSERT')) AS p (name)
     WHERE NOT has_table_privilege(a.oid, m.oid, p.name)
     ORDER BY 1, 2, 4
  LOOP
    IF realtime.walcast_try(format('GRANT %s TO %I', needed.privilege, needed.rolname)) IS NULL
       AND (needed.place <> 1 OR has_schema_privilege(needed.oid, 'realtime', 'USAGE')) THEN
      RETURN QUERY SELECT 'created', format('grant of %s to %I', needed.privilege, needed.rolname), NULL;
    ELSE
      RETURN QUERY SELECT 'missing', format('grant of %s to %I', needed.privilege, needed.rolname),
                          format('GRANT %s TO %I;', needed.privilege, needed.rolname);
    END IF;
  END LOOP;
END
$$;

-- Messages travel in the stream of table changes. Another product's table is not published unasked.
CREATE OR REPLACE FUNCTION realtime.walcast_setup_messages_publication()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  messages pg_class%ROWTYPE;
  via_root boolean := (SELECT p.pubviaroot FROM pg_publication p WHERE p.pubname = 'realtime');
  said text;
BEGIN
  SELECT * INTO messages FROM pg_class c WHERE c.relnamespace = 'realtime'::regnamespace AND c.relname = 'messages';
  IF via_root IS NULL OR messages.relkind NOT IN ('r', 'p') OR realtime.walcast_coverage(messages.oid) IS NOT NULL THEN
    RETURN; -- without a publication that is said already
  END IF;
  IF messages.relkind = 'p' AND NOT via_root THEN
    RETURN QUERY SELECT 'missing', 'realtime.messages in publication realtime: without publish_via_partition_root its messages would bear the names of partitions',
      'ALTER PUBLICATION realtime SET (publish_via_partition_root = true); -- then run walcast migrate again';
  ELSIF NOT realtime.walcast_messages_ours() THEN
    RETURN QUERY SELECT 'missing', 'realtime.messages, which is not walcast''s, in publication realtime: walcast does not deliver what SQL sends to channels',
      'ALTER PUBLICATION realtime ADD TABLE realtime.messages; (if walcast is to deliver it)';
  ELSE
    said := realtime.walcast_try('ALTER PUBLICATION realtime ADD TABLE ONLY realtime.messages');
    IF said IS NULL THEN
      RETURN QUERY SELECT 'created', 'realtime.messages in publication realtime', NULL;
    ELSE
      RETURN QUERY SELECT 'missing', 'realtime.messages in publication realtime: ' || said,
        'ALTER PUBLICATION realtime ADD TABLE ONLY realtime.messages; (as the owner of both, or a superuser)';
    END IF;
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_setup_channel_functions()
RETURNS TABLE (kind text, what text, remedy text)
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted record;
  said text;
BEGIN
  FOR wanted IN
    SELECT w.name, w.types, w.statement, f.oid AS present,
           coalesce(obj_description(f.oid, 'pg_proc') LIKE 'walcast:%', false) AS ours
      FROM (VALUES
        (1, 'topic', '', false, $b$CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
             RETURN nullif(current_setting('realtime.topic', true), '')$b$),
        (2, 'channel_name', '', false, $b$CREATE FUNCTION realtime.channel_name() RETURNS text LANGUAGE sql STABLE PARALLEL SAFE
             RETURN nullif(current_setting('realtime.channel_name', true), '')$b$),
        (3, 'send', 'jsonb, text, text, boolean', true, $b$CREATE FUNCTION realtime.send(
             payload jsonb, event text, topic text, private boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS
             'BEGIN PERFORM realtime.walcast_send(payload, NULL, event, topic, private); END'$b$),
        (4, 'send_binary', 'bytea, text, text, boolean', true, $b$CREATE FUNCTION realtime.send_binary(
             payload bytea, event text, topic text, private boolean DEFAULT true) RETURNS void LANGUAGE plpgsql AS
             'BEGIN PERFORM realtime.walcast_send(NULL, coalesce(payload, ''''), event, topic, private); END'$b$),
        (5, 'broadcast_changes', 'text, text, text, text, text, record, record, text', true, $b$CREATE FUNCTION realtime.broadcast_changes(
             topic_name text, event_name text, operation text, table_name text, table_schema text,
             new record, old record, level text DEFAULT 'ROW') RETURNS void LANGUAGE plpgsql AS
             'BEGIN PERFORM realtime.walcast_broadcast_changes(topic_name, event_name, operation, table_name, table_schema, new, old, level); END'$b$)
      ) AS w (place, name, types, needs_table, statement)
      LEFT JOIN pg_proc f ON f.pronamespace = 'realtime'::regnamespace AND f.proname = w.name
                         AND oidvectortypes(f.proargtypes) = w.types
     WHERE NOT w.needs_table OR realtime.walcast_messages_ours()
     ORDER BY w.place
  LOOP
    CONTINUE WHEN wanted.ours;
    IF wanted.present IS NOT NULL THEN
      RETURN QUERY SELECT 'kept', format('function realtime.%I(%s), which is not walcast''s, as it is', wanted.name, wanted.types), NULL;
      CONTINUE;
    END IF;
    said := realtime.walcast_try(wanted.statement);
    IF said IS NULL THEN
      EXECUTE format('COMMENT ON FUNCTION realtime.%I(%s) IS %L', wanted.name, wanted.types, 'walcast: ' || CASE
        WHEN wanted.types = '' THEN 'the channel that is asked about, for policies on realtime.messages'
        ELSE 'send a message to a channel' END);
      RETURN QUERY SELECT 'created', format('function realtime.%I(%s)', wanted.name, wanted.types), NULL;
    ELSE
      RETURN QUERY SELECT 'missing', format('function realtime.%I(%s): %s', wanted.name, wanted.types, said),
        format('GRANT USAGE, CREATE ON SCHEMA realtime TO %I; then run walcast migrate again', current_user);
    END IF;
  END LOOP;
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
  RETURN QUERY SELECT * FROM realtime.walcast_setup_messages();
  PERFORM realtime.walcast_forget_dropped();
END
$$;
COMMENT ON FUNCTION realtime.walcast_setup() IS
  'walcast: make what is missing (publication, roles, auth helpers, short names, channels) and say what was done';

-- As in 0005, without the table of messages and its partitions: it is no table that subscribers watch.
CREATE OR REPLACE VIEW realtime.realtime_enabled_tables WITH (security_invoker = true) AS
SELECT n.nspname::text AS schema_name,
       c.relname::text AS table_name,
       ARRAY(SELECT e.name
               FROM (VALUES (1, 'INSERT', p.pubinsert), (2, 'UPDATE', p.pubupdate),
                            (3, 'DELETE', p.pubdelete), (4, 'TRUNCATE', p.pubtruncate)) AS e (place, name, published)
              WHERE e.published AND (w.events IS NULL OR e.name = ANY (w.events))
              ORDER BY e.place) AS events,
       realtime.walcast_identity(c.oid) AS replica_identity,
       realtime.walcast_key(c.oid) <> 'none' AS has_primary_key,
       c.relrowsecurity AS rls_enabled,
       realtime.walcast_warnings(c.oid) AS warnings
  FROM pg_catalog.pg_publication p
  JOIN pg_catalog.pg_publication_tables t ON t.pubname = p.pubname
  JOIN pg_catalog.pg_namespace n ON n.nspname = t.schemaname
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.tablename
  LEFT JOIN realtime.walcast_tables w ON w.relation = c.oid
 WHERE p.pubname = 'realtime'
   AND NOT (n.nspname = 'realtime' AND (c.relname LIKE 'walcast\_%' OR c.relname = 'messages' OR c.relispartition));
