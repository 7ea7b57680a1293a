//! enable_realtime() on tables of every kind, and whether the application can still write to them.

use tokio_postgres::Client;

use crate::{migrated, refusal, text};

struct Case {
    name: &'static str,
    /// Run as the superuser before (objects that a plain role cannot make).
    admin: &'static str,
    /// Run as `app`, the application.
    setup: &'static str,
    /// The arguments of enable_realtime().
    call: &'static str,
    outcome: Outcome,
    /// Run as `app` afterwards, whatever the outcome: must succeed.
    writes: &'static str,
}

enum Outcome {
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

/// Warnings that every table of these tests has.
const USUAL: &[&str] = &[
    "row-level security is off",
    "none of anon, authenticated and service_role has SELECT",
];

const CASES: &[Case] = &[
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
        name: "a publication of all tables already broke it: repaired",
        setup: "CREATE TABLE broken (a int)",
        admin: "",
        call: "'broken'",
        outcome: On { relation: "public.broken", identity: "full", warnings: &["no primary key"] },
        writes: "INSERT INTO broken VALUES (1); UPDATE broken SET a = 2; DELETE FROM broken",
    },
];

#[tokio::test]
async fn every_kind_of_table() {
    let (admin, app) = migrated().await;
    for case in CASES {
        admin
            .batch_execute(case.admin)
            .await
            .unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        app.batch_execute(case.setup)
            .await
            .unwrap_or_else(|e| panic!("{}: {e:?}", case.name));
        let state = state(&admin).await;
        let call = format!("SELECT enable_realtime({})", case.call);
        match case.outcome {
            On {
                relation,
                identity,
                warnings,
            } => {
                assert_on(&app, case.name, &call, (relation, identity, warnings)).await;
            }
            Refused(code, message, hint) => {
                let got = refusal(&app, &call).await;
                assert_eq!(got.0, code, "{}: {got:?}", case.name);
                assert!(got.1.contains(message), "{}: {got:?}", case.name);
                assert!(got.2.contains(hint), "{}: {got:?}", case.name);
                assert_eq!(
                    self::state(&admin).await,
                    state,
                    "{}: something changed",
                    case.name
                );
            }
        }
        app.batch_execute(case.writes)
            .await
            .unwrap_or_else(|e| panic!("{}: write: {e:?}", case.name));
    }
}

async fn assert_on(
    app: &Client,
    name: &str,
    call: &str,
    (relation, identity, warnings): (&str, &str, &[&str]),
) {
    // twice: the second call changes nothing
    for _ in 0..2 {
        let said = app
            .query_one(call, &[])
            .await
            .unwrap_or_else(|e| panic!("{name}: {e:?}"));
        let said: String = said.get(0);
        assert!(
            said.starts_with(&format!(
                "realtime is on for {relation}: INSERT, UPDATE, DELETE, TRUNCATE"
            )),
            "{name}: {said}"
        );
    }
    let row = app
        .query_one(
            "SELECT replica_identity, warnings, events FROM realtime_enabled_tables
              WHERE format('%I.%I', schema_name, table_name) = $1",
            &[&relation],
        )
        .await
        .unwrap_or_else(|e| panic!("{name}: {e:?}"));
    assert_eq!(row.get::<_, &str>(0), identity, "{name}");
    let mut got: Vec<String> = row.get(1);
    for expected in warnings {
        let place = got.iter().position(|w| w.contains(expected));
        got.remove(place.unwrap_or_else(|| panic!("{name}: no warning {expected:?} in {got:?}")));
    }
    // what is left are the usual ones, and on Postgres before 18 that generated columns are not sent
    got.retain(|w| {
        !USUAL.iter().any(|usual| w.contains(usual)) && !w.starts_with("generated columns")
    });
    assert!(got.is_empty(), "{name}: {got:?}");
    assert_eq!(row.get::<_, Vec<String>>(2).len(), 4, "{name}");
}

/// Everything that enable_realtime() may change.
async fn state(admin: &Client) -> String {
    text(
        admin,
        "SELECT concat_ws(E'\\n',
            (SELECT string_agg(c.oid::regclass || ' ' || relreplident::text, ',' ORDER BY c.oid) FROM pg_class c WHERE relkind IN ('r', 'p') AND c.oid > 16384),
            (SELECT string_agg(prrelid::regclass::text, ',' ORDER BY prrelid) FROM pg_publication_rel),
            (SELECT string_agg(t::text, ',' ORDER BY t.relation::oid) FROM realtime.walcast_tables t),
            (SELECT string_agg(i::text, ',' ORDER BY i.relation::oid) FROM realtime.walcast_identities i))",
    )
    .await
}

