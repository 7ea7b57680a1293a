//! enable_realtime() on tables of every kind, and whether the application can still write to them.

use tokio_postgres::Client;

use crate::cases::CASES;
use crate::cases::Outcome::{On, Refused};
use crate::{migrated, refusal, text};

/// Warnings that every table of these tests has.
const USUAL: &[&str] = &[
    "row-level security is off",
    "none of anon, authenticated and service_role has SELECT",
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

#[tokio::test]
async fn generated_columns_that_are_not_published_on_18() {
    let (_admin, app) = migrated().await;
    if text(
        &app,
        "SELECT current_setting('server_version_num')::int < 180000",
    )
    .await
        == "true"
    {
        eprintln!(
            "skipped: before Postgres 18 generated columns do not matter to a replica identity"
        );
        return;
    }
    app.batch_execute(
        "CREATE TABLE virtual (id int PRIMARY KEY, a int GENERATED ALWAYS AS (id + 1) VIRTUAL);
         CREATE TABLE stored (id int PRIMARY KEY, a int GENERATED ALWAYS AS (id + 1) STORED)",
    )
    .await
    .unwrap();
    let got = refusal(&app, "SELECT enable_realtime('virtual')").await;
    assert!(
        got.0 == "55000" && got.2.contains("replica_identity => 'default'"),
        "{got:?}"
    );
    text(
        &app,
        "SELECT enable_realtime('virtual', replica_identity => 'default')",
    )
    .await;
    text(&app, "SELECT enable_realtime('stored')").await;
    app.batch_execute("INSERT INTO virtual VALUES (1); INSERT INTO stored VALUES (1); UPDATE virtual SET id = 2; UPDATE stored SET id = 2")
        .await
        .unwrap();
    // somebody's own publication, without generated columns
    app.batch_execute("SELECT disable_realtime('stored'); ALTER PUBLICATION realtime SET (publish_generated_columns = none)")
        .await
        .unwrap();
    let got = refusal(&app, "SELECT enable_realtime('stored')").await;
    assert!(
        got.2.contains("publish_generated_columns = stored"),
        "{got:?}"
    );
    app.batch_execute("UPDATE stored SET id = 3").await.unwrap();
}
