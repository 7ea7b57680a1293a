//! The migrations and their functions against a real Postgres.

mod cases;
mod install;
mod manual;
mod messages;
mod partitions;
mod rights;
mod tables;

use tokio_postgres::Client;
use walcast_harness::Postgres;
use walcast_server::migrate::{self, Note, NoteKind, Report};

/// A database with the migrations applied by `postgres`, and a client of each of the superuser and
/// `app`, a plain role that owns the database, schema `public` and the publication.
async fn migrated() -> (Client, Client) {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let admin = postgres.connect("postgres", &database).await.unwrap();
    ensure_role(&admin, "app", "LOGIN").await;
    ensure_subscribers(&admin).await;
    admin
        .batch_execute(&format!("ALTER DATABASE {database} OWNER TO app"))
        .await
        .unwrap();
    let mut app = postgres.connect("app", &database).await.unwrap();
    migrate::migrate(&mut app).await.unwrap();
    (admin, app)
}

/// Roles belong to the cluster, which tests share.
async fn ensure_role(admin: &Client, role: &str, options: &str) {
    admin
        .batch_execute(&format!(
            "DO $$ BEGIN CREATE ROLE {role} {options}; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$"
        ))
        .await
        .unwrap();
}

/// As the migrations make them, whichever test is the first.
async fn ensure_subscribers(admin: &Client) {
    for (role, options) in [
        ("anon", "NOLOGIN NOINHERIT"),
        ("authenticated", "NOLOGIN NOINHERIT"),
        ("service_role", "NOLOGIN NOINHERIT BYPASSRLS"),
    ] {
        ensure_role(admin, role, options).await;
    }
}

async fn text(client: &Client, query: &str) -> String {
    let row = client
        .query_one(&format!("SELECT ({query})::text"), &[])
        .await;
    let row = row.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    row.get::<_, Option<String>>(0)
        .unwrap_or_else(|| "NULL".to_owned())
}

/// SQLSTATE, message and hint of a statement that must fail.
async fn refusal(client: &Client, statement: &str) -> (String, String, String) {
    let error = client.batch_execute(statement).await.expect_err(statement);
    let db = error
        .as_db_error()
        .unwrap_or_else(|| panic!("{statement}: {error}"));
    (
        db.code().code().to_owned(),
        db.message().to_owned(),
        db.hint().unwrap_or_default().to_owned(),
    )
}

fn notes(report: &Report, kind: NoteKind) -> Vec<&Note> {
    report
        .notes
        .iter()
        .filter(|note| note.kind == kind)
        .collect()
}
