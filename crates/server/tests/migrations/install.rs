//! Installing: as whom, into what, how often, and how many at once.

use futures_util::future::join_all;
use tokio_postgres::Client;
use walcast_harness::Postgres;
use walcast_server::migrate::{self, MigrateError, NoteKind};

use crate::{ensure_role, ensure_subscribers, notes, text};

#[tokio::test]
async fn superuser_into_a_fresh_cluster() {
    let postgres = Postgres::start().await.unwrap();
    let mut client = postgres.connect("postgres", "postgres").await.unwrap();
    let pending = migrate::pending(&client).await.unwrap();
    assert!(pending.len() >= 6);

    let report = migrate::migrate(&mut client).await.unwrap();
    assert_eq!(report.applied, pending);
    assert!(report.present.is_empty());
    assert!(
        notes(&report, NoteKind::Missing).is_empty(),
        "{:?}",
        report.notes
    );
    assert!(
        notes(&report, NoteKind::Kept).is_empty(),
        "{:?}",
        report.notes
    );
    assert!(migrate::pending(&client).await.unwrap().is_empty());

    let roles = "SELECT string_agg(concat_ws(' ', rolname, rolcanlogin, rolinherit, rolbypassrls, rolsuper), ', ' ORDER BY rolname)
                   FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')";
    assert_eq!(
        text(&client, roles).await,
        "anon f f f f, authenticated f f f f, service_role f f t f"
    );
    let publication = "SELECT concat_ws(' ', puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate)
                         FROM pg_publication WHERE pubname = 'realtime'";
    assert_eq!(text(&client, publication).await, "f t t t t t");

    let again = migrate::migrate(&mut client).await.unwrap();
    assert!(again.applied.is_empty());
    assert_eq!(again.present, report.applied);
    assert!(again.notes.is_empty(), "{:?}", again.notes);
}

#[tokio::test]
async fn plain_owner_is_told_which_roles_an_administrator_must_make() {
    let postgres = Postgres::start().await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    admin
        .batch_execute("CREATE ROLE owner LOGIN")
        .await
        .unwrap();
    admin
        .batch_execute("CREATE DATABASE app OWNER owner")
        .await
        .unwrap();
    let mut owner = postgres.connect("owner", "app").await.unwrap();

    let report = migrate::migrate(&mut owner).await.unwrap();
    let missing = notes(&report, NoteKind::Missing);
    let whats: Vec<&str> = missing.iter().map(|note| note.what.as_str()).collect();
    assert_eq!(missing.len(), 3, "{whats:?}");
    for (note, role) in missing
        .iter()
        .zip(["anon", "authenticated", "service_role"])
    {
        assert!(
            note.what.starts_with(&format!("role {role}")),
            "{}",
            note.what
        );
        let remedy = note.remedy.as_deref().unwrap();
        // the remedy is a statement, with a word on who may run it behind
        admin
            .batch_execute(&remedy[..=remedy.find(';').unwrap()])
            .await
            .unwrap();
    }

    // the roles have appeared since: their grants are made now
    let report = migrate::migrate(&mut owner).await.unwrap();
    assert!(report.applied.is_empty());
    assert!(
        notes(&report, NoteKind::Missing).is_empty(),
        "{:?}",
        report.notes
    );
    // USAGE on auth and on realtime, SELECT and INSERT on realtime.messages
    assert_eq!(
        notes(&report, NoteKind::Created).len(),
        3 * 4,
        "{:?}",
        report.notes
    );
    assert_helpers_answer(&admin, "app", &postgres).await;
}

/// As the role `authenticated`, in and after a transaction that sets claims.
async fn assert_helpers_answer(admin: &Client, database: &str, postgres: &Postgres) {
    admin
        .batch_execute("GRANT authenticated TO owner")
        .await
        .unwrap();
    let client = postgres.connect("owner", database).await.unwrap();
    let all = "SELECT concat_ws('|', auth.uid(), auth.role(), auth.email(), auth.jwt() ->> 'team')";
    client
        .batch_execute(
            r#"BEGIN; SET LOCAL ROLE authenticated; SELECT set_config('request.jwt.claims',
               '{"sub": "2d1a8f4e-0000-4000-8000-000000000001", "role": "authenticated", "email": "a@b.c", "team": "x"}', true)"#,
        )
        .await
        .unwrap();
    assert_eq!(
        text(&client, all).await,
        "2d1a8f4e-0000-4000-8000-000000000001|authenticated|a@b.c|x"
    );
    client
        .batch_execute("COMMIT; SET ROLE authenticated")
        .await
        .unwrap();
    // '' and not NULL now: the helpers must not fail
    assert_eq!(
        text(
            &client,
            "SELECT current_setting('request.jwt.claims', true) = ''"
        )
        .await,
        "true"
    );
    assert_eq!(
        text(
            &client,
            "SELECT auth.uid() IS NULL AND auth.jwt() IS NULL AND auth.role() IS NULL"
        )
        .await,
        "true"
    );
}