#[tokio::test]
async fn options_can_be_changed_and_taken_back() {
    let (_admin, app) = migrated().await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY, a int); CREATE SCHEMA s; CREATE TABLE s.t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let events = "SELECT events FROM realtime_enabled_tables WHERE schema_name = 'public' AND table_name = 't'";
    let identity = "SELECT relreplident FROM pg_class WHERE oid = 'public.t'::regclass";

    let said = text(
        &app,
        "SELECT enable_realtime('t', ARRAY['delete', ' insert ', 'INSERT'])",
    )
    .await;
    assert_eq!(
        said,
        "realtime is on for public.t: INSERT, DELETE; replica identity full"
    );
    assert_eq!(text(&app, events).await, "{INSERT,DELETE}");
    assert_eq!(text(&app, identity).await, "f");

    text(
        &app,
        "SELECT enable_realtime(table_name => 't', replica_identity => 'default')",
    )
    .await;
    assert_eq!(text(&app, events).await, "{INSERT,UPDATE,DELETE,TRUNCATE}");
    assert_eq!(text(&app, identity).await, "d");

    // the caller's search_path decides, and disable puts back what enable changed
    app.batch_execute(
        "SET search_path = s, public; ALTER TABLE s.t REPLICA IDENTITY USING INDEX t_pkey",
    )
    .await
    .unwrap();
    assert_eq!(
        text(&app, "SELECT enable_realtime('t')").await,
        "realtime is on for s.t: INSERT, UPDATE, DELETE, TRUNCATE; replica identity full"
    );
    assert_eq!(
        text(&app, "SELECT disable_realtime('t')").await,
        "realtime is off for s.t"
    );
    assert_eq!(
        text(&app, "SELECT disable_realtime('t')").await,
        "realtime was not on for s.t"
    );
    assert_eq!(
        text(
            &app,
            "SELECT relreplident FROM pg_class WHERE oid = 's.t'::regclass"
        )
        .await,
        "i"
    );
    assert_eq!(
        text(&app, "SELECT disable_realtime('public.t')").await,
        "realtime is off for public.t"
    );
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime_enabled_tables").await,
        "0"
    );
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime.walcast_tables").await,
        "0"
    );
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime.walcast_identities").await,
        "0"
    );
}

#[tokio::test]
async fn disable_keeps_an_identity_that_another_publication_needs() {
    let (_admin, app) = migrated().await;
    app.batch_execute(
        "CREATE TABLE t (a int); SELECT enable_realtime('t'); CREATE PUBLICATION other FOR TABLE t; SELECT disable_realtime('t')",
    )
    .await
    .unwrap();
    assert_eq!(
        text(
            &app,
            "SELECT relreplident FROM pg_class WHERE relname = 't'"
        )
        .await,
        "f"
    );
    app.batch_execute("INSERT INTO t VALUES (1); UPDATE t SET a = 2; DELETE FROM t")
        .await
        .unwrap();
}

#[tokio::test]
async fn the_view_says_what_the_publication_says() {
    let (admin, app) = migrated().await;
    app.batch_execute(
        "CREATE TABLE by_hand (id int PRIMARY KEY, secret int); ALTER PUBLICATION realtime ADD TABLE by_hand (id);
         CREATE TABLE no_key (a int); ALTER PUBLICATION realtime ADD TABLE no_key;
         CREATE TABLE removed (id int PRIMARY KEY); SELECT enable_realtime('removed');
         ALTER PUBLICATION realtime DROP TABLE removed;
         CREATE TABLE renamed (id int PRIMARY KEY); SELECT enable_realtime('renamed', ARRAY['UPDATE']);
         ALTER TABLE renamed RENAME TO other_name;
         CREATE TABLE dropped (id int PRIMARY KEY); SELECT enable_realtime('dropped'); DROP TABLE dropped",
    )
    .await
    .unwrap();
    let rows = "SELECT string_agg(concat_ws(' ', table_name, events, replica_identity, has_primary_key, rls_enabled), '; ' ORDER BY table_name)
                  FROM realtime_enabled_tables";
    assert_eq!(
        text(&app, rows).await,
        "by_hand {INSERT,UPDATE,DELETE,TRUNCATE} default t f; no_key {INSERT,UPDATE,DELETE,TRUNCATE} default f f; other_name {UPDATE} full t f"
    );
    let warnings = |table| text(&app, table);
    let by_hand =
        warnings("SELECT warnings FROM realtime_enabled_tables WHERE table_name = 'by_hand'").await;
    assert!(by_hand.contains("column list"), "{by_hand}");
    let no_key =
        warnings("SELECT warnings FROM realtime_enabled_tables WHERE table_name = 'no_key'").await;
    assert!(no_key.contains("UPDATE and DELETE on it fail"), "{no_key}");
    // the publication's own column list, under FULL, would break the application
    let got = refusal(&app, "SELECT enable_realtime('by_hand')").await;
    assert!(
        got.2.contains("Publication realtime has a column list"),
        "{got:?}"
    );

    app.batch_execute("ALTER PUBLICATION realtime SET (publish = 'insert, update')")
        .await
        .unwrap();
    assert!(
        text(&app, rows)
            .await
            .starts_with("by_hand {INSERT,UPDATE} default")
    );
    admin
        .batch_execute("SELECT * FROM realtime.walcast_setup()")
        .await
        .unwrap();
    assert_eq!(
        text(&admin, "SELECT count(*) FROM realtime.walcast_tables").await,
        "2"
    );
}

