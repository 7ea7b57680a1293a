//! A private Postgres with the ledger, the real binary in front of it, recorders, and the oracle.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tokio_postgres::Client;
use walcast_harness::{
    Beginning, Book, Desk, Dice, Ledger, Load, Oracle, Postgres, Proxy, Recorder, Recording, Role,
    SCHEMA, Subscriber, Verdict, Walcast, Witness, Writer, eventually, free_port,
};

use crate::report::{Figures, by_form, report};

pub(crate) const DEADLINE: Duration = Duration::from_secs(120);
pub(crate) const SECRET: &str = "a secret of the tests, at least 32 bytes long";
pub(crate) const SLOT: &str = "faults";
/// With these a crash of Postgres is survived as on a real disk.
pub(crate) const DURABLE: &[(&str, &str)] = &[("fsync", "on"), ("full_page_writes", "on")];
/// Where it is asserted that nobody is cut: clients that the machine keeps from reading for a while are
/// waited for, however little the kernel takes for them.
pub(crate) const PATIENT: &[(&str, &str)] =
    &[("outbox_bytes_max", "256MiB"), ("write_timeout", "5m")];

/// The writer that makes the marks; no load has so many.
const MARKER: u16 = 63;
pub(crate) const OWNERS: u16 = 6;

pub(crate) struct Stage {
    scenario: &'static str,
    pub(crate) seed: u64,
    pub(crate) postgres: Postgres,
    pub(crate) database: String,
    pub(crate) sql: Client,
    server: Option<Walcast>,
    settings: Vec<(String, String)>,
    pub(crate) address: SocketAddr,
    pub(crate) desk: Arc<Desk>,
    pub(crate) witness: Witness,
    pub(crate) marker: Writer,
    pub(crate) recorders: Vec<Recorder>,
    pub(crate) figures: Figures,
    pub(crate) gaps_allowed: bool,
    done: bool,
}

impl Stage {
    /// With a durable slot. `database` are settings of Postgres, `extra` those of the server.
    pub(crate) async fn new(
        scenario: &'static str,
        database: &[(&str, &str)],
        extra: &[(&str, &str)],
    ) -> Result<Stage> {
        let mut stage = Stage::unstarted(scenario, database, extra).await?;
        stage.start().await?;
        stage.server().ready().await?;
        stage.witness.renew(&stage.sql).await?;
        Ok(stage)
    }

    /// The same, with a faulty network between the server and Postgres.
    pub(crate) async fn behind_proxy(
        scenario: &'static str,
        database: &[(&str, &str)],
        extra: &[(&str, &str)],
    ) -> Result<(Stage, Proxy)> {
        let mut stage = Stage::unstarted(scenario, database, extra).await?;
        let target = SocketAddr::from(([127, 0, 0, 1], stage.postgres.port()));
        let proxy = Proxy::start(target).await?;
        let (address, database) = (proxy.address(), stage.database.clone());
        let through = |user| format!("postgres://{user}@{address}/{database}");
        stage.set("database_url", &through("postgres"));
        stage.set("rls_database_url", &through("walcast_checks"));
        stage.start().await?;
        stage.server().ready().await?;
        stage.witness.renew(&stage.sql).await?;
        Ok((stage, proxy))
    }

    /// Migrated, with the ledger; the server does not run, nothing is witnessed.
    pub(crate) async fn unstarted(
        scenario: &'static str,
        settings: &[(&str, &str)],
        extra: &[(&str, &str)],
    ) -> Result<Stage> {
        let postgres = Postgres::start_with(settings).await?;
        Stage::on(scenario, postgres, extra).await
    }

