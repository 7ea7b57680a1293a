//! Who may call enable_realtime(), and what others are told.

use walcast_harness::Postgres;
use walcast_server::migrate;

use crate::{ensure_role, migrated, refusal, text};

#[tokio::test]
async fn each_missing_right_is_named_with_its_grant() {
    let postgres = Postgres::shared().await;
    let (admin, app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    ensure_role(&admin, "writer", "LOGIN").await;
    admin
        .batch_execute("GRANT CREATE ON SCHEMA public TO writer")
        .await
        .unwrap();
    let writer = postgres.connect("writer", &database).await.unwrap();
    writer
        .batch_execute("CREATE TABLE his (id int PRIMARY KEY)")
        .await
        .unwrap();
    app.batch_execute("CREATE TABLE hers (id int PRIMARY KEY)")
        .await
        .unwrap();

    let call = "SELECT enable_realtime('his')";
    // each remedy is run, and leads to the next or to success
    let steps = [
        (
            "may not use schema realtime",
            "GRANT USAGE ON SCHEMA realtime TO writer;",
        ),
        (
            "is not the owner of publication realtime",
            "GRANT app TO writer;",
        ),
    ];
    for (message, remedy) in steps {
        let got = refusal(&writer, call).await;
        assert_eq!(got.0, "42501", "{got:?}");
        assert!(got.1.contains(message), "{got:?}");
        assert_eq!(got.2, remedy);
        admin.batch_execute(&got.2).await.unwrap();
    }
    writer.batch_execute(call).await.unwrap();
    // a member of the table's owner may, the owner of the publication alone may not
    let got = refusal(
        &app,
        "SELECT enable_realtime('his', replica_identity => 'default')",
    )
    .await;
    assert_eq!(got.0, "42501", "{got:?}");
    assert!(
        got.1
            .contains("role app is not the owner of table public.his"),
        "{got:?}"
    );
    assert!(got.2.contains("GRANT writer TO app"), "{got:?}");
    writer
        .batch_execute("SELECT enable_realtime('hers')")
        .await
        .unwrap();
    // but it may take the table out of its publication; the identity stays, for that is the owner's
    app.batch_execute("SELECT disable_realtime('his')")
        .await
        .unwrap();
    assert_eq!(
        text(
            &admin,
            "SELECT relreplident FROM pg_class WHERE relname = 'his'"
        )
        .await,
        "f"
    );
    admin.batch_execute("REVOKE app FROM writer").await.unwrap();
}

#[tokio::test]
async fn a_superusers_publication_is_not_granted_away() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut admin = postgres.connect("postgres", &database).await.unwrap();
    migrate::migrate(&mut admin).await.unwrap();
    ensure_role(&admin, "maker", "LOGIN").await;
    admin
        .batch_execute(
            "GRANT USAGE ON SCHEMA realtime TO maker; GRANT CREATE ON SCHEMA public TO maker",
        )
        .await
        .unwrap();
    let maker = postgres.connect("maker", &database).await.unwrap();
    maker
        .batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();

    let got = refusal(&maker, "SELECT enable_realtime('t')").await;
    assert_eq!(
        got.2,
        "As postgres: ALTER PUBLICATION realtime OWNER TO maker; SELECT * FROM realtime.walcast_setup(); or call this function as postgres."
    );
    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {database} TO maker; ALTER PUBLICATION realtime OWNER TO maker"))
        .await
        .unwrap();
    let got = refusal(&maker, "SELECT enable_realtime('t')").await;
    assert!(
        got.2
            .starts_with("GRANT SELECT, INSERT, UPDATE, DELETE ON realtime.walcast_tables"),
        "{got:?}"
    );
    // which walcast_setup() does by itself when it finds somebody else's publication
    migrate::migrate(&mut admin).await.unwrap();
    maker
        .batch_execute("SELECT enable_realtime('t')")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_subscribers_role_gets_messages_in_schema_realtime_and_nothing_else() {
    let (admin, app) = migrated().await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let rights = "SELECT string_agg(DISTINCT c.relname || ' ' || p, ', ' ORDER BY c.relname || ' ' || p)
                    FROM unnest(ARRAY['anon', 'authenticated', 'service_role']) r,
                         unnest(ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE', 'TRUNCATE']) p, pg_class c
                   WHERE c.relnamespace = 'realtime'::regnamespace AND c.relkind IN ('r', 'p', 'v')
                     AND has_table_privilege(r, c.oid, p)";
    assert_eq!(
        text(&admin, rights).await,
        "messages INSERT, messages SELECT"
    );
    admin.batch_execute("SET ROLE anon").await.unwrap();
    for statement in [
        "SELECT enable_realtime('t')",
        "SELECT * FROM realtime_enabled_tables",
        "SELECT realtime.walcast_try('SELECT 1')",
        "SELECT realtime.walcast_messages_add_day('2030-01-01')",
        "SELECT realtime.walcast_messages_expire('1 second')",
    ] {
        let got = refusal(&admin, statement).await;
        assert_eq!(got.0, "42501", "{statement}: {got:?}");
    }
}

#[tokio::test]
async fn somebody_elses_operators_are_not_run() {
    let (admin, app) = migrated().await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    // a trap in front of pg_catalog: whoever calls with it in the path must not fall in
    admin
        .batch_execute(
            "CREATE SCHEMA trap; GRANT USAGE ON SCHEMA trap TO app;
             CREATE FUNCTION trap.current_setting(text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
             CREATE FUNCTION trap.btrim(text, text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
             CREATE FUNCTION trap.current_schemas(boolean) RETURNS name[] LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$;
             CREATE FUNCTION trap.format(text, VARIADIC text[]) RETURNS text LANGUAGE plpgsql AS $$ BEGIN RAISE 'trapped'; END $$",
        )
        .await
        .unwrap();
    app.batch_execute("SET search_path = trap, pg_catalog, public; SELECT public.enable_realtime('t'); SELECT public.disable_realtime('t')")
        .await
        .unwrap();
}

#[tokio::test]
async fn a_busy_table_is_given_up_and_nothing_changes() {
    let postgres = Postgres::shared().await;
    let (admin, app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY); SET lock_timeout = '50ms'")
        .await
        .unwrap();
    let busy = postgres.connect("app", &database).await.unwrap();
    busy.batch_execute("BEGIN; SELECT * FROM t").await.unwrap();
    let got = refusal(&app, "SELECT enable_realtime('t')").await;
    assert_eq!(got.0, "55P03", "{got:?}");
    assert!(got.1.contains("in use by a long transaction"), "{got:?}");
    busy.batch_execute("COMMIT").await.unwrap();
    app.batch_execute("SELECT enable_realtime('t')")
        .await
        .unwrap();
    assert_eq!(
        text(&app, "SELECT current_setting('lock_timeout')").await,
        "50ms"
    );
}

#[tokio::test]
async fn a_login_that_only_serves_needs_two_grants() {
    let postgres = Postgres::shared().await;
    let (admin, _app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    ensure_role(&admin, "serves", "LOGIN").await;
    let mut serves = postgres.connect("serves", &database).await.unwrap();
    let said = migrate::migrate(&mut serves).await.unwrap_err().to_string();
    assert!(
        said.contains("42501") && said.contains("GRANT USAGE ON SCHEMA realtime"),
        "{said}"
    );
    assert!(migrate::pending(&serves).await.is_err());

    admin
        .batch_execute(
            "GRANT USAGE ON SCHEMA realtime TO serves;
             GRANT SELECT ON realtime.walcast_migrations, realtime.walcast_tables TO serves",
        )
        .await
        .unwrap();
    assert!(migrate::pending(&serves).await.unwrap().is_empty());
    // as on a standby: an up-to-date database is only read
    serves
        .batch_execute("SET default_transaction_read_only = on")
        .await
        .unwrap();
    let report = migrate::migrate(&mut serves).await.unwrap();
    assert!(
        report.applied.is_empty() && report.notes.is_empty(),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_read_only_login_with_something_to_do_is_sent_to_the_primary() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut client = postgres.connect("postgres", &database).await.unwrap();
    client
        .batch_execute("SET default_transaction_read_only = on")
        .await
        .unwrap();
    let said = migrate::migrate(&mut client).await.unwrap_err().to_string();
    assert!(
        said.contains("25006") && said.contains("on the primary"),
        "{said}"
    );
}

#[tokio::test]
async fn two_calls_for_one_table_at_once() {
    let postgres = Postgres::shared().await;
    let (admin, app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    app.batch_execute("CREATE TABLE t (id int PRIMARY KEY)")
        .await
        .unwrap();
    let other = postgres.connect("app", &database).await.unwrap();
    let (one, two) = tokio::join!(
        app.batch_execute("BEGIN; SELECT enable_realtime('t'); COMMIT"),
        other.batch_execute("BEGIN; SELECT enable_realtime('t', ARRAY['INSERT']); COMMIT"),
    );
    one.unwrap();
    two.unwrap();
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime_enabled_tables").await,
        "1"
    );
}
