//! A database with walcast's migrations, and the direct INSERT and SELECT that answers have to equal.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use walcast_harness::Postgres;
use walcast_rls::{
    ChannelAccess, ChannelAction, ChannelAsk, ChannelDenial, ChannelRefusal, ChannelViewer,
    CheckConfig, Connector, Viewer,
};

pub(crate) struct Rig {
    postgres: &'static Postgres,
    database: String,
    /// The superuser.
    pub(crate) admin: Client,
}

const ROLES: &str = "
    CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS; CREATE ROLE stranger;
    CREATE ROLE checker LOGIN NOINHERIT; GRANT anon, authenticated, service_role TO checker;";

impl Rig {
    /// A fresh database with the migrations and `sql`.
    pub(crate) async fn new(sql: &str) -> Result<Rig> {
        let rig = Rig::bare().await?;
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations");
        let mut files: Vec<_> = std::fs::read_dir(folder)?
            .map(|file| file.map(|file| file.path()))
            .collect::<Result<_, _>>()?;
        files.sort();
        rig.run("SET client_min_messages = warning").await?;
        for file in files {
            rig.run(&std::fs::read_to_string(file)?).await?;
        }
        rig.run("SELECT * FROM realtime.walcast_setup()").await?;
        rig.run(sql).await?;
        Ok(rig)
    }

    /// A fresh database with the roles alone.
    pub(crate) async fn bare() -> Result<Rig> {
        static ROLES_MADE: OnceCell<()> = OnceCell::const_new();
        let postgres = Postgres::shared().await;
        ROLES_MADE
            .get_or_try_init(|| async {
                let admin = postgres.connect("postgres", "postgres").await?;
                admin.batch_execute(ROLES).await.context("roles")
            })
            .await?;
        let database = postgres.create_database().await?;
        let admin = postgres.connect("postgres", &database).await?;
        Ok(Rig {
            postgres,
            database,
            admin,
        })
    }

    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        let done = self.admin.batch_execute(sql).await;
        done.with_context(|| sql.to_owned())
    }

    pub(crate) fn config(&self) -> CheckConfig {
        let url = self.postgres.url("checker", &self.database);
        let connector = Connector::new(move || {
            let url = url.clone();
            async move {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
                tokio::spawn(connection);
                Ok::<_, tokio_postgres::Error>(client)
            }
        });
        CheckConfig {
            // Not what is tested: a busy machine is to deny nothing.
            statement_timeout: Duration::from_secs(20),
            ..CheckConfig::new(connector)
        }
    }

    /// How often policies of this database have said that they were asked. Postgres writes that down at
    /// once, and whatever becomes of the transaction.
    pub(crate) fn asked(&self) -> usize {
        let line = format!("asked in {}.", self.database);
        self.postgres.log().matches(&line).count()
    }

    pub(crate) async fn access(&self) -> Result<ChannelAccess> {
        Ok(ChannelAccess::connect(self.config()).await?)
    }

    /// Whether Postgres itself lets the viewer do it; an error is a no.
    pub(crate) async fn truth(&self, viewer: &ChannelViewer, ask: &ChannelAsk) -> Result<bool> {
        self.run("BEGIN").await?;
        let found = self.truth_inside(viewer, ask).await;
        self.run("ROLLBACK").await?;
        Ok(found.unwrap_or(false))
    }

    async fn truth_inside(&self, viewer: &ChannelViewer, ask: &ChannelAsk) -> Result<bool> {
        let (topic, extension) = (&*ask.topic, &*ask.extension);
        let insert =
            "INSERT INTO realtime.messages (topic, extension, private) VALUES ($1, $2, true)";
        if ask.action == ChannelAction::Read {
            self.admin.execute(insert, &[&topic, &extension]).await?;
        }
        self.admin
            .query(
                "SELECT set_config('role', $1, true), set_config('request.jwt.claims', $2, true),
                        set_config('realtime.topic', $3, true), set_config('realtime.channel_name', $3, true)",
                &[&&*viewer.viewer.role, &&*viewer.viewer.claims, &topic],
            )
            .await?;
        Ok(match ask.action {
            ChannelAction::Read => {
                let select = "SELECT id FROM realtime.messages WHERE topic = $1 AND extension = $2";
                !self
                    .admin
                    .query(select, &[&topic, &extension])
                    .await?
                    .is_empty()
            }
            ChannelAction::Write => self.admin.execute(insert, &[&topic, &extension]).await? == 1,
        })
    }
}

pub(crate) fn viewer(role: &str, claims: &str) -> ChannelViewer {
    ChannelViewer::new(Viewer {
        role: role.into(),
        claims: claims.into(),
    })
}

pub(crate) const ALICE: &str = "00000000-0000-0000-0000-00000000000a";
pub(crate) const BOB: &str = "00000000-0000-0000-0000-00000000000b";

/// A signed-in user of role `authenticated`, whose token names a room.
pub(crate) fn user(id: &str, room: &str) -> ChannelViewer {
    viewer(
        "authenticated",
        &format!(r#"{{"sub": "{id}", "role": "authenticated", "room": "{room}"}}"#),
    )
}

pub(crate) fn read(topic: &str, extension: &str) -> ChannelAsk {
    ChannelAsk::new(topic, ChannelAction::Read, extension)
}

pub(crate) fn write(topic: &str, extension: &str) -> ChannelAsk {
    ChannelAsk::new(topic, ChannelAction::Write, extension)
}

/// All four questions about a topic: broadcast and presence, read and write.
pub(crate) fn four(topic: &str) -> [ChannelAsk; 4] {
    [
        read(topic, "broadcast"),
        read(topic, "presence"),
        write(topic, "broadcast"),
        write(topic, "presence"),
    ]
}

pub(crate) fn denied(denial: ChannelDenial) -> Result<(), ChannelRefusal> {
    Err(denial.into())
}
