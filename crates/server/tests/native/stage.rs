//! A database with the sample table, the real binary in front of it, and clients.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use walcast_harness::{Postgres, Socket, Walcast, eventually};

/// Of what comes at once where nothing else runs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);
pub(crate) const SECRET: &str = "a secret of the tests, at least 32 bytes long";
pub(crate) const ALICE: &str = "a11ce000-0000-4000-8000-000000000001";
pub(crate) const BOB: &str = "b0b00000-0000-4000-8000-000000000002";
pub(crate) const BINARY: &str = env!("CARGO_BIN_EXE_walcast");

/// The roles are the cluster's, not the database's: made once, by whoever comes first.
const ROLES: &str = "
    create role anon nologin noinherit;
    create role authenticated nologin noinherit;
    create role service_role nologin noinherit bypassrls;
    create role walcast_checks login noinherit;
    grant anon, authenticated, service_role to walcast_checks;";

const TABLES: &str = "
    create table todos (
        id int primary key,
        user_id uuid not null,
        body text,
        secret text
    );
    alter table todos enable row level security;
    create policy own_rows on todos for select to authenticated using (user_id = auth.uid());
    grant select (id, user_id, body) on todos to authenticated;
    grant select on todos to service_role;
    create table notes (id int primary key, body text);
    grant select on notes to anon, authenticated;
    create table hidden (id int primary key);
    create table unpublished (id int primary key);
    grant select on unpublished to authenticated;
    create table marks (id serial primary key);
    grant select on marks to authenticated;
    grant usage on schema public, auth to walcast_checks;
    select enable_realtime('todos');
    select enable_realtime('notes');
    select enable_realtime('hidden');
    select enable_realtime('marks');";

pub(crate) struct Stage {
    pub(crate) database: String,
    pub(crate) sql: Client,
    pub(crate) walcast: Walcast,
    settings: Vec<(String, String)>,
}

impl Stage {
    /// With a temporary slot and the settings given, over the shared cluster.
    pub(crate) async fn new(settings: &[(&str, &str)]) -> Result<Stage> {
        Stage::on(Postgres::shared().await, settings).await
    }

    pub(crate) async fn on(postgres: &'static Postgres, extra: &[(&str, &str)]) -> Result<Stage> {
        let stage = Stage::started(postgres, extra).await?;
        stage.walcast.ready().await?;
        Ok(stage)
    }

    /// Without asking `/ready`, which speaks TLS if the settings say so.
    pub(crate) async fn unready(extra: &[(&str, &str)]) -> Result<Stage> {
        Stage::started(Postgres::shared().await, extra).await
    }

    async fn started(postgres: &'static Postgres, extra: &[(&str, &str)]) -> Result<Stage> {
        roles(postgres).await?;
        let database = postgres.create_database().await?;
        let url = postgres.url("postgres", &database);
        let checks = postgres.url("walcast_checks", &database);
        let mut settings: Vec<(String, String)> = [
            ("database_url", url.as_str()),
            ("rls_database_url", &checks),
            ("jwt_secret", SECRET),
            ("slot_name", &database),
            ("slot_mode", "temporary"),
            ("listen", "127.0.0.1:0"),
            // A loaded machine is no reason to deny.
            ("rls_statement_timeout", "20s"),
            // Who has left is counted until the server has seen it.
            ("connections_per_user_max", "0"),
        ]
        .map(owned)
        .into();
        for (name, value) in extra {
            settings.retain(|(known, _)| known != name);
            settings.push(owned((name, value)));
        }
        let (status, _, errors) = Walcast::run(BINARY, &borrowed(&settings), &["migrate"]).await?;
        anyhow::ensure!(status.success(), "migrate: {errors}");
        let sql = postgres.connect("postgres", &database).await?;
        sql.batch_execute(TABLES).await?;
        let walcast = Walcast::start(BINARY, &borrowed(&settings)).await?;
        Ok(Stage {
            database,
            sql,
            walcast,
            settings,
        })
    }

    /// The binary once more, with the same settings; the old process must have ended.
    pub(crate) async fn start_again(&mut self) -> Result<()> {
        self.walcast = self.another().await?;
        self.walcast.ready().await
    }

