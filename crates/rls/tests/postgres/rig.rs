//! A database with roles, real row images out of a replication slot, and the direct SELECT that every
//! verdict has to equal.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tokio::sync::OnceCell;
use tokio_postgres::{Client, NoTls};
use walcast_change::{Change, Decoder, Step, Types};
use walcast_harness::Postgres;
use walcast_pgoutput::Message;
use walcast_rls::{
    Answers, Batch, CheckConfig, Connector, PostgresCheck, Question, RowCheck, Verdict, Version,
    Viewer,
};

/// In PL/pgSQL, for [`Rig::asked`].
#[allow(dead_code)]
pub(crate) const ASKED: &str = "RAISE LOG 'asked in %.', current_database();";

pub(crate) struct Rig {
    pub(crate) postgres: &'static Postgres,
    pub(crate) database: String,
    /// The superuser, with the default `search_path`.
    pub(crate) admin: Client,
    /// For what may fail: an error on `admin` would end its temporary slot.
    reader: Client,
    decoder: Decoder,
}

/// The login that checks, as the crate's page advises.
pub(crate) const LOGIN: &str = "checker";

const ROLES: &str = "
    CREATE ROLE anon; CREATE ROLE authenticated; CREATE ROLE service_role BYPASSRLS;
    CREATE ROLE editor; CREATE ROLE auditor; CREATE ROLE stranger; CREATE ROLE boss SUPERUSER;
    CREATE ROLE copier REPLICATION; CREATE ROLE bypasser BYPASSRLS; CREATE ROLE holder;
    CREATE ROLE senior; GRANT editor TO senior;
    CREATE ROLE checker LOGIN NOINHERIT;
    GRANT anon, authenticated, service_role, editor, auditor, boss, copier, bypasser, holder, senior TO checker;";

const HELPERS: &str = r#"
    CREATE SCHEMA auth; GRANT USAGE ON SCHEMA auth TO PUBLIC; GRANT USAGE ON SCHEMA public TO PUBLIC;
    CREATE FUNCTION auth.jwt() RETURNS jsonb LANGUAGE sql STABLE AS
      $$ SELECT coalesce(nullif(current_setting('request.jwt.claims', true), ''), '{}')::jsonb $$;
    CREATE FUNCTION auth.uid() RETURNS uuid LANGUAGE sql STABLE AS
      $$ SELECT nullif(auth.jwt() ->> 'sub', '')::uuid $$;
    CREATE FUNCTION auth.role() RETURNS text LANGUAGE sql STABLE AS
      $$ SELECT coalesce(auth.jwt() ->> 'role', current_user::text) $$;"#;

impl Rig {
    /// A fresh database with the `auth` helpers and `sql`, all its tables published.
    pub(crate) async fn new(sql: &str) -> Result<Rig> {
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
        admin.batch_execute(HELPERS).await.context("helpers")?;
        admin
            .batch_execute(sql)
            .await
            .context("the test's own tables")?;
        admin
            .batch_execute("CREATE PUBLICATION realtime FOR ALL TABLES WITH (publish_via_partition_root = true)")
            .await?;
        let slot = format!("slot_{database}");
        admin
            .query(
                "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)",
                &[&slot],
            )
            .await?;
        let reader = postgres.connect("postgres", &database).await?;
        Ok(Rig {
            postgres,
            database,
            admin,
            reader,
            decoder: Decoder::new(Types::default()),
        })
    }

    pub(crate) fn connector_as(&self, login: &str) -> Connector {
        let url = self.postgres.url(login, &self.database);
        Connector::new(move || {
            let url = url.clone();
            async move {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
                tokio::spawn(connection);
                Ok::<_, tokio_postgres::Error>(client)
            }
        })
    }

    pub(crate) fn config(&self) -> CheckConfig {
        let config = CheckConfig::new(self.connector_as(LOGIN));
        CheckConfig {
            // Not what is tested: a busy machine is to deny nothing.
            statement_timeout: Duration::from_secs(20),
            visibility_wait: Duration::from_secs(60),
            ..config
        }
    }

    /// For policies that never end. Others end in time, also on a busy machine.
    #[allow(dead_code)] // the proof shares this file and has none
    pub(crate) fn impatient(&self) -> CheckConfig {
        CheckConfig {
            statement_timeout: Duration::from_secs(5),
            ..self.config()
        }
    }

    /// How often policies of this database have said [`ASKED`]. Postgres writes that down at once, and
    /// whatever becomes of the transaction.
    #[allow(dead_code)]
    pub(crate) fn asked(&self) -> usize {
        let line = format!("asked in {}.", self.database);
        self.postgres.log().matches(&line).count()
    }