    /// The same on a Postgres that runs already.
    pub(crate) async fn on(
        scenario: &'static str,
        postgres: Postgres,
        extra: &[(&str, &str)],
    ) -> Result<Stage> {
        let seed = std::env::var("WALCAST_FAULTS_SEED").ok();
        let seed = seed
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(Dice::seed);
        eprintln!("{scenario}: seed {seed}");
        let database = postgres.create_database().await?;
        let url = postgres.url("postgres", &database);
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()?));
        let settings = settings_of(&postgres, &database, address, extra);
        let (status, _, errors) =
            Walcast::run(binary(), &borrowed(&settings), &["migrate"]).await?;
        anyhow::ensure!(status.success(), "migrate: {errors}");
        let sql = postgres.connect("postgres", &database).await?;
        sql.batch_execute(SCHEMA).await?;
        Ok(Stage {
            scenario,
            seed,
            desk: Arc::new(Desk::new(url.clone())),
            marker: Writer::new(&url, MARKER, seed, OWNERS),
            postgres,
            database,
            sql,
            server: None,
            settings,
            address,
            witness: Witness::default(),
            recorders: Vec::new(),
            figures: Figures::default(),
            gaps_allowed: false,
            done: false,
        })
    }

    pub(crate) fn server(&self) -> &Walcast {
        self.server.as_ref().expect("the server was started")
    }

    pub(crate) fn server_mut(&mut self) -> &mut Walcast {
        self.server.as_mut().expect("the server was started")
    }

    /// Changes a setting for the processes to come.
    pub(crate) fn set(&mut self, name: &str, value: &str) {
        self.settings.retain(|(known, _)| known != name);
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// Starts the server, also once more after its end, where it was: same port, same log.
    pub(crate) async fn start(&mut self) -> Result<Instant> {
        self.server = None; // frees the log's folder
        let begin = Instant::now();
        let server = Walcast::start(binary(), &borrowed(&self.settings)).await?;
        self.server = Some(server.quiet());
        Ok(begin)
    }

    /// Another process with other settings; the caller keeps it.
    pub(crate) async fn another(&self, changes: &[(&str, &str)]) -> Result<Walcast> {
        let mut settings = self.settings.clone();
        for (name, value) in changes {
            settings.retain(|(known, _)| known != name);
            settings.push(((*name).to_owned(), (*value).to_owned()));
        }
        Ok(Walcast::start(binary(), &borrowed(&settings))
            .await?
            .quiet())
    }

    /// Another command of the binary: whether it succeeded, stdout, stderr.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Result<(bool, String, String)> {
        let settings = borrowed(&self.settings);
        let (status, out, errors) = Walcast::run(binary(), &settings, arguments).await?;
        Ok((status.success(), out, errors))
    }

    pub(crate) fn replace(&mut self, server: Walcast) {
        self.address = server.address();
        self.server = Some(server);
    }

    /// The database's connection ended with its server.
    pub(crate) async fn reconnect(&mut self) -> Result<()> {
        self.sql = self.postgres.connect("postgres", &self.database).await?;
        Ok(())
    }

    pub(crate) async fn execute(&self, sql: &str) -> Result<()> {
        self.sql
            .batch_execute(sql)
            .await
            .with_context(|| sql.to_owned())
    }

    pub(crate) fn url(&self) -> String {
        self.postgres.url("postgres", &self.database)
    }

    /// So many clients of all roles, subscribed.
    pub(crate) async fn record(&mut self, clients: usize) -> Result<()> {
        let subscribers: Vec<_> = crowd(clients).collect();
        self.record_through(self.address, &subscribers).await
    }

    /// Clients that connect to `address`.
    pub(crate) async fn record_through(
        &mut self,
        address: SocketAddr,
        subscribers: &[Subscriber],
    ) -> Result<()> {
        for subscriber in subscribers {
            let recording = self.recording(address, *subscriber);
            self.recorders.push(Recorder::start(recording)?);
        }
        self.subscribed().await
    }

    pub(crate) fn recording(&self, address: SocketAddr, subscriber: Subscriber) -> Recording {
        Recording {
            url: format!("ws://{address}/realtime"),
            subscriber,
            secret: SECRET.into(),
            beginning: Beginning::Select(self.desk.clone()),
            resumes: true,
        }
    }

    /// Every client is subscribed.
    pub(crate) async fn subscribed(&self) -> Result<()> {
        for recorder in &self.recorders {
            recorder.subscribed(DEADLINE).await?;
        }
        Ok(())
    }

    /// Writers begin; [`Load::default`] fits most scenarios.
    pub(crate) async fn load(&self, load: Load) -> Result<Ledger> {
        let load = Load {
            seed: self.seed,
            owners: OWNERS,
            ..load
        };
        Ledger::start(&self.url(), load).await
    }

    /// Waits until each client has been acknowledged anew and has had an event since, and notes how
    /// long the first and the last of them took from `begin` on.
    pub(crate) async fn recovered(&mut self, begin: Instant, before: &[usize]) -> Result<()> {
        let waits = self
            .recorders
            .iter()
            .zip(before)
            .map(|(recorder, before)| async {
                let again =
                    |heed: &walcast_harness::Heed| heed.acknowledged > *before && heed.fresh > 0;
                recorder.heeds(again, DEADLINE).await?;
                anyhow::Ok(begin.elapsed())
            });
        let times = futures_util::future::try_join_all(waits).await?;
        eprintln!("{}: recovered after {:?}", self.scenario, begin.elapsed());
        self.figures.first.extend(times.iter().min());
        self.figures.all.extend(times.iter().max());
        Ok(())
    }

    /// How often each client was acknowledged so far: for [`Stage::recovered`].
    pub(crate) fn acknowledged(&self) -> Vec<usize> {
        let heeds = self.recorders.iter().map(Recorder::now);
        heeds.map(|heed| heed.acknowledged).collect()
    }

    /// Writes a mark, and does not wait for it.
    pub(crate) async fn mark(&mut self) -> Result<i64> {
        self.marker.mark().await
    }

    /// Everybody has everything so far: a mark is written, and waited for.
    pub(crate) async fn quiet(&mut self) -> Result<()> {
        self.quiet_within(DEADLINE).await
    }

    /// The same, with a deadline of its own.
    pub(crate) async fn quiet_within(&mut self, deadline: Duration) -> Result<()> {
        let mark = self.mark().await?;
        for recorder in &self.recorders {
            recorder
                .heeds(|heed| heed.marks.contains(&mark), deadline)
                .await?;
        }
        Ok(())
    }

    /// After the load: waits until it is quiet, compares, reports. Errors: anything but a clean
    /// verdict, and gaps where the scenario has no right to one.
    pub(crate) async fn judge(self, book: Book) -> Result<Verdict> {
        let gaps_allowed = self.gaps_allowed;
        let verdict = self.compare(book).await?;
        anyhow::ensure!(verdict.is_clean(), "{verdict}");
        anyhow::ensure!(gaps_allowed || verdict.gaps == 0, "a gap: {verdict}");
        anyhow::ensure!(verdict.received > 0, "nothing was received: {verdict}");
        Ok(verdict)
    }

    async fn compare(mut self, mut book: Book) -> Result<Verdict> {
        self.reconnect().await?;
        let quiet = self.quiet().await;
        let (scenario, seed) = (self.scenario, self.seed);
        let marker = Writer::new(&self.url(), MARKER, seed, OWNERS);
        let marker = std::mem::replace(&mut self.marker, marker);
        book.transactions.extend(marker.into_book().transactions);
        let order = self.witness.read(&self.sql).await?;
        let oracle = Oracle::new(&book, order)?;
        let mut sum = Verdict::default();
        let mut ends = Vec::new();
        for recorder in std::mem::take(&mut self.recorders) {
            let subscriber = recorder.subscriber;
            let transcript = recorder.finish().await?;
            let rows = self.desk.rows(subscriber, DEADLINE).await?;
            let verdict = oracle.judge(&subscriber.sight(), &transcript, &rows);
            if !verdict.is_clean() || (verdict.gaps > 0 && !self.gaps_allowed) {
                let (gaps, ends) = (&transcript.gaps, &transcript.ends);
                eprintln!("{subscriber:?}: {verdict}\n  gaps: {gaps:?}\n  ends: {ends:?}");
            }
            sum.add(verdict);
            ends.extend(transcript.ends);
        }
        ends.sort();
        ends.dedup();
        eprintln!("{scenario}: connections ended by {ends:#?}");
        report(scenario, seed, &book, &sum, &self.figures);
        quiet?;
        self.done = sum.is_clean();
        Ok(sum)
    }

    /// Where LSNs begin anew there is no order to judge by: each client must show what is there.
    pub(crate) async fn shows_what_is_there(mut self) -> Result<()> {
        self.quiet().await?;
        for recorder in std::mem::take(&mut self.recorders) {
            let subscriber = recorder.subscriber;
            let shown = recorder.finish().await?.rows();
            let there = self.desk.rows(subscriber, DEADLINE).await?;
            anyhow::ensure!(
                shown == there,
                "{subscriber:?} shows {shown:?}, not {there:?}"
            );
        }
        self.passed();
        Ok(())
    }

    /// A scenario without an oracle is over.
    pub(crate) fn passed(mut self) {
        report(
            self.scenario,
            self.seed,
            &Book::default(),
            &Verdict::default(),
            &self.figures,
        );
        self.done = true;
    }

    /// The same, without a line of its own.
    pub(crate) fn done(mut self) {
        self.done = true;
    }

    /// Waits until `/ready` says something like this.
    pub(crate) async fn state(&self, wanted: &str, deadline: Duration) -> Result<String> {
        let seen = eventually(deadline, async || {
            let (_, body) = self.server().get("/ready").await.ok()?;
            body.contains(wanted).then_some(body)
        });
        let body = self.server().get("/ready").await;
        seen.await
            .with_context(|| format!("never {wanted:?}; at first {body:?}"))
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let (false, Some(server)) = (self.done, &self.server) {
            eprintln!("{}: the server's log:\n{}", self.scenario, server.log());
        }
    }
}