#[tokio::test]
async fn owner_with_createrole_makes_the_roles() {
    let postgres = Postgres::start().await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    admin
        .batch_execute("CREATE ROLE owner LOGIN CREATEROLE")
        .await
        .unwrap();
    admin
        .batch_execute("CREATE DATABASE app OWNER owner")
        .await
        .unwrap();
    let mut owner = postgres.connect("owner", "app").await.unwrap();

    let report = migrate::migrate(&mut owner).await.unwrap();
    let missing = notes(&report, NoteKind::Missing);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert_eq!(missing[0].what, "BYPASSRLS of role service_role");
    assert_eq!(text(&admin, "SELECT count(*) FROM pg_roles WHERE rolname IN ('anon', 'authenticated', 'service_role')").await, "3");
    assert!(migrate::migrate(&mut owner).await.unwrap().notes.is_empty());
}

#[tokio::test]
async fn create_on_the_database_is_enough() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let admin = postgres.connect("postgres", &database).await.unwrap();
    ensure_role(&admin, "guest", "LOGIN").await;
    admin
        .batch_execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        .await
        .unwrap();
    let mut guest = postgres.connect("guest", &database).await.unwrap();

    let error = migrate::migrate(&mut guest).await.unwrap_err();
    let said = error.to_string();
    assert!(
        said.contains("0001_schema") && said.contains("42501"),
        "{said}"
    );
    assert!(
        said.contains(&format!("GRANT CREATE ON DATABASE {database} TO guest")),
        "{said}"
    );
    assert!(!error.is_transient());

    admin
        .batch_execute(&format!("GRANT CREATE ON DATABASE {database} TO guest"))
        .await
        .unwrap();
    let report = migrate::migrate(&mut guest).await.unwrap();
    let missing = notes(&report, NoteKind::Missing);
    let short: Vec<_> = missing
        .iter()
        .filter(|note| note.what.contains("public."))
        .collect();
    assert_eq!(short.len(), 3, "{missing:?}");
    assert_eq!(
        short[0].remedy.as_deref(),
        Some("GRANT CREATE ON SCHEMA public TO guest; then run walcast migrate again")
    );

    guest
        .batch_execute("CREATE SCHEMA g; CREATE TABLE g.t (id int PRIMARY KEY)")
        .await
        .unwrap();
    guest
        .batch_execute("SELECT realtime.enable_realtime('g.t')")
        .await
        .unwrap();
    assert_eq!(
        text(
            &guest,
            "SELECT table_name FROM realtime.realtime_enabled_tables"
        )
        .await,
        "t"
    );
}

#[tokio::test]
async fn four_at_once_apply_it_once() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let runs = (0..4).map(|_| async {
        let mut client = postgres.connect("postgres", &database).await.unwrap();
        migrate::migrate(&mut client).await.unwrap()
    });
    let reports = join_all(runs).await;
    let applied: Vec<usize> = reports
        .iter()
        .map(|r| r.applied.len())
        .filter(|n| *n > 0)
        .collect();
    assert_eq!(applied.len(), 1, "{applied:?}");
    assert!(
        reports
            .iter()
            .all(|r| r.applied.len() + r.present.len() == applied[0])
    );
}

#[tokio::test]
async fn an_applied_file_that_changed_is_refused() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut client = postgres.connect("postgres", &database).await.unwrap();
    migrate::migrate(&mut client).await.unwrap();
    client
        .batch_execute(
            "UPDATE realtime.walcast_migrations SET checksum = 'other' WHERE version = 2",
        )
        .await
        .unwrap();
    for error in [
        migrate::migrate(&mut client).await.unwrap_err(),
        migrate::pending(&client).await.unwrap_err(),
    ] {
        assert!(
            matches!(error, MigrateError::Changed { version: 2, .. }),
            "{error}"
        );
        assert!(error.to_string().contains("0002_names"), "{error}");
    }
}

#[tokio::test]
async fn a_newer_migration_is_reported_and_left() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut client = postgres.connect("postgres", &database).await.unwrap();
    migrate::migrate(&mut client).await.unwrap();
    client
        .batch_execute("INSERT INTO realtime.walcast_migrations VALUES (9999, '9999_later', 'x')")
        .await
        .unwrap();
    let report = migrate::migrate(&mut client).await.unwrap();
    assert_eq!(report.unknown.len(), 1);
    assert_eq!(report.unknown[0].name, "9999_later");
}