    /// Changes a setting for the processes to come.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push(owned((name, value)));
    }

    /// A second process with the same settings.
    pub(crate) async fn another(&self) -> Result<Walcast> {
        Walcast::start(BINARY, &borrowed(&self.settings)).await
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        self.sql
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    pub(crate) async fn connect(&self, user: &str) -> Result<Socket> {
        self.connect_with_token(&token(user, "authenticated", 3600))
            .await
    }

    pub(crate) async fn connect_with_token(&self, token: &str) -> Result<Socket> {
        Socket::connect(&self.walcast.websocket(&format!("/realtime?token={token}"))).await
    }

    /// A client of `user` with a live subscription.
    pub(crate) async fn subscriber(&self, user: &str, channel: &str) -> Result<Socket> {
        let mut socket = self.connect(user).await?;
        subscribe(&mut socket, json!({ "channel": channel })).await?;
        Ok(socket)
    }

    /// The same, and the server soon notices when it does not read.
    pub(crate) async fn narrow_subscriber(&self, user: &str, channel: &str) -> Result<Socket> {
        let token = token(user, "authenticated", 3600);
        let address = self.walcast.websocket(&format!("/realtime?token={token}"));
        let mut socket = Socket::connect_narrow(&address).await?;
        subscribe(&mut socket, json!({ "channel": channel })).await?;
        Ok(socket)
    }

    /// Waits until the server has published, and has in its log, what was committed before. Postgres tells
    /// a client that it has committed long before the server needs to have heard of it.
    pub(crate) async fn settled(&self) -> Result<()> {
        let mut socket = self.subscriber(BOB, "table:marks").await?;
        self.execute("insert into marks default values").await?;
        socket.next_json(DEADLINE).await?;
        socket.close().await
    }

    /// The events of a client up to the row of `notes` that marks the end; both must be subscribed.
    pub(crate) async fn events_until_mark(
        &self,
        socket: &mut Socket,
        mark: i32,
    ) -> Result<Vec<Value>> {
        self.execute(&format!("insert into notes values ({mark}, 'mark')"))
            .await?;
        let is_mark = |message: &Value| {
            message["payload"]["table"] == "notes" && message["payload"]["record"]["id"] == mark
        };
        let mut messages = socket.until(is_mark, DEADLINE).await?;
        messages.pop();
        messages.retain(|message| message["type"] == "broadcast");
        Ok(messages
            .into_iter()
            .map(|message| message["payload"].clone())
            .collect())
    }

    /// The same of a client that is subscribed to another table as well, and sees a row of it with these
    /// values behind its id. Each subscription is in order, but who takes long to judge, if only because the
    /// machine is busy, is served behind the others: the mark of one tells nothing of the other.
    pub(crate) async fn events_until_marks(
        &self,
        socket: &mut Socket,
        mark: i32,
        (table, values): (&str, impl std::fmt::Display),
    ) -> Result<Vec<Value>> {
        let id = 1_000_000 + mark;
        self.execute(&format!(
            "insert into {table} values ({id}, {values}); insert into notes values ({mark}, 'mark')"
        ))
        .await?;
        let mut marks = vec![(json!(table), json!(id)), (json!("notes"), json!(mark))];
        let mut events = Vec::new();
        while !marks.is_empty() {
            let mut message = socket.next_json(DEADLINE).await?;
            let event = message["payload"].take();
            let place = (event["table"].clone(), event["record"]["id"].clone());
            match marks.iter().position(|mark| *mark == place) {
                Some(found) => drop(marks.swap_remove(found)),
                None if message["type"] == "broadcast" => events.push(event),
                None => {}
            }
        }
        Ok(events)
    }
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    settings
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}

async fn roles(postgres: &'static Postgres) -> Result<()> {
    static MADE: OnceCell<()> = OnceCell::const_new();
    let make = async || {
        let client = postgres.connect("postgres", "postgres").await?;
        client.batch_execute(ROLES).await?;
        anyhow::Ok(())
    };
    if std::ptr::eq(postgres, Postgres::shared().await) {
        MADE.get_or_try_init(make).await?;
        return Ok(());
    }
    make().await
}

/// A token of `user`, valid for `seconds` from now (the past, if negative).
pub(crate) fn token(user: &str, role: &str, seconds: i64) -> String {
    token_with(json!({ "sub": user, "role": role, "exp": now() + seconds }))
}

pub(crate) fn token_with(claims: Value) -> String {
    walcast_auth::sign_hs256(SECRET, &claims.to_string()).expect("the secret is long enough")
}

pub(crate) fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    since.as_secs() as i64
}

/// Waits until so many connections were closed for this reason.
pub(crate) async fn closed_for(stage: &Stage, kind: &str, count: usize) -> Result<()> {
    let wanted = format!("walcast_connections_closed_total{{kind=\"{kind}\"}} {count}\n");
    let closed = eventually(DEADLINE, async || {
        let (_, metrics) = stage.walcast.get("/metrics").await.ok()?;
        metrics.contains(&wanted).then_some(())
    });
    closed.await.with_context(|| wanted.clone())
}

/// Subscribes and waits for the acknowledgement, which must be the first thing heard of it.
pub(crate) async fn subscribe(socket: &mut Socket, fields: Value) -> Result<Value> {
    let mut message = json!({ "type": "subscribe" });
    for (name, value) in fields.as_object().context("an object")? {
        message[name] = value.clone();
    }
    socket.send_json(&message).await?;
    let answer = socket.next_json(DEADLINE).await?;
    anyhow::ensure!(answer["type"] == "ack", "not acknowledged: {answer}");
    Ok(answer)
}

/// Sends a message and returns the answer.
pub(crate) async fn ask(socket: &mut Socket, message: Value) -> Result<Value> {
    socket.send_json(&message).await?;
    socket.next_json(DEADLINE).await
}
