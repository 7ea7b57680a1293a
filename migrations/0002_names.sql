-- From what a person types to a table: 'users', 'app.users', '"Mixed Case"."T"', 'Users'.
--
-- Every function here pins its search_path, so that nobody's look-alike operator runs with the
-- caller's rights; the caller's own path comes in as an argument (current_schemas(true)).

-- The relation that these name parts mean, or NULL.
CREATE OR REPLACE FUNCTION realtime.walcast_find(parts text[], path name[]) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  schemas name[] := path;
  wanted name;
BEGIN
  -- ::name cuts at 63 bytes, as CREATE TABLE did
  CASE cardinality(parts)
    WHEN 1 THEN wanted := parts[1]::name;
    WHEN 2 THEN schemas := ARRAY[parts[1]::name]; wanted := parts[2]::name;
    WHEN 3 THEN
      IF parts[1] <> current_database() THEN RETURN NULL; END IF;
      schemas := ARRAY[parts[2]::name]; wanted := parts[3]::name;
    ELSE RETURN NULL;
  END CASE;
  RETURN (
    SELECT c.oid
      FROM unnest(schemas) WITH ORDINALITY AS s (name, place)
      JOIN pg_namespace n ON n.nspname = s.name
      JOIN pg_class c ON c.relnamespace = n.oid AND c.relname = wanted
     ORDER BY s.place
     LIMIT 1);
END
$$;

-- As walcast_find, from one text. Postgres's rules first (unquoted is lower case); where they find
-- nothing, the text as it stands, for the many tools that make "Users" and then write Users.
-- Both found and different: an error, never a guess.
CREATE OR REPLACE FUNCTION realtime.walcast_resolve(table_name text, path name[]) RETURNS oid
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  written text := btrim(table_name, E' \t\r\n');
  parts text[];
  verbatim text[];
  by_rule oid;
  as_written oid;
BEGIN
  IF coalesce(written, '') = '' THEN
    RAISE EXCEPTION USING ERRCODE = 'invalid_parameter_value', MESSAGE = 'no table is named',
      HINT = 'Write enable_realtime(''users'') or enable_realtime(''schema.table'').';
  END IF;
  BEGIN
    parts := parse_ident(written);
  EXCEPTION WHEN invalid_parameter_value THEN
    parts := NULL; -- not an identifier; it may still be a name as it stands
  END;
  by_rule := realtime.walcast_find(parts, path);
  IF strpos(written, '"') = 0 THEN
    verbatim := string_to_array(written, '.');
    as_written := realtime.walcast_find(verbatim, path);
  END IF;
  IF by_rule <> as_written THEN
    RAISE EXCEPTION USING ERRCODE = 'ambiguous_parameter',
      MESSAGE = format('%s means two tables: %s and %s', written, by_rule::regclass, as_written::regclass),
      HINT = format('Write enable_realtime(%L) or enable_realtime(%L).',
                    by_rule::regclass::text, as_written::regclass::text);
  END IF;
  IF coalesce(by_rule, as_written) IS NULL THEN
    RAISE EXCEPTION USING ERRCODE = 'undefined_table',
      MESSAGE = format('table %s does not exist', written),
      HINT = realtime.walcast_suggestion(coalesce(parts, verbatim));
  END IF;
  RETURN coalesce(by_rule, as_written);
END
$$;

-- A hint for a name that was not found: tables of that name in other schemas.
CREATE OR REPLACE FUNCTION realtime.walcast_suggestion(parts text[]) RETURNS text
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
  SELECT coalesce(
    'There is ' || string_agg(t.name, ', ') || ': write the name with its schema, and in double quotes if it has capital letters or odd characters.',
    'Write schema.table if the schema is not in your search_path; a name with capital letters or odd characters needs double quotes: ''"My Table"''.')
  FROM (
    SELECT c.oid::regclass::text AS name
      FROM pg_class c
     WHERE lower(c.relname) = lower(parts[cardinality(parts)])
       AND c.relkind IN ('r', 'p')
       AND c.relnamespace NOT IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)
     ORDER BY 1
     LIMIT 3) AS t
$$;

-- Raises unless changes of this relation can be published under its own name.
CREATE OR REPLACE FUNCTION realtime.walcast_require_table(relation oid) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  class pg_class%ROWTYPE;
  reason text;
  remedy text;
BEGIN
  SELECT * INTO STRICT class FROM pg_class WHERE oid = relation;
  CASE
    -- below this number are the objects that initdb made
    WHEN relation < 16384 OR class.relnamespace IN ('pg_catalog'::regnamespace, 'information_schema'::regnamespace) THEN
      reason := 'is a system table';
      remedy := 'Postgres does not publish system tables.';
    WHEN class.relnamespace = 'realtime'::regnamespace AND class.relname LIKE 'walcast\_%' THEN
      reason := 'belongs to walcast itself';
      remedy := 'Name one of your own tables.';
    WHEN class.relkind IN ('v', 'm') THEN
      reason := CASE class.relkind WHEN 'v' THEN 'is a view' ELSE 'is a materialized view' END;
      remedy := 'The write-ahead log knows tables only: enable the tables that it reads.';
    WHEN class.relkind = 'f' THEN
      reason := 'is a foreign table';
      remedy := 'Its rows change in another server: run walcast there.';
    WHEN class.relkind NOT IN ('r', 'p') THEN
      reason := 'is not a table';
      remedy := 'Name a table.';
    WHEN class.relpersistence = 't' THEN
      reason := 'is a temporary table';
      remedy := 'Temporary tables are not in the write-ahead log.';
    WHEN class.relpersistence = 'u' THEN
      reason := 'is an unlogged table';
      remedy := format('Unlogged tables are not in the write-ahead log: ALTER TABLE %s SET LOGGED;', relation::regclass);
    WHEN class.relispartition THEN
      reason := 'is a partition';
      remedy := format('Changes of partitions are published as changes of their root: SELECT enable_realtime(%L);',
                       pg_partition_root(relation)::text);
    ELSE
      RETURN;
  END CASE;
  RAISE EXCEPTION USING ERRCODE = 'wrong_object_type',
    MESSAGE = format('%s %s', relation::regclass, reason), HINT = remedy;
END
$$;
