//! The statements of proto-docs/sql.md, run as they stand there.

use std::process::Command;

use walcast_harness::Postgres;
use walcast_server::migrate::{self, NoteKind};

use crate::{notes, text};

/// The block of SQL in the manual that begins with this comment.
fn block(comment: &str) -> String {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-docs/sql.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    let start = manual
        .find(&format!("```sql\n-- {comment}\n"))
        .unwrap_or_else(|| panic!("no block {comment:?}"));
    let block = &manual[start + "```sql\n".len()..];
    block[..block.find("\n```").unwrap()].to_owned()
}

#[tokio::test]
async fn the_least_privilege_set_up_works() {
    let postgres = Postgres::start().await.unwrap();
    let admin = postgres.connect("postgres", "postgres").await.unwrap();
    admin
        .batch_execute("CREATE ROLE app_owner LOGIN")
        .await
        .unwrap();
    admin.batch_execute("CREATE DATABASE app").await.unwrap();
    let admin = postgres.connect("postgres", "app").await.unwrap();
    admin
        .batch_execute("GRANT CREATE ON SCHEMA public TO app_owner")
        .await
        .unwrap();
    admin
        .batch_execute(&block("least privilege, before the migrations"))
        .await
        .unwrap();

    let mut migrator = postgres.connect("walcast_migrate", "app").await.unwrap();
    let report = migrate::migrate(&mut migrator).await.unwrap();
    assert!(
        notes(&report, NoteKind::Missing).is_empty(),
        "{:?}",
        report.notes
    );
    admin
        .batch_execute(&block("least privilege, after the migrations"))
        .await
        .unwrap();

    let owner = postgres.connect("app_owner", "app").await.unwrap();
    owner
        .batch_execute(
            "CREATE TABLE todos (id int PRIMARY KEY, user_id uuid); ALTER TABLE todos ENABLE ROW LEVEL SECURITY;
             CREATE POLICY own ON todos FOR SELECT TO authenticated USING (user_id = auth.uid());
             GRANT SELECT ON todos TO anon, authenticated, service_role;
             SELECT enable_realtime('todos');
             INSERT INTO todos SELECT 1, '2d1a8f4e-0000-4000-8000-000000000001'; UPDATE todos SET id = 2",
        )
        .await
        .unwrap();
    assert_eq!(
        text(&owner, "SELECT warnings FROM realtime_enabled_tables").await,
        "{}"
    );

    let mut stream = postgres.connect("walcast_stream", "app").await.unwrap();
    assert!(
        migrate::migrate(&mut stream)
            .await
            .unwrap()
            .notes
            .is_empty()
    );
    text(&stream, "SELECT count(*) FROM realtime.walcast_tables").await;
    let keeps = "SELECT realtime.walcast_messages_add_day('2040-01-01') || coalesce(realtime.walcast_messages_expire('72 hours'), '')";
    assert_eq!(text(&stream, keeps).await, "created");
    text(
        &stream,
        "SELECT pg_create_logical_replication_slot('walcast', 'pgoutput', true)",
    )
    .await;

    let checks = postgres.connect("walcast_rls", "app").await.unwrap();
    assert!(
        checks.batch_execute("SELECT FROM todos").await.is_err(),
        "the login itself must see nothing"
    );
    let seen = "SELECT count(*) FROM todos";
    for (role, count) in [("anon", "0"), ("authenticated", "1"), ("service_role", "1")] {
        let claims = r#"{"sub": "2d1a8f4e-0000-4000-8000-000000000001"}"#;
        let begin = format!(
            "BEGIN; SET LOCAL ROLE {role}; SELECT set_config('request.jwt.claims', '{claims}', true)"
        );
        checks.batch_execute(&begin).await.unwrap();
        assert_eq!(text(&checks, seen).await, count, "{role}");
        checks.batch_execute("COMMIT").await.unwrap();
    }
}

#[tokio::test]
async fn uninstalling_leaves_nothing() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut admin = postgres.connect("postgres", &database).await.unwrap();
    admin
        .batch_execute(
            "CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int); CREATE TABLE c (id int PRIMARY KEY);
             ALTER TABLE c REPLICA IDENTITY USING INDEX c_pkey;
             CREATE TABLE p (id int PRIMARY KEY) PARTITION BY LIST (id); CREATE TABLE p1 PARTITION OF p DEFAULT",
        )
        .await
        .unwrap();
    let before = dump(&postgres.url("postgres", &database));
    for _ in 0..2 {
        migrate::migrate(&mut admin).await.unwrap();
        admin
            .batch_execute("SELECT enable_realtime(t) FROM unnest(ARRAY['a', 'b', 'c', 'p']) t; ALTER TABLE a RENAME TO d")
            .await
            .unwrap();
        assert_ne!(dump(&postgres.url("postgres", &database)), before);
        admin.batch_execute(&block("uninstall")).await.unwrap();
        admin
            .batch_execute("ALTER TABLE d RENAME TO a")
            .await
            .unwrap();
        assert_eq!(dump(&postgres.url("postgres", &database)), before);
    }
}

#[tokio::test]
async fn a_dump_restores_what_enable_realtime_was_told() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut admin = postgres.connect("postgres", &database).await.unwrap();
    migrate::migrate(&mut admin).await.unwrap();
    admin
        .batch_execute(r#"CREATE TABLE "T" (id int PRIMARY KEY); SELECT enable_realtime('T', ARRAY['DELETE'])"#)
        .await
        .unwrap();
    let copy = postgres.create_database().await.unwrap();
    let mut restored = postgres.connect("postgres", &copy).await.unwrap();
    // psql's own words, not SQL: what pg_dump writes around its statements since the summer of 2025
    let dump = run(
        "pg_dump",
        &["--inserts", &postgres.url("postgres", &database)],
    );
    let statements: Vec<&str> = dump
        .lines()
        .filter(|line| !line.starts_with('\\'))
        .collect();
    restored
        .batch_execute(&statements.join("\n"))
        .await
        .unwrap();
    restored.batch_execute("RESET search_path").await.unwrap();
    let report = migrate::migrate(&mut restored).await.unwrap();
    assert!(
        report.applied.is_empty() && report.notes.is_empty(),
        "{report:?}"
    );
    assert_eq!(
        text(&restored, "SELECT concat_ws(' ', table_name, events, replica_identity) FROM realtime_enabled_tables").await,
        "T {DELETE} full"
    );
}

#[tokio::test]
async fn files_run_by_hand_are_taken_over() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut admin = postgres.connect("postgres", &database).await.unwrap();
    let applied = migrate::migrate(&mut admin).await.unwrap().applied;
    admin
        .batch_execute(
            "CREATE TABLE t (id int PRIMARY KEY); SELECT enable_realtime('t', ARRAY['INSERT']);
             DELETE FROM realtime.walcast_migrations",
        )
        .await
        .unwrap();
    let again = migrate::migrate(&mut admin).await.unwrap();
    assert_eq!(again.applied, applied);
    assert!(again.notes.is_empty(), "{:?}", again.notes);
    assert_eq!(
        text(&admin, "SELECT events FROM realtime_enabled_tables").await,
        "{INSERT}"
    );
}

/// The database's schema as statements.
fn dump(url: &str) -> String {
    let dump = run("pg_dump", &["--schema-only", url]);
    // since the summer of 2025 a dump bears a random word, in \restrict
    dump.lines()
        .filter(|line| !line.starts_with('\\'))
        .collect::<Vec<_>>()
        .join("\n")
}

/// A client program of PostgreSQL.
fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    assert!(
        output.status.success(),
        "{program}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}
