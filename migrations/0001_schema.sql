-- Schema `realtime` and the three tables that walcast keeps in a database.
--
-- A schema of this name may be there already (Supabase, InsForge): theirs stays as it is, and
-- everything that belongs to walcast is named walcast_*, but for the four things users type
-- (enable_realtime, disable_realtime, realtime_enabled_tables and the publication).
-- Every file can be run twice; `walcast migrate` runs each once and records it.

DO $$
BEGIN
  IF pg_catalog.to_regnamespace('realtime') IS NULL THEN
    -- not CREATE SCHEMA IF NOT EXISTS: that asks for the right to create even where it is there
    IF NOT pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE') THEN
      RAISE EXCEPTION USING
        ERRCODE = 'insufficient_privilege',
        MESSAGE = pg_catalog.format('role %I may not create schemas in database %I',
                                    current_user, pg_catalog.current_database()),
        HINT = pg_catalog.format('GRANT CREATE ON DATABASE %I TO %I; or run the migrations as the database''s owner.',
                                 pg_catalog.current_database(), current_user);
    END IF;
    CREATE SCHEMA realtime;
    COMMENT ON SCHEMA realtime IS 'walcast: which tables are realtime, and the functions that say so';
  ELSIF NOT pg_catalog.has_schema_privilege('realtime', 'CREATE')
     OR NOT pg_catalog.has_schema_privilege('realtime', 'USAGE') THEN
    RAISE EXCEPTION USING
      ERRCODE = 'insufficient_privilege',
      MESSAGE = pg_catalog.format('schema realtime exists, and role %I may not create in it', current_user),
      HINT = pg_catalog.format('As the owner of the schema: GRANT USAGE, CREATE ON SCHEMA realtime TO %I;', current_user);
  END IF;
END
$$;

CREATE TABLE IF NOT EXISTS realtime.walcast_migrations (
  version integer PRIMARY KEY,
  name text NOT NULL,
  checksum text NOT NULL,
  applied_at timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE realtime.walcast_migrations IS
  'walcast: the migrations applied here; checksum is the SHA-256 of the file, in hexadecimal';

-- What enable_realtime() was told about a table. Whether the table is published at all is the
-- publication's business alone: a published table without a row here delivers every event, and a
-- row without publication says nothing. regclass follows renames and survives dump and restore.
CREATE TABLE IF NOT EXISTS realtime.walcast_tables (
  relation regclass PRIMARY KEY,
  events text[] NOT NULL
    CHECK (cardinality(events) > 0 AND events <@ ARRAY['INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']),
  enabled_at timestamptz NOT NULL DEFAULT now(),
  enabled_by text NOT NULL DEFAULT current_user
);
COMMENT ON TABLE realtime.walcast_tables IS
  'walcast: the events wanted of a table (a publication can choose them only for all its tables at once)';

-- The replica identities that enable_realtime() changed, so that disable_realtime() can put them
-- back: one row for the table, or one for the root and each of its partitions.
CREATE TABLE IF NOT EXISTS realtime.walcast_identities (
  relation regclass PRIMARY KEY,
  root regclass NOT NULL,
  before text NOT NULL,
  set_to text NOT NULL
);
COMMENT ON TABLE realtime.walcast_identities IS
  'walcast: replica identities as they were before enable_realtime() changed them';
