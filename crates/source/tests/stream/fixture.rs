//! A database with a published table, a source on it, and waiting with deadlines.

use std::collections::VecDeque;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;
use walcast_harness::{Postgres, eventually};
use walcast_pgoutput::{Lsn, Message, Value};
use walcast_source::{Event, Gap, SlotKind, SlotName, Source, SourceConfig, StreamState};

/// Of what comes at once where nothing else runs.
pub(crate) const DEADLINE: Duration = Duration::from_secs(90);

/// The tests' own cluster: each leaves a slot behind, more than the usual shared one has.
pub(crate) async fn shared() -> &'static Postgres {
    static SHARED: OnceCell<Postgres> = OnceCell::const_new();
    let start = || async {
        Postgres::start_with(&[("max_replication_slots", "100"), ("max_wal_senders", "100")]).await
    };
    match SHARED.get_or_try_init(start).await {
        Ok(postgres) => postgres,
        Err(error) => panic!("the shared postgres: {error:#}"),
    }
}

/// A database of its own with table `item(id, name)`, published as `realtime`.
pub(crate) struct Fixture<'a> {
    pub(crate) postgres: &'a Postgres,
    pub(crate) database: String,
    pub(crate) sql: Client,
}

impl<'a> Fixture<'a> {
    pub(crate) async fn new(postgres: &'a Postgres) -> Result<Fixture<'a>> {
        let fixture = Fixture::without_publication(postgres).await?;
        fixture
            .run("CREATE PUBLICATION realtime FOR TABLE item WITH (publish_via_partition_root = true)")
            .await?;
        Ok(fixture)
    }

    pub(crate) async fn without_publication(postgres: &'a Postgres) -> Result<Fixture<'a>> {
        let database = postgres.create_database().await?;
        let sql = postgres.connect("postgres", &database).await?;
        let fixture = Fixture {
            postgres,
            database,
            sql,
        };
        fixture
            .run("CREATE TABLE item (id bigint PRIMARY KEY, name text)")
            .await?;
        Ok(fixture)
    }

    pub(crate) async fn run(&self, sql: &str) -> Result<()> {
        self.sql.batch_execute(sql).await.context(sql.to_string())
    }

    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        self.sql = self.postgres.connect("postgres", &self.database).await?;
        Ok(())
    }

    /// One transaction with one row.
    pub(crate) async fn insert(&self, id: i64) -> Result<()> {
        self.run(&format!("INSERT INTO item VALUES ({id}, 'row {id}')"))
            .await
    }

    pub(crate) fn slot(&self) -> String {
        format!("{}_slot", self.database)
    }

    pub(crate) fn config(&self) -> SourceConfig {
        let slot = SlotName::new(self.slot()).expect("lower case and digits");
        let url = self.postgres.url("postgres", &self.database);
        let mut config = SourceConfig::new(url, "realtime", SlotKind::Durable(slot));
        config.check_interval = Duration::from_millis(200);
        config
    }

    pub(crate) async fn open(&self) -> Result<Reader> {
        Reader::open(self.config()).await
    }

    /// A column of this fixture's slot; None without a slot.
    pub(crate) async fn slot_column(&self, column: &str) -> Result<Option<String>> {
        let query = format!(
            "SELECT ({column})::text FROM pg_replication_slots WHERE slot_name = '{}'",
            self.slot()
        );
        let row = self.sql.query_opt(&query, &[]).await?;
        Ok(row.and_then(|row| row.get::<_, Option<String>>(0)))
    }

    pub(crate) async fn confirmed(&self) -> Option<Lsn> {
        let text = self.slot_column("confirmed_flush_lsn").await.ok()??;
        text.parse().ok()
    }

    /// Waits until Postgres has taken note that all before `lsn` is dealt with.
    pub(crate) async fn until_confirmed(&self, lsn: Lsn) -> Result<()> {
        eventually(DEADLINE, async || {
            self.confirmed().await.filter(|confirmed| *confirmed >= lsn)
        })
        .await
        .with_context(|| format!("until {lsn} is confirmed"))?;
        Ok(())
    }

    /// The end of what is written: of all that has been committed.
    pub(crate) async fn written(&self) -> Result<Lsn> {
        let sql = "SELECT pg_current_wal_lsn()::text";
        let row = self.sql.query_one(sql, &[]).await?;
        Ok(row.get::<_, &str>(0).parse()?)
    }

    /// Waits until the walsender has sent all before `lsn`.
    pub(crate) async fn until_sent(&self, lsn: Lsn) -> Result<()> {
        let pid = self.reader_pid().await?;
        let sql = "SELECT sent_lsn::text FROM pg_stat_replication WHERE pid = $1";
        let sent = eventually(DEADLINE, async || {
            let row = self.sql.query_opt(sql, &[&pid]).await.ok()??;
            let sent: Lsn = row.get::<_, Option<&str>>(0)?.parse().ok()?;
            (sent >= lsn).then_some(())
        });
        sent.await.with_context(|| format!("until {lsn} is sent"))
    }

    pub(crate) async fn reader_pid(&self) -> Result<i32> {
        let pid = eventually(DEADLINE, async || {
            self.slot_column("active_pid").await.ok().flatten()
        })
        .await?;
        Ok(pid.parse()?)
    }

    pub(crate) async fn terminate_reader(&self) -> Result<()> {
        let pid = self.reader_pid().await?;
        self.run(&format!("SELECT pg_terminate_backend({pid})"))
            .await
    }
}

/// A source and what it has said so far.
pub(crate) struct Reader {
    pub(crate) source: Source,
    pub(crate) restarts: usize,
    pub(crate) gaps: Vec<Gap>,
    /// The end of the last finished transaction.
    pub(crate) end: Lsn,
    /// What came while a state was waited for.
    kept: VecDeque<Message>,
}

impl Reader {
    pub(crate) async fn open(config: SourceConfig) -> Result<Reader> {
        let opening = Source::open(config, CancellationToken::new());
        let source = tokio::time::timeout(DEADLINE, opening)
            .await
            .context("opening")??;
        Ok(Reader::of(source))
    }

