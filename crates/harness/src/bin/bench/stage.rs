//! The private Postgres, its tables, and the binary in front of it.

use std::path::PathBuf;

use anyhow::{Context, Result};
use jsonwebtoken::{EncodingKey, Header};
use serde_json::json;
use tokio_postgres::Client;
use walcast_harness::{Postgres, Walcast};

/// A database's usual care for its data: `COMMIT` waits for the disk.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("full_page_writes", "on"),
    ("synchronous_commit", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "16GB"),
    ("autovacuum", "off"), // what it does at a moment of its own choosing is not measured
];

const ROLES: &str = "
    CREATE ROLE anon NOLOGIN NOINHERIT;
    CREATE ROLE authenticated NOLOGIN NOINHERIT;
    CREATE ROLE service_role NOLOGIN NOINHERIT BYPASSRLS;
    CREATE ROLE walcast_checks LOGIN NOINHERIT;
    GRANT anon, authenticated, service_role TO walcast_checks;";

/// Six columns of usual types; the same table once for each way to be judged.
const COLUMNS: &str = "id bigint PRIMARY KEY, user_id uuid, kind text, amount numeric, \
                       at timestamptz, body text";

/// A table to measure with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Table {
    pub(crate) name: &'static str,
    /// `None`: no row-level security.
    pub(crate) policy: Option<&'static str>,
}

pub(crate) const PLAIN: Table = Table {
    name: "plain",
    policy: None,
};
pub(crate) const OWN_ROWS: Table = Table {
    name: "own_rows",
    policy: Some("user_id = auth.uid()"),
};
pub(crate) const OWN_ROWS_ONCE: Table = Table {
    name: "own_rows_once",
    policy: Some("user_id = (SELECT auth.uid())"),
};

const TABLES: [Table; 3] = [PLAIN, OWN_ROWS, OWN_ROWS_ONCE];

const SECRET: &str = "a secret of the benches, at least 32 bytes long";

pub(crate) struct Stage {
    pub(crate) postgres: Postgres,
    binary: PathBuf,
}

impl Stage {
    pub(crate) async fn new(binary: PathBuf) -> Result<Stage> {
        let postgres = Postgres::start_with(SETTINGS).await?;
        let sql = postgres.connect("postgres", "postgres").await?;
        sql.batch_execute(ROLES).await?;
        Ok(Stage { postgres, binary })
    }

    /// A database with the migrations and the tables, and a session in it.
    pub(crate) async fn database(&self) -> Result<(String, Client)> {
        let database = self.postgres.create_database().await?;
        let settings = self.settings(&database, &[]);
        let (status, _, errors) =
            Walcast::run(&self.binary, &borrowed(&settings), &["migrate"]).await?;
        anyhow::ensure!(status.success(), "migrate: {errors}");
        let sql = self.postgres.connect("postgres", &database).await?;
        for Table { name, policy } in TABLES {
            sql.batch_execute(&format!(
                "CREATE TABLE {name} ({COLUMNS}); GRANT SELECT ON {name} TO authenticated;
                 SELECT enable_realtime('{name}');"
            ))
            .await?;
            if let Some(policy) = policy {
                sql.batch_execute(&format!(
                    "ALTER TABLE {name} ENABLE ROW LEVEL SECURITY;
                     CREATE POLICY see ON {name} FOR SELECT TO authenticated USING ({policy});"
                ))
                .await?;
            }
        }
        sql.batch_execute("GRANT USAGE ON SCHEMA public, auth TO walcast_checks")
            .await?;
        Ok((database, sql))
    }

    /// The binary in front of `database`, with a temporary slot unless `extra` says otherwise; it
    /// listens, and may not be ready.
    pub(crate) async fn start(&self, database: &str, extra: &[(&str, &str)]) -> Result<Walcast> {
        let settings = self.settings(database, extra);
        Ok(Walcast::start(&self.binary, &borrowed(&settings))
            .await?
            .quiet())
    }

    /// The same, and changes flow.
    pub(crate) async fn walcast(&self, database: &str, extra: &[(&str, &str)]) -> Result<Walcast> {
        let walcast = self.start(database, extra).await?;
        walcast.ready().await?;
        Ok(walcast)
    }

    fn settings(&self, database: &str, extra: &[(&str, &str)]) -> Vec<(String, String)> {
        let url = self.postgres.url("postgres", database);
        let checks = self.postgres.url("walcast_checks", database);
        let own = [
            ("database_url", url.as_str()),
            ("rls_database_url", &checks),
            ("jwt_secret", SECRET),
            ("slot_name", "bench"),
            ("slot_mode", "temporary"),
            // the limits that keep strangers off would keep the bench off
            ("connections_max", "0"),
            ("connections_per_user_max", "0"),
            ("connections_per_address_max", "0"),
        ];
        let mut settings: Vec<(String, String)> = Vec::new();
        for (name, value) in own.iter().chain(extra) {
            settings.retain(|(known, _)| known != name);
            settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        settings
    }
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

/// The id of the n-th user.
pub(crate) fn user(number: usize) -> String {
    format!("7f3e4567-e89b-42d3-a456-{number:012}")
}

/// A day's token of the n-th user.
pub(crate) fn token(number: usize) -> Result<String> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    let expires = now.as_secs() + 86_400;
    let claims = json!({ "sub": user(number), "role": "authenticated", "exp": expires });
    let key = EncodingKey::from_secret(SECRET.as_bytes());
    jsonwebtoken::encode(&Header::default(), &claims, &key).context("signing a token")
}

/// Inserts the rows `first .. first + rows`, each row `id` belonging to the user `id % users`.
pub(crate) fn insert(table: Table, first: usize, rows: usize, users: usize) -> String {
    let (name, last) = (table.name, first + rows - 1);
    format!(
        "INSERT INTO {name} SELECT i, ('7f3e4567-e89b-42d3-a456-' || lpad((i % {users})::text, 12, '0'))::uuid,
             'created', i * 1.25, now(), 'a body of about sixty characters, which is what rows often have'
         FROM generate_series({first}, {last}) i"
    )
}
