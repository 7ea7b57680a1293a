-- realtime_enabled_tables: what is published, as the publication says it, and what to know about it.

-- What somebody who relies on realtime for this table should know; '{}' if nothing.
CREATE OR REPLACE FUNCTION realtime.walcast_warnings(relation oid) RETURNS text[]
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT array_remove(ARRAY[
    CASE
      WHEN NOT c.relrowsecurity THEN 'row-level security is off: every role with SELECT sees every row'
      WHEN NOT EXISTS (SELECT FROM pg_policy p WHERE p.polrelid = c.oid AND p.polpermissive AND p.polcmd IN ('r', '*'))
        THEN 'row-level security is on without a policy for SELECT: only roles that bypass it see rows'
    END,
    CASE WHEN c.relrowsecurity AND NOT c.relforcerowsecurity AND NOT o.rolsuper AND NOT o.rolbypassrls
           AND (NOT o.rolcanlogin OR o.rolname IN ('anon', 'authenticated', 'service_role'))
      THEN format('its owner %I bypasses row-level security: ALTER TABLE %s FORCE ROW LEVEL SECURITY', o.rolname, c.oid::regclass) END,
    CASE WHEN NOT EXISTS (
           SELECT FROM pg_roles r
            WHERE r.rolname IN ('anon', 'authenticated', 'service_role')
              AND has_any_column_privilege(r.oid, c.oid, 'SELECT'))
      THEN 'none of anon, authenticated and service_role has SELECT on it' END,
    CASE realtime.walcast_key(c.oid)
      WHEN 'none' THEN 'no primary key: an old row is known by all its columns, and rows that are equal cannot be told apart'
      WHEN 'deferrable' THEN 'its primary key is deferrable: Postgres does not use it to identify rows'
    END,
    CASE
      WHEN realtime.walcast_identity(c.oid) = 'nothing'
        OR realtime.walcast_identity(c.oid) = 'default' AND realtime.walcast_key(c.oid) <> 'primary'
        THEN 'UPDATE and DELETE on it fail, for it has no replica identity: call enable_realtime()'
      WHEN realtime.walcast_identity(c.oid) <> 'full'
        THEN 'old rows have the columns of the replica identity only: a DELETE is delivered only if the policies read no others'
    END,
    (SELECT 'partitions whose replica identity is not the root''s: ' || string_agg(m::regclass::text, ', ' ORDER BY m)
            || ': call enable_realtime() again'
       FROM realtime.walcast_members(c.oid) m
      WHERE c.relkind = 'p'
        AND left(realtime.walcast_identity(m), 6) <> left(realtime.walcast_identity(c.oid), 6)),
    CASE WHEN c.relkind = 'p' AND realtime.walcast_key(c.oid) <> 'primary'
      THEN 'UPDATE and DELETE will fail on the next partition, for it will have no replica identity: add a primary key' END,
    (SELECT 'partitions that are foreign or unlogged tables send nothing: ' || string_agg(l.oid::regclass::text, ', ' ORDER BY l.oid)
       FROM pg_partition_tree(c.oid) t JOIN pg_class l ON l.oid = t.relid
      WHERE c.relkind = 'p' AND (l.relkind = 'f' OR l.relpersistence = 'u')),
    (SELECT 'child tables are tables of their own: their rows are not events of this one'
      WHERE c.relkind = 'r' AND EXISTS (SELECT FROM pg_inherits h WHERE h.inhparent = c.oid)),
    (SELECT concat('the publication has a ', CASE WHEN r.prqual IS NOT NULL THEN 'row filter' ELSE 'column list' END,
                   ' for it: ALTER PUBLICATION realtime DROP TABLE, then enable_realtime() again, unless that is wanted')
       FROM pg_publication_rel r JOIN pg_publication p ON p.oid = r.prpubid
      WHERE p.pubname = 'realtime' AND r.prrelid = c.oid AND (r.prqual IS NOT NULL OR r.prattrs IS NOT NULL)),
    (SELECT 'generated columns that are not published: ' || string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum)
       FROM pg_attribute a
      WHERE a.attrelid = c.oid AND NOT a.attisdropped AND a.attgenerated <> ''
        AND NOT (a.attgenerated = 's' AND EXISTS (
              SELECT FROM pg_publication p
               -- the column is there from Postgres 18 on
               WHERE p.pubname = 'realtime' AND to_jsonb(p) ->> 'pubgencols' = 's')))
  ], NULL)
  FROM pg_class c JOIN pg_roles o ON o.oid = c.relowner
  WHERE c.oid = relation
$$;

-- The publication's own list, so that a table added by ALTER PUBLICATION is here as well, and a
-- table that enable_realtime() once saw and that is no longer published is not.
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
   AND NOT (n.nspname = 'realtime' AND c.relname LIKE 'walcast\_%');
COMMENT ON VIEW realtime.realtime_enabled_tables IS
  'walcast: the tables in publication realtime, their events, and what to know about them';
