//! A private Postgres for tests: started on demand, gone when the test process is.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};

use crate::cluster::{Cluster, StopMode, find_client, find_major, find_programs};

/// A private Postgres cluster. Superuser `postgres`; every connection is trusted.
///
/// `wal_level=logical`, `fsync=off`, `synchronous_commit=on`, UTF8 with the C locale, UTC.
/// Stopped, and its folder removed, on drop; also when the process is killed.
pub struct Postgres {
    cluster: Arc<Cluster>,
}

impl Postgres {
    /// A fresh cluster, accepting connections (takes about a second).
    ///
    /// Errors: no PostgreSQL installed; the server's log is in the error when it doesn't start.
    pub async fn start() -> Result<Postgres> {
        Postgres::start_with(&[]).await
    }

    /// The same with settings of `postgresql.conf`, for example `[("fsync", "on")]`.
    pub async fn start_with(settings: &[(&str, &str)]) -> Result<Postgres> {
        Postgres::of(find_programs()?, settings).await
    }

    /// The same of a major version. `None`: that version is not installed (`WALCAST_POSTGRES_17` may
    /// name the folder of its programs).
    pub async fn start_major(major: u32, settings: &[(&str, &str)]) -> Result<Option<Postgres>> {
        match find_major(major) {
            Some(programs) => Ok(Some(Postgres::of(programs, settings).await?)),
            None => Ok(None),
        }
    }

    async fn of(programs: PathBuf, settings: &[(&str, &str)]) -> Result<Postgres> {
        let settings = owned(settings);
        let create = move || Cluster::create(programs, &settings);
        let cluster = tokio::task::spawn_blocking(create).await??;
        Ok(Postgres {
            cluster: Arc::new(cluster),
        })
    }

    /// A standby made of this stopped server's data, started, with settings beside this one's
    /// (`primary_conninfo` at least). It has no replication slots.
    pub async fn standby(&self, settings: &[(&str, &str)]) -> Result<Postgres> {
        let (cluster, settings) = (Arc::clone(&self.cluster), owned(settings));
        let copy = move || Cluster::standby_of(&cluster, &settings);
        let cluster = tokio::task::spawn_blocking(copy).await??;
        Ok(Postgres {
            cluster: Arc::new(cluster),
        })
    }

    /// Makes a standby the primary; waits until it takes writes.
    pub async fn promote(&self) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_blocking(move || cluster.promote()).await?
    }

    /// One cluster for the whole test process; take a database of your own with
    /// [`create_database`](Postgres::create_database). Panics when it can't be started.
    pub async fn shared() -> &'static Postgres {
        static SHARED: OnceCell<Postgres> = OnceCell::const_new();
        SHARED
            .get_or_init(|| async {
                match Postgres::start().await {
                    Ok(postgres) => postgres,
                    Err(error) => panic!("the shared postgres: {error:#}"),
                }
            })
            .await
    }

    /// `postgres://user@127.0.0.1:port/database`
    pub fn url(&self, user: &str, database: &str) -> String {
        let (user, database) = (escape(user), escape(database));
        format!("postgres://{user}@127.0.0.1:{}/{database}", self.port())
    }

    /// The same over the Unix socket: `postgres://user@%2Ffolder:port/database`
    pub fn socket_url(&self, user: &str, database: &str) -> String {
        let folder = escape(&self.cluster.folder().display().to_string());
        let (user, database) = (escape(user), escape(database));
        format!("postgres://{user}@{folder}:{}/{database}", self.port())
    }

    /// The TCP port on 127.0.0.1; it stays the same over [`stop`](Postgres::stop) and a new start.
    pub fn port(&self) -> u16 {
        self.cluster.port()
    }

    /// A program of the installation that runs, for example `pg_recvlogical`: not a wrapper of the
    /// distribution. Another installation's where this one has the server's programs only.
    pub fn program(&self, name: &str) -> PathBuf {
        let own = self.cluster.programs().join(name);
        match own.exists() {
            true => own,
            false => find_client(name).unwrap_or(own),
        }
    }

    /// A client whose connection is driven by a task of the current runtime.
    pub async fn connect(&self, user: &str, database: &str) -> Result<Client> {
        let (client, connection) = tokio_postgres::connect(&self.url(user, database), NoTls)
            .await
            .with_context(|| format!("connecting as {user} to {database}"))?;
        tokio::spawn(connection); // its error reaches the caller through the client
        Ok(client)
    }

    /// Creates an empty database with a name of its own and returns that name.
    pub async fn create_database(&self) -> Result<String> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let client = self.connect("postgres", "postgres").await?;
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await?;
        Ok(name)
    }

    /// Stops the server and waits until it is gone. With [`StopMode::Fast`] Postgres first waits for
    /// its replication clients, so they must be able to answer meanwhile.
    pub async fn stop(&self, mode: StopMode) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_blocking(move || cluster.stop(mode)).await?
    }

    /// Starts a stopped server again, on the same port and data.
    pub async fn start_again(&self) -> Result<()> {
        let cluster = Arc::clone(&self.cluster);
        tokio::task::spawn_blocking(move || cluster.start()).await?
    }

    /// [`stop`](Postgres::stop) and [`start_again`](Postgres::start_again).
    pub async fn restart(&self, mode: StopMode) -> Result<()> {
        self.stop(mode).await?;
        self.start_again().await
    }

    /// Copies the stopped server's data aside, under a name: a backup.
    pub async fn save(&self, name: &str) -> Result<()> {
        let (cluster, name) = (Arc::clone(&self.cluster), name.to_owned());
        tokio::task::spawn_blocking(move || cluster.save(&name)).await?
    }

    /// Puts a backup in the place of the stopped server's data.
    pub async fn restore(&self, name: &str) -> Result<()> {
        let (cluster, name) = (Arc::clone(&self.cluster), name.to_owned());
        tokio::task::spawn_blocking(move || cluster.restore(&name)).await?
    }

    /// The server's log so far.
    pub fn log(&self) -> String {
        self.cluster.log()
    }
}

fn owned(settings: &[(&str, &str)]) -> Vec<(String, String)> {
    let settings = settings.iter();
    settings
        .map(|(name, value)| (name.to_string(), value.to_string()))
        .collect()
}

fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => {
                escaped.push(char::from(byte));
            }
            _ => escaped.push_str(&format!("%{byte:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::escape;

    #[test]
    fn urls_escape_what_would_end_a_part() {
        assert_eq!(escape("/tmp/a b@ü"), "%2Ftmp%2Fa%20b%40%C3%BC");
    }
}
