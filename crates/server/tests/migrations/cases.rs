//! Tables of every kind, as data: how they come to be, how they are enabled, what comes of it.

pub(crate) struct Case {
    pub(crate) name: &'static str,
    /// Run as the superuser before (objects that a plain role cannot make).
    pub(crate) admin: &'static str,
    /// Run as `app`, the application.
    pub(crate) setup: &'static str,
    /// The arguments of enable_realtime().
    pub(crate) call: &'static str,
    pub(crate) outcome: Outcome,
    /// Run as `app` afterwards, whatever the outcome: must succeed.
    pub(crate) writes: &'static str,
}

pub(crate) enum Outcome {
    /// Published as this relation, with this identity, and with warnings that contain these words.
    On {
        relation: &'static str,
        identity: &'static str,
        warnings: &'static [&'static str],
    },
    /// SQLSTATE, and words of the message and of the hint.
    Refused(&'static str, &'static str, &'static str),
}
use Outcome::{On, Refused};

const CASE: Case = Case {
    name: "",
    admin: "",
    setup: "",
    call: "",
    outcome: Refused("", "", ""),
    writes: "",
};

pub(crate) const CASES: &[Case] = &[
    Case {
        name: "plain",
        setup: "CREATE TABLE plain (id int PRIMARY KEY, name text)",
        call: "'plain'",
        outcome: On { relation: "public.plain", identity: "full", warnings: &[] },
        writes: "INSERT INTO plain VALUES (1, 'a'); UPDATE plain SET id = 2, name = 'b'; DELETE FROM plain",
        ..CASE
    },
    Case {
        name: "another schema",
        setup: "CREATE SCHEMA inner_one; CREATE TABLE inner_one.t (id int PRIMARY KEY)",
        call: "'inner_one.t'",
        outcome: On { relation: "inner_one.t", identity: "full", warnings: &[] },
        writes: "INSERT INTO inner_one.t VALUES (1); UPDATE inner_one.t SET id = 2; DELETE FROM inner_one.t",
        ..CASE
    },
    Case {
        name: "with the database's name in front",
        setup: "CREATE TABLE three_parts (id int PRIMARY KEY)",
        call: "quote_ident(current_database()) || '.public.three_parts'",
        outcome: On { relation: "public.three_parts", identity: "full", warnings: &[] },
        writes: "DELETE FROM three_parts",
        ..CASE
    },
    Case {
        name: "upper case in the call, lower in the database",
        setup: "CREATE TABLE shouted (id int PRIMARY KEY)",
        call: "'Public.SHOUTED'",
        outcome: On { relation: "public.shouted", identity: "full", warnings: &[] },
        writes: "DELETE FROM shouted",
        ..CASE
    },
    Case {
        name: "mixed case without quotes",
        setup: r#"CREATE TABLE "UserProfiles" (id int PRIMARY KEY)"#,
        call: "'UserProfiles'",
        outcome: On { relation: r#"public."UserProfiles""#, identity: "full", warnings: &[] },
        writes: r#"INSERT INTO "UserProfiles" VALUES (1); UPDATE "UserProfiles" SET id = 2; DELETE FROM "UserProfiles""#,
        ..CASE
    },
    Case {
        name: "mixed case that means two tables",
        setup: r#"CREATE TABLE twins (id int PRIMARY KEY); CREATE TABLE "Twins" (id int PRIMARY KEY)"#,
        call: "'Twins'",
        outcome: Refused("42P08", "means two tables", r#"enable_realtime('public."Twins"')"#),
        writes: r#"DELETE FROM twins; DELETE FROM "Twins""#,
        ..CASE
    },
    Case {
        name: "quotes, dots and spaces in quotes",
        setup: r#"CREATE SCHEMA "Mixed Case"; CREATE TABLE "Mixed Case"."a.b ""c"" 'd'" (id int PRIMARY KEY)"#,
        call: r#"'"Mixed Case"."a.b ""c"" ''d''"'"#,
        outcome: On { relation: r#""Mixed Case"."a.b ""c"" 'd'""#, identity: "full", warnings: &[] },
        writes: r#"INSERT INTO "Mixed Case"."a.b ""c"" 'd'" VALUES (1); UPDATE "Mixed Case"."a.b ""c"" 'd'" SET id = 2; DELETE FROM "Mixed Case"."a.b ""c"" 'd'""#,
        ..CASE
    },
    Case {
        name: "a name that is an injection",
        setup: r#"CREATE TABLE "x; DROP TABLE plain; --" (id int PRIMARY KEY)"#,
        call: r#"'x; DROP TABLE plain; --'"#,
        outcome: On { relation: r#"public."x; DROP TABLE plain; --""#, identity: "full", warnings: &[] },
        writes: r#"DELETE FROM "x; DROP TABLE plain; --"; DELETE FROM plain"#,
        ..CASE
    },
    Case {
        name: "an injection that is no table",
        call: "'plain; DROP TABLE plain'",
        outcome: Refused("42P01", "does not exist", "double quotes"),
        writes: "DELETE FROM plain",
        ..CASE
    },
    Case {
        name: "an injection as an index",
        call: "'plain', replica_identity => 'index:plain_pkey; DROP TABLE plain'",
        outcome: Refused("42704", "has no index", "index:plain_pkey"),
        writes: "DELETE FROM plain",
        ..CASE
    },
    Case {
        name: "outside ASCII, and a keyword",
        setup: r#"CREATE TABLE "größe" ("select" int PRIMARY KEY); CREATE TABLE "order" (id int PRIMARY KEY)"#,
        call: "'größe'",
        outcome: On { relation: r#"public."größe""#, identity: "full", warnings: &[] },
        writes: r#"INSERT INTO "größe" VALUES (1); UPDATE "größe" SET "select" = 2; DELETE FROM "größe""#,
        ..CASE
    },
    Case {
        name: "a keyword",
        call: "'order'",
        outcome: On { relation: r#"public."order""#, identity: "full", warnings: &[] },
        writes: r#"DELETE FROM "order""#,
        ..CASE
    },
    Case {
        name: "a name that Postgres cut at 63 bytes",
        setup: "CREATE TABLE a123456789b123456789c123456789d123456789e123456789f123456789g123456789 (id int PRIMARY KEY)",
        call: "'a123456789b123456789c123456789d123456789e123456789f123456789g123456789'",
        outcome: On {
            relation: "public.a123456789b123456789c123456789d123456789e123456789f123456789g12",
            identity: "full",
            warnings: &[],
        },
        ..CASE
    },
    Case { name: "no name", call: "''", outcome: Refused("22023", "no table is named", "schema.table"), ..CASE },
    Case { name: "NULL", call: "NULL", outcome: Refused("22023", "no table is named", "schema.table"), ..CASE },
    Case {
        name: "missing, but another schema has it",
        setup: "CREATE SCHEMA hidden; CREATE TABLE hidden.somewhere (id int PRIMARY KEY)",
        call: "'somewhere'",
        outcome: Refused("42P01", "table somewhere does not exist", "There is hidden.somewhere"),
        ..CASE
    },
    Case {
        name: "no primary key",
        setup: "CREATE TABLE no_key (a int, b text)",
        call: "'no_key'",
        outcome: On { relation: "public.no_key", identity: "full", warnings: &["no primary key: an old row is known by all its columns"] },
        writes: "INSERT INTO no_key VALUES (1, 'a'); UPDATE no_key SET a = 2; DELETE FROM no_key",
        ..CASE
    },
    Case {
        name: "no primary key, identity default",
        setup: "CREATE TABLE no_key_default (a int)",
        call: "'no_key_default', replica_identity => 'default'",
        outcome: Refused("55000", "no primary key", "Leave replica_identity out"),
        writes: "INSERT INTO no_key_default VALUES (1); UPDATE no_key_default SET a = 2; DELETE FROM no_key_default",
        ..CASE
    },
    Case {
        name: "deferrable primary key",
        setup: "CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE)",
        call: "'deferred'",
        outcome: On { relation: "public.deferred", identity: "full", warnings: &["deferrable"] },
        writes: "INSERT INTO deferred VALUES (1); UPDATE deferred SET id = 2; DELETE FROM deferred",
        ..CASE
    },
    Case {
        name: "deferrable primary key, identity default",
        setup: "CREATE TABLE deferred_default (id int PRIMARY KEY DEFERRABLE INITIALLY DEFERRED)",
        call: "'deferred_default', replica_identity => 'DEFAULT'",
        outcome: Refused("55000", "only a deferrable primary key", "not deferrable"),
        writes: "INSERT INTO deferred_default VALUES (1); UPDATE deferred_default SET id = 2; DELETE FROM deferred_default",
        ..CASE
    },
    Case {
        name: "identity default",
        setup: "CREATE TABLE keyed (id int PRIMARY KEY, b text)",
        call: "'keyed', replica_identity => 'default'",
        outcome: On { relation: "public.keyed", identity: "default", warnings: &["old rows have the columns of the replica identity only"] },
        writes: "INSERT INTO keyed VALUES (1); UPDATE keyed SET b = 'x'; DELETE FROM keyed",
        ..CASE
    },
    Case {
        name: "identity by index",
        setup: r#"CREATE TABLE indexed (id int NOT NULL, b text); CREATE UNIQUE INDEX "Indexed id" ON indexed (id)"#,
        call: "'indexed', replica_identity => 'index:Indexed id'",
        outcome: On { relation: "public.indexed", identity: "index:Indexed id", warnings: &["no primary key", "old rows have"] },
        writes: "INSERT INTO indexed VALUES (1); UPDATE indexed SET b = 'x'; DELETE FROM indexed",
        ..CASE
    },
    Case {
        name: "identity by a partial index",
        setup: "CREATE TABLE partial (id int NOT NULL); CREATE UNIQUE INDEX partial_id ON partial (id) WHERE id > 0",
        call: "'partial', replica_identity => 'index:partial_id'",
        outcome: Refused("55000", "partial_id does not do", "No index of this table would do"),
        writes: "INSERT INTO partial VALUES (1); UPDATE partial SET id = 2; DELETE FROM partial",
        ..CASE
    },
    Case {
        name: "identity by an index over a column that may be null",
        setup: "CREATE TABLE nullable (id int PRIMARY KEY, b int UNIQUE)",
        call: "'nullable', replica_identity => 'index:nullable_b_key'",
        outcome: Refused("55000", "nullable_b_key does not do", "index:nullable_pkey"),
        writes: "INSERT INTO nullable VALUES (1); UPDATE nullable SET b = 2; DELETE FROM nullable",
        ..CASE
    },
    Case {
        name: "identity kept, good",
        setup: "CREATE TABLE kept (id int PRIMARY KEY)",
        call: "'kept', replica_identity => 'keep'",
        outcome: On { relation: "public.kept", identity: "default", warnings: &["old rows have"] },
        writes: "INSERT INTO kept VALUES (1); UPDATE kept SET id = 2; DELETE FROM kept",
        ..CASE
    },
    Case {
        name: "identity kept, nothing",
        setup: "CREATE TABLE nothing (id int PRIMARY KEY); ALTER TABLE nothing REPLICA IDENTITY NOTHING",
        call: "'nothing', replica_identity => 'keep'",
        outcome: Refused("55000", "could no longer write", "Leave replica_identity out"),
        writes: "INSERT INTO nothing VALUES (1); UPDATE nothing SET id = 2; DELETE FROM nothing",
        ..CASE
    },
    Case {
        name: "identity of an unknown kind",
        call: "'plain', replica_identity => 'complete'",
        outcome: Refused("22023", "must be full, default, index:<name> or keep", "full: old rows are complete"),
        ..CASE
    },
    Case {
        name: "an event that does not exist",
        call: "'plain', ARRAY['INSERT', 'SELECT']",
        outcome: Refused("22023", "must be some of INSERT, UPDATE, DELETE and TRUNCATE", "leave it out"),
        ..CASE
    },
    Case { name: "no events", call: "'plain', '{}'", outcome: Refused("22023", "must be some of", ""), ..CASE },
    Case { name: "an event NULL", call: "'plain', ARRAY['INSERT', NULL]", outcome: Refused("22023", "must be some of", ""), ..CASE },
    Case {
        name: "partitioned, in two levels",
        setup: "CREATE TABLE parts (id int, at int, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
                CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (10);
                CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (10) TO (20) PARTITION BY LIST (at);
                CREATE TABLE parts_2a PARTITION OF parts_2 DEFAULT",
        call: "'parts'",
        outcome: On { relation: "public.parts", identity: "full", warnings: &[] },
        writes: "CREATE TABLE parts_3 PARTITION OF parts FOR VALUES FROM (20) TO (30);
                 INSERT INTO parts SELECT i, i FROM generate_series(0, 29) i; UPDATE parts SET at = 29 - at; DELETE FROM parts",
        ..CASE
    },
    Case {
        name: "partitioned, by index",
        setup: "CREATE TABLE parts_ix (id int NOT NULL) PARTITION BY LIST (id); ALTER TABLE parts_ix ADD PRIMARY KEY (id);
                CREATE UNIQUE INDEX parts_ix_u ON parts_ix (id);
                CREATE TABLE parts_ix_1 PARTITION OF parts_ix DEFAULT",
        call: "'parts_ix', replica_identity => 'index:parts_ix_u'",
        outcome: On { relation: "public.parts_ix", identity: "index:parts_ix_u", warnings: &["old rows have"] },
        writes: "INSERT INTO parts_ix VALUES (1); UPDATE parts_ix SET id = 2; DELETE FROM parts_ix",
        ..CASE
    },
    Case {
        name: "partitioned, without a primary key",
        setup: "CREATE TABLE parts_no_key (id int) PARTITION BY LIST (id);
                CREATE TABLE parts_no_key_1 PARTITION OF parts_no_key FOR VALUES IN (1)",
        call: "'parts_no_key'",
        outcome: Refused("55000", "next partition", "ADD PRIMARY KEY"),
        writes: "CREATE TABLE parts_no_key_2 PARTITION OF parts_no_key DEFAULT; INSERT INTO parts_no_key VALUES (1), (2);
                 UPDATE parts_no_key SET id = id + 1; DELETE FROM parts_no_key",
        ..CASE
    },
    Case {
        name: "a partition",
        call: "'parts_2a'",
        outcome: Refused("42809", "is a partition", "SELECT enable_realtime('public.parts')"),
        writes: "DELETE FROM parts_2a",
        ..CASE
    },
    Case {
        name: "partitioned, with a foreign and an unlogged partition",
        admin: "CREATE FOREIGN DATA WRAPPER nowhere; CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
                GRANT USAGE ON FOREIGN SERVER nowhere TO app",
        setup: "CREATE TABLE mixed (id int NOT NULL, kind text NOT NULL, PRIMARY KEY (id, kind)) PARTITION BY LIST (kind);
                CREATE TABLE mixed_here PARTITION OF mixed FOR VALUES IN ('here');
                CREATE UNLOGGED TABLE mixed_unlogged PARTITION OF mixed FOR VALUES IN ('unlogged')",
        call: "'mixed'",
        outcome: On { relation: "public.mixed", identity: "full", warnings: &["public.mixed_unlogged"] },
        writes: "INSERT INTO mixed VALUES (1, 'here'), (2, 'unlogged'); UPDATE mixed SET id = id + 1; DELETE FROM mixed",
    },
    Case {
        name: "a foreign table",
        setup: "CREATE FOREIGN TABLE far (id int) SERVER nowhere",
        call: "'far'",
        outcome: Refused("42809", "is a foreign table", "run walcast there"),
        ..CASE
    },
    Case {
        name: "a view",
        setup: "CREATE VIEW a_view AS SELECT * FROM plain",
        call: "'a_view'",
        outcome: Refused("42809", "is a view", "enable the tables that it reads"),
        writes: "INSERT INTO a_view VALUES (1, 'a'); DELETE FROM a_view",
        ..CASE
    },
    Case {
        name: "a materialized view",
        setup: "CREATE MATERIALIZED VIEW m_view AS SELECT * FROM plain",
        call: "'m_view'",
        outcome: Refused("42809", "is a materialized view", "enable the tables"),
        ..CASE
    },
    Case {
        name: "an index",
        call: "'plain_pkey'",
        outcome: Refused("42809", "is not a table", "Name a table"),
        ..CASE
    },
    Case {
        name: "a sequence",
        setup: "CREATE SEQUENCE counter",
        call: "'counter'",
        outcome: Refused("42809", "is not a table", "Name a table"),
        ..CASE
    },
    Case {
        name: "an unlogged table",
        setup: "CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY)",
        call: "'unlogged'",
        outcome: Refused("42809", "is an unlogged table", "ALTER TABLE public.unlogged SET LOGGED"),
        writes: "INSERT INTO unlogged VALUES (1); UPDATE unlogged SET id = 2; DELETE FROM unlogged",
        ..CASE
    },
    Case {
        name: "a temporary table, which hides a real one",
        setup: "CREATE TABLE hidden_one (id int PRIMARY KEY); CREATE TEMP TABLE hidden_one (id int)",
        call: "'hidden_one'",
        outcome: Refused("42809", "is a temporary table", ""),
        writes: "DELETE FROM hidden_one; DROP TABLE pg_temp.hidden_one",
        ..CASE
    },
    Case { name: "a system table", call: "'pg_class'", outcome: Refused("42809", "is a system table", ""), ..CASE },
    Case {
        name: "a table of information_schema",
        call: "'information_schema.sql_features'",
        outcome: Refused("42809", "is a system table", ""),
        ..CASE
    },
    Case {
        name: "walcast's own",
        call: "'realtime.walcast_tables'",
        outcome: Refused("42809", "belongs to walcast itself", ""),
        ..CASE
    },
    Case {
        name: "generated and identity columns",
        setup: "CREATE TABLE generated (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, a int, b int GENERATED ALWAYS AS (a * 2) STORED)",
        call: "'generated'",
        outcome: On { relation: "public.generated", identity: "full", warnings: &[] },
        writes: "INSERT INTO generated (a) VALUES (1); UPDATE generated SET a = 2; DELETE FROM generated",
        ..CASE
    },
    Case {
        name: "types that have no equality",
        setup: "CREATE TABLE unequal (id int PRIMARY KEY, a json, b point, c polygon)",
        call: "'unequal'",
        outcome: On {
            relation: "public.unequal",
            identity: "full",
            warnings: &[],
        },
        writes: "INSERT INTO unequal VALUES (1, '{}', '(1,2)', '((0,0),(1,1))'); UPDATE unequal SET a = '[]'; DELETE FROM unequal",
        ..CASE
    },
    Case {
        name: "1,600 columns",
        setup: "DO $$ BEGIN EXECUTE (SELECT 'CREATE TABLE wide (' || string_agg(format('c%s int', i), ', ') || ', PRIMARY KEY (c1))'
                  FROM generate_series(1, 1600) i); END $$",
        call: "'wide'",
        outcome: On { relation: "public.wide", identity: "full", warnings: &[] },
        writes: "INSERT INTO wide (c1) VALUES (1); UPDATE wide SET c1600 = 1; DELETE FROM wide",
        ..CASE
    },
    Case {
        name: "no columns",
        setup: "CREATE TABLE empty ()",
        call: "'empty'",
        outcome: On { relation: "public.empty", identity: "full", warnings: &["no primary key"] },
        writes: "INSERT INTO empty DEFAULT VALUES; DELETE FROM empty",
        ..CASE
    },
    Case {
        name: "row-level security without a policy",
        setup: "CREATE TABLE locked (id int PRIMARY KEY); ALTER TABLE locked ENABLE ROW LEVEL SECURITY",
        call: "'locked'",
        outcome: On { relation: "public.locked", identity: "full", warnings: &["without a policy for SELECT"] },
        writes: "INSERT INTO locked VALUES (1); UPDATE locked SET id = 2; DELETE FROM locked",
        ..CASE
    },
    Case {
        name: "a child by inheritance without a key of its own",
        setup: "CREATE TABLE parent (id int PRIMARY KEY); CREATE TABLE child (extra text) INHERITS (parent)",
        call: "'parent'",
        outcome: On { relation: "public.parent", identity: "full", warnings: &["child tables are tables of their own"] },
        writes: "INSERT INTO child VALUES (1); UPDATE parent SET id = 2; DELETE FROM parent",
        ..CASE
    },
    Case {
        name: "a column list in another publication that FULL would break",
        admin: "",
        setup: "CREATE TABLE listed (id int PRIMARY KEY, a int); CREATE PUBLICATION other FOR TABLE listed (id)",
        call: "'listed'",
        outcome: Refused("55000", "could no longer write", "Publication other has a column list"),
        writes: "INSERT INTO listed VALUES (1, 1); UPDATE listed SET a = 2; DELETE FROM listed",
    },
    Case {
        name: "the same with the identity that does",
        call: "'listed', replica_identity => 'default'",
        outcome: On { relation: "public.listed", identity: "default", warnings: &["old rows have"] },
        writes: "INSERT INTO listed VALUES (1, 1); UPDATE listed SET a = 2; DELETE FROM listed",
        ..CASE
    },
    Case {
        name: "a rule instead of the delete, and triggers",
        setup: "CREATE TABLE ruled (id int PRIMARY KEY); CREATE RULE no_delete AS ON DELETE TO ruled DO INSTEAD NOTHING;
                CREATE FUNCTION boom() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'boom'; END $$;
                CREATE TRIGGER boom BEFORE TRUNCATE ON ruled EXECUTE FUNCTION boom()",
        call: "'ruled'",
        outcome: On { relation: "public.ruled", identity: "full", warnings: &[] },
        writes: "INSERT INTO ruled VALUES (1); UPDATE ruled SET id = 2; DELETE FROM ruled",
        ..CASE
    },
    Case {
        name: "published by hand, so that UPDATE fails already: repaired",
        setup: "CREATE TABLE broken (a int); ALTER PUBLICATION realtime ADD TABLE broken",
        admin: "",
        call: "'broken'",
        outcome: On { relation: "public.broken", identity: "full", warnings: &["no primary key"] },
        writes: "INSERT INTO broken VALUES (1); UPDATE broken SET a = 2; DELETE FROM broken",
    },
];