/// Shaped like a Supabase database: their `realtime`, their `auth`, their owner, their short name.
const THEIRS: &str = "
    CREATE SCHEMA realtime AUTHORIZATION supabase_admin;
    CREATE SCHEMA auth AUTHORIZATION supabase_admin;
    GRANT USAGE ON SCHEMA realtime, auth TO anon, authenticated, service_role;
    SET ROLE supabase_admin;
    CREATE TABLE realtime.schema_migrations (version bigint PRIMARY KEY);
    CREATE TABLE realtime.subscription (id bigint PRIMARY KEY, entity regclass);
    CREATE FUNCTION realtime.send(payload jsonb, event text, topic text, private boolean DEFAULT true)
      RETURNS void LANGUAGE sql AS 'SELECT';
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
      $$ SELECT nullif(current_setting('request.jwt.claim.sub', true), '')::uuid $$;
    CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'theirs' $$;
    CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS $$ SELECT '{}'::jsonb $$;
    RESET ROLE;
    CREATE FUNCTION public.enable_realtime(schema_name text, table_name text) RETURNS text
      LANGUAGE sql AS $$ SELECT 'theirs' $$;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON TABLES TO anon, authenticated, service_role;
    ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON FUNCTIONS TO anon, authenticated, service_role;";

const DEFINITIONS: &str = "SELECT string_agg(pg_get_functiondef(p.oid) || coalesce(p.proacl::text, ''), '' ORDER BY p.oid)
    FROM pg_proc p JOIN pg_roles r ON r.oid = p.proowner WHERE r.rolname = 'supabase_admin' OR prosrc LIKE '%theirs%'";

#[tokio::test]
async fn what_another_product_made_stays() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let admin = postgres.connect("postgres", &database).await.unwrap();
    ensure_role(&admin, "supabase_admin", "NOLOGIN").await;
    ensure_subscribers(&admin).await;
    ensure_role(&admin, "tenant", "LOGIN").await;
    admin
        .batch_execute(&format!(
            "GRANT CREATE ON DATABASE {database} TO tenant; GRANT CREATE ON SCHEMA public TO tenant"
        ))
        .await
        .unwrap();
    admin.batch_execute(THEIRS).await.unwrap();
    let before = text(&admin, DEFINITIONS).await;
    let mut tenant = postgres.connect("tenant", &database).await.unwrap();

    let said = migrate::migrate(&mut tenant).await.unwrap_err().to_string();
    assert!(
        said.contains("GRANT USAGE, CREATE ON SCHEMA realtime TO tenant"),
        "{said}"
    );
    admin
        .batch_execute("GRANT USAGE, CREATE ON SCHEMA realtime TO tenant")
        .await
        .unwrap();

    let report = migrate::migrate(&mut tenant).await.unwrap();
    let kept: Vec<&str> = notes(&report, NoteKind::Kept)
        .iter()
        .map(|n| n.what.as_str())
        .collect();
    assert_eq!(kept.len(), 5, "{kept:?}");
    assert!(kept[3].contains("realtime.enable_realtime"), "{kept:?}");
    assert!(kept[4].contains("function realtime.send("), "{kept:?}");
    let missing = notes(&report, NoteKind::Missing);
    assert_eq!(missing.len(), 1, "{missing:?}");
    assert!(
        missing[0].what.starts_with("function auth.email()"),
        "{missing:?}"
    );
    assert_eq!(text(&admin, DEFINITIONS).await, before);
    assert_eq!(
        text(&admin, "SELECT enable_realtime('a', 'b')").await,
        "theirs"
    );

    admin
        .batch_execute("GRANT USAGE, CREATE ON SCHEMA auth TO tenant")
        .await
        .unwrap();
    migrate::migrate(&mut tenant).await.unwrap();
    assert_eq!(
        text(
            &admin,
            "SELECT has_function_privilege('anon', 'auth.email()', 'EXECUTE')"
        )
        .await,
        "true"
    );
    assert_eq!(text(&admin, DEFINITIONS).await, before);
    tenant
        .batch_execute("CREATE TABLE public.mine (id int PRIMARY KEY)")
        .await
        .unwrap();
    tenant
        .batch_execute("SELECT realtime.enable_realtime('mine'); SELECT disable_realtime('mine')")
        .await
        .unwrap();
}

#[tokio::test]
async fn an_existing_publication_is_kept_and_its_gaps_are_named() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut client = postgres.connect("postgres", &database).await.unwrap();
    // who makes a role at the same time as others may be told that it is missing
    ensure_subscribers(&client).await;
    client
        .batch_execute("CREATE PUBLICATION realtime WITH (publish = 'insert')")
        .await
        .unwrap();
    let report = migrate::migrate(&mut client).await.unwrap();
    let missing = notes(&report, NoteKind::Missing);
    assert!(missing.len() >= 2, "{missing:?}");
    for note in missing {
        client
            .batch_execute(note.remedy.as_deref().unwrap())
            .await
            .unwrap();
    }
    assert!(
        notes(
            &migrate::migrate(&mut client).await.unwrap(),
            NoteKind::Missing
        )
        .is_empty()
    );
}