    pub(crate) fn of(source: Source) -> Reader {
        Reader {
            source,
            restarts: 0,
            gaps: Vec::new(),
            end: Lsn::ZERO,
            kept: VecDeque::new(),
        }
    }

    /// The next message; restarts and gaps are noted. Fails after the deadline.
    pub(crate) async fn message(&mut self) -> Result<Message> {
        if let Some(message) = self.kept.pop_front() {
            return Ok(message);
        }
        let end = tokio::time::Instant::now() + DEADLINE; // keepalives don't extend it
        loop {
            let next = tokio::time::timeout_at(end, self.source.next());
            let event = next.await.with_context(|| {
                format!("no message; {}", self.source.state().borrow().describe())
            })??;
            if let Some(message) = self.note(event) {
                return Ok(message);
            }
        }
    }

    fn note(&mut self, event: Event) -> Option<Message> {
        match event {
            Event::Message(message) => return Some(message),
            Event::Restarted => self.restarts += 1,
            Event::Gap(gap) => self.gaps.push(gap),
            _ => {}
        }
        None
    }

    /// The ids of the rows inserted by the next transaction that has any; `end` is its end.
    pub(crate) async fn transaction(&mut self) -> Result<Vec<i64>> {
        let mut ids = Vec::new();
        loop {
            match self.message().await? {
                Message::Begin(_) => ids.clear(),
                Message::Insert(insert) => ids.push(match insert.new.values().next() {
                    Some(Value::Text(text)) => std::str::from_utf8(text)?.parse()?,
                    other => anyhow::bail!("an id that is {other:?}"),
                }),
                Message::Commit(commit) => {
                    self.end = commit.end_lsn;
                    if !ids.is_empty() {
                        return Ok(ids);
                    }
                }
                _ => {}
            }
        }
    }

    /// Transactions until the one that inserted `id`; all ids seen on the way.
    pub(crate) async fn until(&mut self, id: i64) -> Result<Vec<i64>> {
        let mut seen = Vec::new();
        while !seen.contains(&id) {
            seen.extend(self.transaction().await?);
        }
        Ok(seen)
    }

    /// Drives the source until the stream has been read up to `lsn`; what comes is not kept.
    pub(crate) async fn until_idle(&mut self, lsn: Lsn) -> Result<()> {
        let driving = async {
            loop {
                match self.source.next().await? {
                    Event::Idle(idle) if idle >= lsn => return anyhow::Ok(()),
                    event => drop(self.note(event)),
                }
            }
        };
        tokio::time::timeout(DEADLINE, driving)
            .await
            .with_context(|| format!("the stream does not come to {lsn}"))?
    }

    pub(crate) async fn expect(&mut self, ids: &[i64]) -> Result<()> {
        let seen = self.transaction().await?;
        ensure!(seen == ids, "expected {ids:?}, got {seen:?}");
        Ok(())
    }

    pub(crate) fn acknowledge(&mut self) {
        self.source.acknowledge(self.end);
    }

    /// Drives the source until its state is as wanted.
    pub(crate) async fn until_state(
        &mut self,
        wanted: impl Fn(&StreamState) -> bool,
    ) -> Result<StreamState> {
        let mut state = self.source.state();
        let driving = async {
            loop {
                tokio::select! {
                    found = state.wait_for(&wanted) => return Ok(found?.clone()),
                    event = self.source.next() => {
                        let event = event?;
                        if event == Event::Restarted {
                            self.kept.clear(); // nobody has acknowledged it: it comes again
                        }
                        let message = self.note(event);
                        self.kept.extend(message);
                    }
                }
            }
        };
        tokio::time::timeout(DEADLINE, driving)
            .await
            .context("waiting for a state")?
    }
}