/// The server that is put to the test: the one that was built with the tests, or, in the full form,
/// the optimised one that `WALCAST_FAULTS_BINARY` names.
fn binary() -> PathBuf {
    let named = std::env::var_os("WALCAST_FAULTS_BINARY");
    named.map_or_else(|| env!("CARGO_BIN_EXE_walcast").into(), PathBuf::from)
}

/// Clients of all roles and several users.
pub(crate) fn crowd(clients: usize) -> impl Iterator<Item = Subscriber> {
    let roles = Role::ALL.into_iter().cycle();
    roles.take(clients).zip(0u16..).map(|(role, nth)| {
        // Neither number divides the other, so that every role has several users.
        Subscriber::new(role, nth % (OWNERS - 1) + 1)
    })
}

/// The usual load, for so long at most.
pub(crate) fn usual(seconds: u64) -> Load {
    Load {
        writers: 4,
        per_second: by_form(60, 100),
        rows_max: by_form(300, 500),
        lasts: Duration::from_secs(seconds),
        ..Load::default()
    }
}

fn settings_of(
    postgres: &Postgres,
    database: &str,
    address: SocketAddr,
    extra: &[(&str, &str)],
) -> Vec<(String, String)> {
    let url = postgres.url("postgres", database);
    let checks = postgres.url("walcast_checks", database);
    let listen = address.to_string();
    let settings = [
        ("database_url", url.as_str()),
        ("rls_database_url", &checks),
        ("jwt_secret", SECRET),
        ("slot_name", SLOT),
        ("slot_mode", "durable"),
        ("listen", &listen),
        (
            "allowed_roles",
            "anon,authenticated,masked,service_role,team,auditor",
        ),
        ("connections_per_user_max", "0"),
        ("connections_per_address_max", "0"),
        ("messages_per_minute_max", "0"),
        // A loaded machine is no reason to deny.
        ("rls_statement_timeout", "10s"),
    ];
    let mut settings: Vec<_> = settings.into_iter().map(owned).collect();
    for (name, value) in extra {
        settings.retain(|(known, _)| known != name);
        settings.push(owned((name, value)));
    }
    settings
}

fn owned((name, value): (&str, &str)) -> (String, String) {
    (name.to_owned(), value.to_owned())
}

fn borrowed(settings: &[(String, String)]) -> Vec<(&str, &str)> {
    let settings = settings.iter();
    settings
        .map(|(name, value)| (name.as_str(), value.as_str()))
        .collect()
}
