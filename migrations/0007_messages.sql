-- realtime.messages: what SQL sends to channels, and the table whose policies decide who may read and
-- write a private channel.
--
-- One shape for policies and statements of two systems. Supabase knows topic, event, inserted_at;
-- InsForge knows channel_name, event_name, created_at. Both are real columns, and a BEFORE INSERT trigger
-- fills the one that was not given from the other:
--   * WITH CHECK of a policy runs after BEFORE triggers, so a policy for either system finds its column.
--   * Generated columns would be seen by WITH CHECK as well, but an INSERT that names one fails, and
--     systems insert under their own names.
--   * A CHECK holds the two together: a policy on one name must not be got round by the other.
-- inserted_at chooses the partition, before any trigger runs, so it is never derived from created_at.
--
-- Time does not order messages: now() is the same for all of a transaction. walcast_seq does. It is an
-- identity column and not a DEFAULT nextval(), for that would need rights on the sequence.
--
-- Daily partitions are kept ahead by the server; the default partition catches everything else, so
-- an INSERT never fails for want of one. The primary key is the replica identity of each partition, so
-- that UPDATE and DELETE pass though the table is published.

-- Whether realtime.messages is walcast's. Another product's stays as it is.
CREATE OR REPLACE FUNCTION realtime.walcast_messages_ours() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((
    SELECT c.relkind = 'p' AND obj_description(c.oid, 'pg_class') LIKE 'walcast:%'
      FROM pg_class c
     WHERE c.relnamespace = to_regnamespace('realtime') AND c.relname = 'messages'), false)
$$;

-- No search_path of its own, here and in realtime.walcast_send: it would hold for the functions that
-- policies call as well. What stands here needs none.
CREATE OR REPLACE FUNCTION realtime.walcast_messages_names() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
  NEW.topic := coalesce(NEW.topic, NEW.channel_name);
  NEW.channel_name := coalesce(NEW.channel_name, NEW.topic);
  NEW.event := coalesce(NEW.event, NEW.event_name);
  NEW.event_name := coalesce(NEW.event_name, NEW.event);
  NEW.created_at := coalesce(NEW.created_at, NEW.inserted_at AT TIME ZONE 'UTC');
  IF NEW.payload IS NULL AND NEW.binary_payload IS NULL THEN
    NEW.payload := '{}';
  END IF;
  RETURN NEW;
END
$$;

-- inserted_at and updated_at have Supabase's type, without a time zone, and are always UTC: theirs are
-- whatever the session's TimeZone makes of now().
CREATE OR REPLACE FUNCTION realtime.walcast_messages_create() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  CREATE TABLE realtime.messages (
    topic text NOT NULL,
    extension text NOT NULL DEFAULT 'broadcast',
    payload jsonb,
    event text,
    private boolean DEFAULT false,
    updated_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    inserted_at timestamp NOT NULL DEFAULT (now() AT TIME ZONE 'UTC'),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    binary_payload bytea,
    event_name text,
    channel_id uuid,
    channel_name text NOT NULL,
    sender_type text NOT NULL DEFAULT 'system' CHECK (sender_type IN ('system', 'user')),
    sender_id uuid,
    ws_audience_count integer NOT NULL DEFAULT 0,
    wh_audience_count integer NOT NULL DEFAULT 0,
    wh_delivered_count integer NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL,
    walcast_seq bigint GENERATED ALWAYS AS IDENTITY,
    PRIMARY KEY (id, inserted_at),
    CONSTRAINT messages_one_payload CHECK (payload IS NULL OR binary_payload IS NULL),
    CONSTRAINT messages_one_topic CHECK (channel_name = topic),
    CONSTRAINT messages_one_event CHECK (event_name IS NOT DISTINCT FROM event)
  ) PARTITION BY RANGE (inserted_at);
  COMMENT ON TABLE realtime.messages IS
    'walcast: messages from SQL to channels; its policies decide who may read and write private channels';
  COMMENT ON COLUMN realtime.messages.walcast_seq IS 'walcast: the order of sending';
  ALTER TABLE realtime.messages ENABLE ROW LEVEL SECURITY;
  CREATE TRIGGER walcast_names BEFORE INSERT ON realtime.messages
    FOR EACH ROW EXECUTE FUNCTION realtime.walcast_messages_names();
  CREATE INDEX messages_replay ON realtime.messages (topic, walcast_seq DESC)
    WHERE extension = 'broadcast' AND private;
  CREATE TABLE realtime.walcast_messages_default PARTITION OF realtime.messages DEFAULT;
  COMMENT ON TABLE realtime.walcast_messages_default IS
    'walcast: messages of days without a partition of their own';
  ALTER TABLE realtime.walcast_messages_default ENABLE ROW LEVEL SECURITY;
END
$$;

