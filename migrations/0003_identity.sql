-- Replica identities: what they are, how to change them, and whether the application can still write.
--
-- A published table whose rows Postgres cannot identify refuses UPDATE and DELETE, in the
-- application (SQLSTATE 55000, 42P10). The rules differ between versions (column lists, generated
-- columns, other publications), so they are not repeated here: walcast_write_error asks Postgres.

-- 'none', 'deferrable' (as good as none for replication) or 'primary'.
CREATE OR REPLACE FUNCTION realtime.walcast_key(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce((
    SELECT CASE WHEN i.indimmediate THEN 'primary' ELSE 'deferrable' END
      FROM pg_index i WHERE i.indrelid = relation AND i.indisprimary), 'none')
$$;

-- 'default', 'full', 'nothing' or 'index:<name>'.
CREATE OR REPLACE FUNCTION realtime.walcast_identity(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT CASE c.relreplident
    WHEN 'd' THEN 'default'
    WHEN 'f' THEN 'full'
    WHEN 'n' THEN 'nothing'
    ELSE coalesce('index:' || (
      SELECT i.relname FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
       WHERE x.indrelid = relation AND x.indisreplident), 'nothing') -- its index was dropped
  END
  FROM pg_class c WHERE c.oid = relation
$$;

-- The table itself and, under a partitioned one, every partition whose rows are in the log.
CREATE OR REPLACE FUNCTION realtime.walcast_members(relation oid) RETURNS SETOF oid
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT c.oid
    FROM pg_class c
   WHERE (c.oid = relation OR c.oid IN (SELECT t.relid FROM pg_partition_tree(relation) t))
     AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'
   ORDER BY c.oid
$$;

-- Sets the identity of one relation, unless it is that already: ALTER TABLE locks out everybody.
-- `wanted` is what walcast_identity would say afterwards.
CREATE OR REPLACE FUNCTION realtime.walcast_set_identity(relation oid, wanted text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF realtime.walcast_identity(relation) <> wanted THEN
    EXECUTE format('ALTER TABLE ONLY %s REPLICA IDENTITY %s', relation::regclass,
                   CASE WHEN wanted LIKE 'index:%' THEN format('USING INDEX %I', substr(wanted, 7))
                        ELSE upper(wanted) END);
  END IF;
END
$$;

-- The identity that `member` needs when its root is to have `wanted`: a partition has its own
-- index, a child of the root's, under its own name.
CREATE OR REPLACE FUNCTION realtime.walcast_member_identity(root oid, member oid, wanted text) RETURNS text
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  index_oid oid;
  found text;
BEGIN
  IF wanted NOT LIKE 'index:%' THEN
    RETURN wanted;
  END IF;
  SELECT x.indexrelid INTO index_oid
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
   WHERE x.indrelid = root AND i.relname = substr(wanted, 7);
  IF index_oid IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_object',
      MESSAGE = format('table %s has no index %I', root::regclass, substr(wanted, 7)),
      HINT = realtime.walcast_index_hint(root);
  END IF;
  SELECT 'index:' || i.relname INTO found
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
   WHERE x.indrelid = member
     AND (x.indexrelid = index_oid
          OR x.indexrelid IN (SELECT t.relid FROM pg_partition_tree(index_oid) t));
  IF found IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'object_not_in_prerequisite_state',
      MESSAGE = format('partition %s has no index that belongs to %I', member::regclass, substr(wanted, 7)),
      HINT = format('CREATE UNIQUE INDEX on the partition, then ALTER INDEX %s ATTACH PARTITION it.', index_oid::regclass);
  END IF;
  RETURN found;
END
$$;

-- Which indexes would do as a replica identity.
CREATE OR REPLACE FUNCTION realtime.walcast_index_hint(relation oid) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce('These would do: ' || string_agg('index:' || i.relname, ', ' ORDER BY i.relname) || '.',
                  'No index of this table would do.')
         || ' A replica identity needs a unique index, not partial, not deferrable, without expressions, over NOT NULL columns.'
    FROM pg_index x JOIN pg_class i ON i.oid = x.indexrelid
   WHERE x.indrelid = relation
     AND x.indisunique AND x.indimmediate AND x.indisvalid AND x.indpred IS NULL AND x.indexprs IS NULL
     AND NOT EXISTS (
       SELECT FROM unnest(x.indkey::int2[]) WITH ORDINALITY AS k (attnum, place)
         JOIN pg_attribute a ON a.attrelid = relation AND a.attnum = k.attnum
        WHERE k.place <= x.indnkeyatts AND NOT a.attnotnull)
$$;

-- NULL if UPDATE and DELETE pass Postgres's check of the replica identity on this table and its
-- partitions as they are now, else what Postgres says. EXPLAIN starts the executor, which checks,
-- and runs nothing: no row, trigger or rule is touched.
CREATE OR REPLACE FUNCTION realtime.walcast_write_error(relation oid) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  member record;
  said text;
  detail text;
BEGIN
  FOR member IN
    SELECT c.oid::regclass AS name, (
             SELECT a.attname FROM pg_attribute a
              WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
              ORDER BY a.attnum LIMIT 1) AS first_column
      FROM pg_class c
     WHERE c.oid IN (SELECT m FROM realtime.walcast_members(relation) m) AND c.relkind = 'r'
  LOOP
    BEGIN
      EXECUTE format('EXPLAIN DELETE FROM ONLY %s', member.name);
      IF member.first_column IS NOT NULL THEN
        EXECUTE format('EXPLAIN UPDATE ONLY %s SET %I = DEFAULT', member.name, member.first_column);
      END IF;
    EXCEPTION
      -- first, because 55000 catches all of its class, and these say nothing about the identity
      WHEN lock_not_available OR object_in_use OR deadlock_detected THEN
        RAISE;
      WHEN object_not_in_prerequisite_state OR invalid_column_reference THEN
        GET STACKED DIAGNOSTICS said = MESSAGE_TEXT, detail = PG_EXCEPTION_DETAIL;
        RETURN concat_ws(': ', said, nullif(detail, ''));
      WHEN OTHERS THEN
        NULL; -- some other reason (a privilege, a rule), which is no work of ours
    END;
  END LOOP;
  RETURN NULL;
END
$$;