#[tokio::test]
async fn a_publication_for_all_tables_or_a_schema_covers_already() {
    let (admin, app) = migrated().await;
    app.batch_execute("CREATE TABLE t (a int); CREATE SCHEMA s; CREATE TABLE s.t (a int)")
        .await
        .unwrap();
    admin
        .batch_execute("DROP PUBLICATION realtime; CREATE PUBLICATION realtime FOR ALL TABLES; ALTER PUBLICATION realtime OWNER TO postgres")
        .await
        .unwrap();
    // published without identities: the application is broken, and enable_realtime() repairs it
    admin
        .batch_execute("SELECT enable_realtime('public.t')")
        .await
        .unwrap();
    app.batch_execute("INSERT INTO t VALUES (1); UPDATE t SET a = 2; DELETE FROM t")
        .await
        .unwrap();
    assert_eq!(text(&admin, "SELECT string_agg(schema_name || '.' || table_name, ' ' ORDER BY schema_name DESC) FROM realtime_enabled_tables").await, "s.t public.t");
    let got = refusal(&admin, "SELECT disable_realtime('public.t')").await;
    assert!(
        got.1.contains("all tables") && got.2.contains("DROP PUBLICATION"),
        "{got:?}"
    );

    admin
        .batch_execute("DROP PUBLICATION realtime; CREATE PUBLICATION realtime FOR TABLES IN SCHEMA s WITH (publish_via_partition_root = true)")
        .await
        .unwrap();
    admin
        .batch_execute("SELECT enable_realtime('s.t', ARRAY['INSERT'])")
        .await
        .unwrap();
    assert_eq!(
        text(&admin, "SELECT count(*) FROM pg_publication_rel").await,
        "0"
    );
    assert_eq!(
        text(&admin, "SELECT events FROM realtime_enabled_tables").await,
        "{INSERT}"
    );
    let got = refusal(&admin, "SELECT disable_realtime('s.t')").await;
    assert!(got.2.contains("DROP TABLES IN SCHEMA"), "{got:?}");

    admin
        .batch_execute("DROP PUBLICATION realtime")
        .await
        .unwrap();
    let got = refusal(&admin, "SELECT enable_realtime('s.t')").await;
    assert!(
        got.0 == "42704" && got.2.contains("walcast migrate"),
        "{got:?}"
    );
}

#[tokio::test]
async fn a_partition_that_came_later_is_named_and_repaired() {
    let (_admin, app) = migrated().await;
    app.batch_execute(
        "CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id); SELECT enable_realtime('p');
         CREATE TABLE p1 PARTITION OF p DEFAULT",
    )
    .await
    .unwrap();
    let warnings = "SELECT warnings FROM realtime_enabled_tables";
    assert!(
        text(&app, warnings)
            .await
            .contains("root's: public.p1: call enable_realtime() again")
    );
    text(&app, "SELECT enable_realtime('p')").await;
    assert!(!text(&app, warnings).await.contains("public.p1"));
    text(&app, "SELECT disable_realtime('p')").await;
    assert_eq!(
        text(
            &app,
            "SELECT string_agg(relreplident, '') FROM pg_class WHERE relname IN ('p', 'p1')"
        )
        .await,
        "dd"
    );
}