-- Makes the partition of one day (UTC). 'created'; 'present' if that day is covered already; 'in default'
-- if messages of that day are in the default partition, where they can stay: they are read and expire
-- as everywhere, only by DELETE; 'not ours' if the table is another product's.
--
-- The owner's rights, so that the server's login needs no more than EXECUTE. Made first and attached then:
-- PARTITION OF would wait for every transaction that has sent a message, and hold up all others.
CREATE OR REPLACE FUNCTION realtime.walcast_messages_add_day(day date) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' SET datestyle = 'ISO, YMD' AS $$
DECLARE
  name text := 'messages_' || to_char(day, 'YYYY_MM_DD');
  there oid;
BEGIN
  IF NOT realtime.walcast_messages_ours() THEN
    RETURN 'not ours';
  END IF;
  PERFORM pg_advisory_xact_lock(hashtextextended('walcast messages', 0));
  SELECT c.oid INTO there FROM pg_class c WHERE c.relnamespace = 'realtime'::regnamespace AND c.relname = name;
  IF there IS NOT NULL THEN
    IF EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = there AND i.inhparent = 'realtime.messages'::regclass) THEN
      RETURN 'present';
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'duplicate_table',
      MESSAGE = format('realtime.%I exists and is no partition of realtime.messages', name),
      HINT = format('ALTER TABLE realtime.%I RENAME TO something else, or drop it; until then the default partition has the day''s messages.', name);
  END IF;
  BEGIN
    EXECUTE format('CREATE TABLE realtime.%I (LIKE realtime.messages INCLUDING DEFAULTS INCLUDING CONSTRAINTS)', name);
    EXECUTE format('ALTER TABLE realtime.%I ENABLE ROW LEVEL SECURITY', name);
    EXECUTE format('COMMENT ON TABLE realtime.%I IS %L', name, 'walcast: messages of one day');
    EXECUTE format('ALTER TABLE realtime.messages ATTACH PARTITION realtime.%I FOR VALUES FROM (%L) TO (%L)',
                   name, day::timestamp, (day + 1)::timestamp);
  EXCEPTION
    WHEN check_violation THEN RETURN 'in default';
    WHEN invalid_object_definition THEN RETURN 'present'; -- somebody made one under another name
  END;
  RETURN 'created';
END
$$;
REVOKE EXECUTE ON FUNCTION realtime.walcast_messages_add_day(date) FROM PUBLIC;

-- One portion of what is older: 'dropped …', 'emptied …' or 'deleted …'; 'busy …' if transactions hold a
-- lock; NULL if nothing is left to do.
--
-- A partition is emptied first, which holds up nobody, for all write elsewhere, and frees the disk.
-- Dropping it locks realtime.messages as a whole for a moment: not waited for longer than lock_timeout.
CREATE OR REPLACE FUNCTION realtime.walcast_messages_expire(older_than interval) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET lock_timeout = '500ms' SET datestyle = 'ISO, YMD' AS $$
DECLARE
  cutoff timestamp := (now() AT TIME ZONE 'UTC') - older_than;
  old record;
  count bigint;
BEGIN
  IF older_than IS NULL OR older_than <= '0' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'messages can''t be kept for less than no time',
      HINT = 'For example SELECT realtime.walcast_messages_expire(''72 hours'');';
  END IF;
  IF NOT realtime.walcast_messages_ours() OR NOT pg_try_advisory_xact_lock(hashtextextended('walcast messages', 0)) THEN
    RETURN NULL;
  END IF;
  SELECT p.oid, p.relname, pg_relation_size(p.oid) > 0 AS filled INTO old
    FROM (SELECT c.oid, c.relname,
                 substring(pg_get_expr(c.relpartbound, c.oid) FROM $b$ TO \('([^']+)'\)$b$)::timestamp AS until
            FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'realtime.messages'::regclass AND c.relkind = 'r'
             AND obj_description(c.oid, 'pg_class') LIKE 'walcast:%') p
   WHERE p.until <= cutoff
   ORDER BY filled DESC, p.until
   LIMIT 1;
  IF FOUND THEN
    BEGIN
      EXECUTE format('%s realtime.%I', CASE WHEN old.filled THEN 'TRUNCATE' ELSE 'DROP TABLE' END, old.relname);
    EXCEPTION WHEN lock_not_available THEN
      RETURN format('busy %s', old.relname);
    END;
    RETURN format('%s %s', CASE WHEN old.filled THEN 'emptied' ELSE 'dropped' END, old.relname);
  END IF;
  DELETE FROM realtime.walcast_messages_default d
   WHERE d.ctid IN (SELECT o.ctid FROM realtime.walcast_messages_default o WHERE o.inserted_at < cutoff LIMIT 5000);
  GET DIAGNOSTICS count = ROW_COUNT;
  RETURN CASE WHEN count > 0 THEN format('deleted %s from the default partition', count) END;
END
$$;
REVOKE EXECUTE ON FUNCTION realtime.walcast_messages_expire(interval) FROM PUBLIC;