    pub(crate) async fn check(&self) -> Result<PostgresCheck> {
        Ok(PostgresCheck::connect(self.config()).await?)
    }

    /// Runs statements as the superuser.
    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        self.admin
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    /// The changes since the last call, decoded from what the slot has.
    pub(crate) async fn changes(&mut self) -> Result<Vec<Change>> {
        let rows = self
            .admin
            .query(
                "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'realtime')",
                &[&format!("slot_{}", self.database)],
            )
            .await?;
        let mut changes = Vec::new();
        for row in rows {
            let data: Vec<u8> = row.get(0);
            let message = walcast_pgoutput::decode(Bytes::from(data))?;
            if let Message::Relation(relation) = &message {
                self.decoder.describe(relation, Some(&["id".to_owned()]));
                continue;
            }
            match self.decoder.step(message)? {
                Step::Change(change) => changes.push(change),
                Step::Truncate(truncated) => changes.extend(truncated),
                _ => {}
            }
        }
        Ok(changes)
    }

    /// Runs `sql`, which changes one row, and gives that change.
    pub(crate) async fn change(&mut self, sql: &str) -> Result<Change> {
        self.run(sql).await?;
        let mut changes = self.changes().await?;
        ensure!(changes.len() == 1, "{} changes of {sql}", changes.len());
        changes.pop().context("a change")
    }

    /// Whether the viewer finds a row by a condition, in a transaction of its own. An error is a no.
    pub(crate) async fn finds(&self, viewer: &Viewer, table: &str, condition: &str) -> bool {
        self.reader.batch_execute("BEGIN").await.expect("begin");
        let found = async {
            self.reader
                .query(
                    "SELECT set_config('role', $1, true), set_config('request.jwt.claims', $2, true)",
                    &[&&*viewer.role, &&*viewer.claims],
                )
                .await?;
            self.reader
                .query(&format!("SELECT 1 FROM {table} WHERE {condition}"), &[])
                .await
        };
        let found = found.await.is_ok_and(|rows| !rows.is_empty());
        self.reader
            .batch_execute("ROLLBACK")
            .await
            .expect("rollback");
        found
    }
}

/// One question about each version of each change, asked by all viewers.
pub(crate) fn batch(changes: &[Change], viewers: &[Viewer]) -> Batch {
    let mut questions = Vec::new();
    let everybody: Vec<u32> = (0..viewers.len() as u32).collect();
    for change in changes {
        for (row, version) in [(change.new(), Version::New), (change.old(), Version::Old)] {
            if let Some(row) = row {
                questions.push(Question {
                    row: row.clone(),
                    version,
                    xid: Some(change.xid),
                    viewers: everybody.clone(),
                    among: None,
                });
            }
        }
    }
    Batch {
        viewers: viewers.to_vec(),
        questions,
    }
}

/// Who sees each version of each change, in the order of the viewers; `None`: not known.
pub(crate) async fn ask(
    check: &mut PostgresCheck,
    changes: &[Change],
    viewers: &[Viewer],
) -> Vec<Vec<Option<bool>>> {
    let batch = batch(changes, viewers);
    let answers = check.check(&batch).await;
    table(&batch, &answers)
}

pub(crate) fn table(batch: &Batch, answers: &Answers) -> Vec<Vec<Option<bool>>> {
    let seen = |at: usize, nth: usize| match answers.verdict(at, nth) {
        Verdict::Unknown => None,
        verdict => Some(matches!(verdict, Verdict::Visible(_))),
    };
    let questions = batch.questions.iter().enumerate();
    questions
        .map(|(at, question)| {
            (0..question.viewers.len())
                .map(|nth| seen(at, nth))
                .collect()
        })
        .collect()
}

pub(crate) const YES: Option<bool> = Some(true);
pub(crate) const NO: Option<bool> = Some(false);

pub(crate) const ALICE: &str = "00000000-0000-0000-0000-00000000000a";
pub(crate) const BOB: &str = "00000000-0000-0000-0000-00000000000b";

pub(crate) fn viewer(role: &str, claims: &str) -> Viewer {
    Viewer {
        role: role.into(),
        claims: Arc::from(claims),
    }
}

/// A signed-in user of role `authenticated`.
pub(crate) fn user(id: &str, more: &str) -> Viewer {
    let comma = if more.is_empty() { "" } else { ", " };
    viewer(
        "authenticated",
        &format!(r#"{{"sub": "{id}", "role": "authenticated"{comma}{more}}}"#),
    )
}
