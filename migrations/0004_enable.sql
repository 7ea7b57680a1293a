-- enable_realtime() and disable_realtime(): a table in and out of publication `realtime`.
--
-- Everything runs with the caller's own rights. Either the table is published, its replica
-- identity right and the application's writes checked, or nothing has changed.

-- How publication `realtime` covers a table: 'all tables', 'schema', 'table' or NULL.
CREATE OR REPLACE FUNCTION realtime.walcast_coverage(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN p.puballtables THEN 'all tables'
    WHEN EXISTS (SELECT FROM pg_publication_namespace n
                  WHERE n.pnpubid = p.oid AND n.pnnspid = c.relnamespace) THEN 'schema'
    WHEN EXISTS (SELECT FROM pg_publication_rel r
                  WHERE r.prpubid = p.oid AND r.prrelid = c.oid) THEN 'table'
  END
  FROM pg_publication p, pg_class c
  WHERE p.pubname = 'realtime' AND c.oid = relation
$$;

-- The events in their usual order, or an error. NULL means all.
CREATE OR REPLACE FUNCTION realtime.walcast_events(events text[]) RETURNS text[]
LANGUAGE plpgsql IMMUTABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  every_event CONSTANT text[] := ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE'];
  wanted text[];
BEGIN
  IF events IS NULL THEN
    RETURN every_event;
  END IF;
  SELECT array_agg(upper(btrim(e))) INTO wanted FROM unnest(events) e;
  IF wanted IS NULL OR NOT wanted <@ every_event THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('events must be some of INSERT, UPDATE, DELETE and TRUNCATE, not %L', events::text),
      HINT = 'For example events => ARRAY[''INSERT'', ''UPDATE'']; leave it out for all four.';
  END IF;
  RETURN ARRAY(SELECT e FROM unnest(every_event) WITH ORDINALITY AS o (e, place)
                WHERE e = ANY (wanted) ORDER BY place);
END
$$;

-- Raises, with the grant that is missing, unless the caller may alter publication `realtime`, the
-- table, and walcast's own two tables.
CREATE OR REPLACE FUNCTION realtime.walcast_require_rights(relation oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  publication record;
  stranger record;
  schema_name name;
BEGIN
  PERFORM realtime.walcast_require_publication();
  FOR stranger IN
    SELECT c.oid::regclass AS name, pg_get_userbyid(c.relowner) AS owner
      FROM pg_class c
     WHERE c.oid IN (SELECT m FROM realtime.walcast_members(relation) m)
       AND NOT pg_has_role(c.relowner, 'USAGE')
  LOOP
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = format('role %I is not the owner of table %s', current_user, stranger.name),
      HINT = format('Call it as %I, which owns the table, or as a member of it: GRANT %I TO %I;',
                    stranger.owner, stranger.owner, current_user);
  END LOOP;
  SELECT n.nspname INTO schema_name FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = relation;
  IF NOT has_schema_privilege(schema_name::text, 'USAGE') THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = format('role %I may not use schema %I', current_user, schema_name),
      HINT = format('GRANT USAGE ON SCHEMA %I TO %I;', schema_name, current_user);
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_require_publication() RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  owner oid;
BEGIN
  SELECT p.pubowner INTO owner FROM pg_publication p WHERE p.pubname = 'realtime';
  IF owner IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object', MESSAGE = 'publication realtime does not exist',
      HINT = 'Run walcast migrate, or SELECT * FROM realtime.walcast_setup();';
  END IF;
  IF NOT pg_has_role(owner, 'USAGE') THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = format('role %I is not the owner of publication realtime', current_user),
      HINT = CASE
        WHEN (SELECT r.rolsuper FROM pg_roles r WHERE r.oid = owner) THEN
          format('As %I: ALTER PUBLICATION realtime OWNER TO %I; SELECT * FROM realtime.walcast_setup(); or call this function as %I.',
                 pg_get_userbyid(owner), current_user, pg_get_userbyid(owner))
        ELSE format('GRANT %I TO %I;', pg_get_userbyid(owner), current_user)
      END;
  END IF;
  IF NOT (has_table_privilege('realtime.walcast_tables', 'SELECT')
          AND has_table_privilege('realtime.walcast_tables', 'INSERT')
          AND has_table_privilege('realtime.walcast_tables', 'UPDATE')
          AND has_table_privilege('realtime.walcast_tables', 'DELETE')
          AND has_table_privilege('realtime.walcast_identities', 'SELECT')
          AND has_table_privilege('realtime.walcast_identities', 'INSERT')
          AND has_table_privilege('realtime.walcast_identities', 'UPDATE')
          AND has_table_privilege('realtime.walcast_identities', 'DELETE')) THEN
    RAISE EXCEPTION USING ERRCODE = 'insufficient_privilege',
      MESSAGE = format('role %I may not write walcast''s tables', current_user),
      HINT = format('GRANT SELECT, INSERT, UPDATE, DELETE ON realtime.walcast_tables, realtime.walcast_identities TO %I;', current_user);
  END IF;
END
$$;

-- Checks the option against the table; the answer is an identity as walcast_identity names them,
-- or 'keep'.
CREATE OR REPLACE FUNCTION realtime.walcast_wanted_identity(relation oid, asked text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  wanted text := btrim(coalesce(asked, 'full'));
  has_key text := realtime.walcast_key(relation);
BEGIN
  IF lower(wanted) LIKE 'index:%' THEN
    wanted := 'index:' || btrim(substr(wanted, 7));
    PERFORM realtime.walcast_member_identity(relation, relation, wanted); -- raises if there is none
    RETURN wanted;
  END IF;
  wanted := lower(wanted);
  IF wanted NOT IN ('full', 'default', 'keep') THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value',
      MESSAGE = format('replica_identity must be full, default, index:<name> or keep, not %L', asked),
      HINT = 'full: old rows are complete; default: they are the primary key only; keep: leave the table as it is.';
  END IF;
  IF wanted = 'default' AND has_key <> 'primary' THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('table %s has %s: with replica_identity => ''default'' its UPDATE and DELETE would fail',
                       relation::regclass,
                       CASE has_key WHEN 'none' THEN 'no primary key' ELSE 'only a deferrable primary key' END),
      HINT = 'Leave replica_identity out (full), or add a primary key that is not deferrable.';
  END IF;
  RETURN wanted;
END
$$;

-- Sets the replica identity of the table and its partitions, and writes down what it was.
CREATE OR REPLACE FUNCTION realtime.walcast_apply_identity(relation oid, wanted text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  member oid;
  was text;
  target text;
BEGIN
  FOR member IN SELECT m FROM realtime.walcast_members(relation) m LOOP
    was := realtime.walcast_identity(member);
    target := realtime.walcast_member_identity(relation, member, wanted);
    CONTINUE WHEN was = target;
    BEGIN
      PERFORM realtime.walcast_set_identity(member, target);
    EXCEPTION
    -- first, because 55000 catches all of its class
    WHEN lock_not_available OR object_in_use THEN
      RAISE;
    WHEN wrong_object_type OR object_not_in_prerequisite_state OR feature_not_supported
      OR invalid_column_reference THEN
      RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
        MESSAGE = format('%s does not do as replica identity of %s: %s', wanted, member::regclass, SQLERRM),
        HINT = realtime.walcast_index_hint(relation);
    END;
    INSERT INTO realtime.walcast_identities AS i (relation, root, before, set_to)
      VALUES (member, relation, was, target)
      ON CONFLICT ON CONSTRAINT walcast_identities_pkey DO UPDATE SET root = excluded.root, set_to = excluded.set_to;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_enable(table_name text, events text[], replica_identity text, path name[])
RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target oid := realtime.walcast_resolve(table_name, path);
  wanted_events text[] := realtime.walcast_events(events);
  wanted_identity text;
  broken text;
  note text;
  lock_timeout_before text := current_setting('lock_timeout');
BEGIN
  PERFORM realtime.walcast_require_table(target);
  PERFORM realtime.walcast_require_rights(target);
  wanted_identity := realtime.walcast_wanted_identity(target, replica_identity);
  PERFORM realtime.walcast_require_root(target);
  -- two calls for one table: the second waits, then finds it done
  PERFORM pg_advisory_xact_lock(hashtextextended('walcast enable_realtime', target::bigint));
  IF lock_timeout_before = '0' THEN
    -- ALTER TABLE waits for every transaction on the table, and all others wait behind it
    PERFORM set_config('lock_timeout', '5s', true);
  END IF;
  BEGIN
    IF wanted_identity <> 'keep' THEN
      PERFORM realtime.walcast_apply_identity(target, wanted_identity);
    END IF;
    IF realtime.walcast_coverage(target) IS NULL THEN
      -- ONLY: children by plain inheritance are tables of their own, with their own identities
      EXECUTE format('ALTER PUBLICATION realtime ADD TABLE ONLY %s', target::regclass);
    END IF;
    broken := realtime.walcast_write_error(target);
  EXCEPTION WHEN lock_not_available THEN
    RAISE EXCEPTION USING ERRCODE = 'lock_not_available',
      MESSAGE = format('table %s is in use by a long transaction; nothing was changed', target::regclass),
      HINT = 'Try again, or SET lock_timeout to the time that writers may be held up.';
  END;
  IF broken IS NOT NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('with replica identity %s the application could no longer write to %s; nothing was changed',
                       realtime.walcast_identity(target), target::regclass),
      DETAIL = broken,
      HINT = realtime.walcast_broken_hint(target, wanted_identity);
  END IF;
  INSERT INTO realtime.walcast_tables AS t (relation, events) VALUES (target, wanted_events)
    ON CONFLICT ON CONSTRAINT walcast_tables_pkey
    DO UPDATE SET events = excluded.events WHERE t.events <> excluded.events;
  PERFORM set_config('lock_timeout', lock_timeout_before, true);
  FOREACH note IN ARRAY realtime.walcast_warnings(target) LOOP
    RAISE NOTICE '%: %', target::regclass, note;
  END LOOP;
  RETURN format('realtime is on for %s: %s; replica identity %s', target::regclass,
                array_to_string(wanted_events, ', '), realtime.walcast_identity(target));
END
$$;

-- A partitioned table must have what its future partitions inherit: a primary key. A replica
-- identity is not inherited, so UPDATE would fail on the next partition that somebody creates.
CREATE OR REPLACE FUNCTION realtime.walcast_require_root(relation oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  is_root boolean := (SELECT c.relkind = 'p' FROM pg_class c WHERE c.oid = relation);
BEGIN
  IF is_root AND NOT (SELECT p.pubviaroot FROM pg_publication p WHERE p.pubname = 'realtime') THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('%s is partitioned, and publication realtime publishes partitions under their own names', relation::regclass),
      HINT = 'ALTER PUBLICATION realtime SET (publish_via_partition_root = true);';
  END IF;
  IF is_root AND realtime.walcast_key(relation) <> 'primary' AND realtime.walcast_coverage(relation) IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('%s is partitioned and has no primary key (or a deferrable one): UPDATE and DELETE would fail on the next partition that is created', relation::regclass),
      HINT = format('Partitions inherit a primary key, but no replica identity: ALTER TABLE %s ADD PRIMARY KEY (...), with the partition key in it.', relation::regclass);
  END IF;
END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_broken_hint(relation oid, identity text) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE
    WHEN identity = 'keep' THEN 'Leave replica_identity out (full).'
    WHEN EXISTS (SELECT FROM pg_publication_rel r WHERE r.prrelid = relation AND r.prattrs IS NOT NULL) THEN
      'Publication ' || (SELECT string_agg(quote_ident(p.pubname), ', ' ORDER BY p.pubname)
                           FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
                          WHERE r.prrelid = relation AND r.prattrs IS NOT NULL)
      || ' has a column list for this table, which has to cover the replica identity: remove the list, or use replica_identity => ''default''.'
    WHEN EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = relation AND a.attgenerated <> '' AND NOT a.attisdropped) THEN
      'The table has generated columns: ALTER PUBLICATION realtime SET (publish_generated_columns = stored); does for stored ones (also in other publications of the table), for virtual ones use replica_identity => ''default''.'
    ELSE 'Leave replica_identity out (full), and look at the other publications of this table.'
  END
$$;

CREATE OR REPLACE FUNCTION realtime.walcast_disable(table_name text, path name[]) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  target oid := realtime.walcast_resolve(table_name, path);
  covered text;
BEGIN
  PERFORM realtime.walcast_require_publication();
  PERFORM pg_advisory_xact_lock(hashtextextended('walcast enable_realtime', target::bigint));
  covered := realtime.walcast_coverage(target);
  IF covered IN ('all tables', 'schema') THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('%s cannot be taken out: publication realtime is for %s', target::regclass,
                       CASE covered WHEN 'schema' THEN 'all tables of its schema' ELSE 'all tables' END),
      HINT = CASE covered
        WHEN 'schema' THEN 'ALTER PUBLICATION realtime DROP TABLES IN SCHEMA ...; then enable_realtime() for each table that is to stay.'
        ELSE 'DROP PUBLICATION realtime; then SELECT * FROM realtime.walcast_setup(); and enable_realtime() for each table that is to stay.'
      END;
  END IF;
  IF covered IS NOT NULL THEN
    EXECUTE format('ALTER PUBLICATION realtime DROP TABLE ONLY %s', target::regclass);
  END IF;
  DELETE FROM realtime.walcast_tables t WHERE t.relation = target;
  PERFORM realtime.walcast_restore_identity(target);
  RETURN CASE WHEN covered IS NULL THEN format('realtime was not on for %s', target::regclass)
              ELSE format('realtime is off for %s', target::regclass) END;
END
$$;

-- Puts back the replica identities that enable_realtime() changed, where they are still as it set
-- them and the application can write with the old ones.
CREATE OR REPLACE FUNCTION realtime.walcast_restore_identity(target oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  changed record;
  broken text;
BEGIN
  FOR changed IN
    DELETE FROM realtime.walcast_identities i WHERE i.root = target
      RETURNING i.relation, i.before, i.set_to
  LOOP
    CONTINUE WHEN realtime.walcast_identity(changed.relation) IS DISTINCT FROM changed.set_to;
    BEGIN
      PERFORM realtime.walcast_set_identity(changed.relation, changed.before);
      broken := realtime.walcast_write_error(changed.relation);
      IF broken IS NOT NULL THEN
        RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state', MESSAGE = broken;
      END IF;
    EXCEPTION WHEN insufficient_privilege OR object_not_in_prerequisite_state OR undefined_object
                OR lock_not_available THEN
      RAISE NOTICE '% keeps its replica identity %: %', changed.relation, changed.set_to, SQLERRM;
    END;
  END LOOP;
END
$$;

CREATE OR REPLACE FUNCTION realtime.enable_realtime(
  table_name text, events text[] DEFAULT NULL, replica_identity text DEFAULT 'full') RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  -- no search_path of its own: the table's name is looked up in the caller's
  RETURN realtime.walcast_enable(table_name, events, replica_identity, pg_catalog.current_schemas(true));
END
$$;
COMMENT ON FUNCTION realtime.enable_realtime(text, text[], text) IS
  'walcast: publish the changes of a table to realtime subscribers';

CREATE OR REPLACE FUNCTION realtime.disable_realtime(table_name text) RETURNS text
LANGUAGE plpgsql AS $$
BEGIN
  RETURN realtime.walcast_disable(table_name, pg_catalog.current_schemas(true));
END
$$;
COMMENT ON FUNCTION realtime.disable_realtime(text) IS
  'walcast: stop publishing the changes of a table';
