//! A table that many write at once, each transaction noted down: the load of the fault suite.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};
use tokio_util::sync::CancellationToken;

use crate::book::{Book, EVERYBODY, Entry, Face, Outcome, Transaction, user};
use crate::dice::Dice;

/// Table, roles, policies. Run by a superuser after the migrations (it uses `auth.uid()`); the roles
/// are made where they are missing.
pub const SCHEMA: &str = include_str!("ledger.sql");

/// How long a writer waits for Postgres to come back: as long as that may take on a slow disk.
const PATIENCE: Duration = Duration::from_secs(300);
const PAUSE: Duration = Duration::from_millis(50);

/// What is written, and how fast.
#[derive(Clone, Debug)]
pub struct Load {
    pub seed: u64,
    /// Connections, at most 64.
    pub writers: u16,
    /// Transactions per second, of all writers together.
    pub per_second: u32,
    /// Owners of rows: 1 to this.
    pub owners: u16,
    /// The most rows of one transaction.
    pub rows_max: usize,
    /// It ends by itself after so long.
    pub lasts: Duration,
}

impl Default for Load {
    fn default() -> Load {
        Load {
            seed: 1,
            writers: 4,
            per_second: 100,
            owners: 6,
            rows_max: 1000,
            lasts: Duration::from_secs(60),
        }
    }
}

/// Writers at work.
pub struct Ledger {
    writers: JoinSet<Result<Writer>>,
    stop: CancellationToken,
}

impl Ledger {
    /// Begins to write; `url` is that of the table's owner.
    pub async fn start(url: &str, load: Load) -> Result<Ledger> {
        let stop = CancellationToken::new();
        let mut writers = JoinSet::new();
        for number in 1..=load.writers {
            let writer = Writer::new(url, number, load.seed, load.owners);
            writers.spawn(write(writer, load.clone(), stop.clone()));
        }
        Ok(Ledger { writers, stop })
    }

    /// Ends after the transactions at hand, and returns what was written.
    pub async fn finish(mut self) -> Result<Book> {
        self.stop.cancel();
        let mut book = Book::default();
        while let Some(writer) = self.writers.join_next().await {
            book.transactions.extend(writer??.transactions);
        }
        Ok(book)
    }
}

async fn write(mut writer: Writer, load: Load, stop: CancellationToken) -> Result<Writer> {
    let period = Duration::from_secs(1) * u32::from(load.writers) / load.per_second.max(1);
    let mut pace = interval(period);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let end = Instant::now() + load.lasts;
    while !stop.is_cancelled() && Instant::now() < end {
        pace.tick().await;
        let rows = writer.size(load.rows_max);
        writer.transaction(rows).await?;
    }
    Ok(writer)
}

/// One connection that writes rows of its own: no other writer touches them, so that it knows each
/// row's former state.
pub struct Writer {
    url: String,
    client: Option<Client>,
    number: i64,
    owners: u16,
    count: i64,
    dice: Dice,
    faces: HashMap<i64, Face>,
    ids: Vec<i64>,
    transactions: Vec<Transaction>,
}

impl Writer {
    /// `number` is below 64 and its own.
    pub fn new(url: &str, number: u16, seed: u64, owners: u16) -> Writer {
        Writer {
            url: url.to_owned(),
            client: None,
            number: i64::from(number),
            owners,
            count: 0,
            dice: Dice::new(seed.wrapping_mul(1000) + u64::from(number)),
            faces: HashMap::new(),
            ids: Vec::new(),
            transactions: Vec::new(),
        }
    }

    /// Most transactions are small, few are large.
    fn size(&mut self, rows_max: usize) -> usize {
        let size = match self.dice.below(100) {
            0..60 => self.dice.between(1, 4),
            60..90 => self.dice.between(4, 30),
            90..99 => self.dice.between(30, 200),
            _ => self.dice.between(200, 2000),
        };
        usize::try_from(size).unwrap_or(1).min(rows_max.max(1))
    }

    /// Commits about `rows` row changes, now and then rolls them back, in whole or in part.
    pub async fn transaction(&mut self, rows: usize) -> Result<()> {
        let mut plan = Vec::new();
        let parts = if rows > 3 { self.dice.between(1, 4) } else { 1 };
        for _ in 0..parts {
            let rows = rows.div_ceil(usize::try_from(parts)?);
            plan.push(match self.dice.below(100) {
                _ if self.ids.len() < rows => Step::Insert(rows),
                0..45 => Step::Insert(rows),
                45..80 => Step::Update(rows),
                _ => Step::Delete(rows),
            });
        }
        if self.dice.percent(5) {
            plan.insert(plan.len() / 2, Step::Undone(self.dice.between(1, 5)));
        }
        let commit = !self.dice.percent(4);
        self.carry_out(&plan, commit).await
    }

    /// One transaction that inserts so many rows.
    pub async fn insert(&mut self, rows: usize) -> Result<()> {
        self.carry_out(&[Step::Insert(rows)], true).await
    }

    /// Inserts so many rows and deletes them at once: in the same transaction, or in the next.
    pub async fn flash(&mut self, rows: usize, same: bool) -> Result<()> {
        let before = self.ids.len();
        if same {
            let plan = [Step::Insert(rows), Step::DeleteLast(rows)];
            return self.carry_out(&plan, true).await;
        }
        self.insert(rows).await?;
        let rows = self.ids.len() - before;
        self.carry_out(&[Step::DeleteLast(rows)], true).await
    }

    /// A row that everybody may see, with a negative id: after it, a recorder has everything.
    /// Returns its id.
    pub async fn mark(&mut self) -> Result<i64> {
        self.carry_out(&[Step::Mark], true).await?;
        let entry = self.transactions.last().and_then(|one| one.entries.first());
        Ok(entry.context("a mark is one row")?.id)
    }

    /// What it has written.
    pub fn into_book(self) -> Book {
        Book {
            transactions: self.transactions,
        }
    }

    async fn carry_out(&mut self, plan: &[Step], commit: bool) -> Result<()> {
        loop {
            let client = self.connection().await?;
            let mut attempt = Attempt::default();
            let done = self.attempt(&client, plan, commit, &mut attempt).await;
            let known = match done {
                Ok(outcome) => Some(outcome),
                Err(_) if !attempt.ending => Some(Outcome::RolledBack),
                Err(_) => None,
            };
            let again = done.is_err();
            if !again {
                self.client = Some(client);
            }
            let outcome = match known {
                Some(outcome) => outcome,
                None => self.ask(&attempt).await?,
            };
            if outcome == Outcome::RolledBack {
                self.undo(&attempt.entries);
            }
            if let Some(xid) = attempt.xid {
                self.transactions.push(Transaction {
                    xid,
                    entries: attempt.entries,
                    outcome,
                    asked: known.is_none(),
                });
            }
            if !again || outcome == Outcome::Committed {
                return Ok(());
            }
        }
    }

    async fn attempt(
        &mut self,
        client: &Client,
        plan: &[Step],
        commit: bool,
        attempt: &mut Attempt,
    ) -> Result<Outcome> {
        client.batch_execute("begin").await?;
        let row = client
            .query_one("select pg_current_xact_id()::text", &[])
            .await?;
        attempt.xid = Some(row.get::<_, String>(0).parse::<u64>()?);
        for step in plan {
            self.step(client, *step, attempt).await?;
        }
        if !commit {
            client.batch_execute("rollback").await?;
            return Ok(Outcome::RolledBack);
        }
        attempt.ending = true;
        client.batch_execute("commit").await?;
        Ok(Outcome::Committed)
    }

    async fn step(&mut self, client: &Client, step: Step, attempt: &mut Attempt) -> Result<()> {
        match step {
            Step::Insert(rows) => self.inserts(client, rows, attempt).await,
            Step::Update(rows) => self.updates(client, rows, attempt).await,
            Step::Delete(rows) => {
                let ids = self.pick(rows);
                self.deletes(client, &ids, attempt).await
            }
            Step::DeleteLast(rows) => {
                let ids = self.ids.split_off(self.ids.len().saturating_sub(rows));
                self.deletes(client, &ids, attempt).await
            }
            Step::Mark => {
                let version = self.next();
                let rows = [(-version, EVERYBODY, version)];
                self.put(client, INSERT, &rows, attempt).await
            }
            Step::Undone(rows) => {
                client.batch_execute("savepoint undone").await?;
                let mut undone = Attempt::default();
                let rows = usize::try_from(rows)?;
                let done = self.inserts(client, rows, &mut undone).await;
                self.undo(&undone.entries);
                done?;
                client.batch_execute("rollback to undone").await?;
                // The rolled-back rows were decoded by nobody: they have no ordinal.
                Ok(())
            }
        }
    }

    async fn inserts(&mut self, client: &Client, rows: usize, attempt: &mut Attempt) -> Result<()> {
        let rows: Vec<_> = (0..rows)
            .map(|_| {
                let id = self.next();
                (id, self.owner(), self.next())
            })
            .collect();
        self.put(client, INSERT, &rows, attempt).await
    }

    async fn updates(&mut self, client: &Client, rows: usize, attempt: &mut Attempt) -> Result<()> {
        let rows: Vec<_> = self
            .pick(rows)
            .into_iter()
            .map(|id| (id, self.owner(), self.next()))
            .collect();
        self.put(client, UPDATE, &rows, attempt).await
    }

    async fn deletes(&mut self, client: &Client, ids: &[i64], attempt: &mut Attempt) -> Result<()> {
        let deleted = client.query(DELETE, &[&ids]).await?;
        anyhow::ensure!(deleted.len() == ids.len(), "a row was not there");
        for row in deleted {
            self.enter(row.get(0), None, attempt);
        }
        Ok(())
    }

    /// Rows are entered in the order in which the statement returns them, which is that of the WAL.
    async fn put(
        &mut self,
        client: &Client,
        statement: &str,
        rows: &[(i64, u16, i64)],
        attempt: &mut Attempt,
    ) -> Result<()> {
        let ids: Vec<_> = rows.iter().map(|row| row.0).collect();
        let owners: Vec<_> = rows.iter().map(|row| user(row.1)).collect();
        let versions: Vec<_> = rows.iter().map(|row| row.2).collect();
        let faces: HashMap<_, _> = rows
            .iter()
            .map(|&(id, owner, version)| (id, Face { owner, version }))
            .collect();
        let put = client.query(statement, &[&ids, &owners, &versions]).await?;
        anyhow::ensure!(put.len() == rows.len(), "a row was not there");
        for row in put {
            let id: i64 = row.get(0);
            self.enter(id, faces.get(&id).copied(), attempt);
        }
        Ok(())
    }

    fn enter(&mut self, id: i64, new: Option<Face>, attempt: &mut Attempt) {
        let old = self.set(id, new);
        attempt.entries.push(Entry { id, old, new });
    }

    fn undo(&mut self, entries: &[Entry]) {
        for entry in entries.iter().rev() {
            self.set(entry.id, entry.old);
        }
    }

    fn set(&mut self, id: i64, face: Option<Face>) -> Option<Face> {
        let Some(face) = face else {
            return self.faces.remove(&id);
        };
        let old = self.faces.insert(id, face);
        if old.is_none() && id > 0 {
            self.ids.push(id);
        }
        old
    }

    /// So many different rows that are there, or fewer.
    fn pick(&mut self, rows: usize) -> Vec<i64> {
        let mut picked = HashSet::new();
        while picked.len() < rows && !self.ids.is_empty() {
            let at = self.dice.below(self.ids.len() as u64);
            let id = self.ids.swap_remove(usize::try_from(at).unwrap_or(0));
            // The list may name a row twice, or one that was deleted: that ends here.
            if self.faces.contains_key(&id) {
                picked.insert(id);
            }
        }
        let mut picked: Vec<_> = picked.into_iter().collect();
        picked.sort_unstable(); // a seed is to repeat everything
        self.ids.extend(&picked);
        picked
    }

    fn owner(&mut self) -> u16 {
        let owners = u64::from(self.owners);
        u16::try_from(self.dice.between(1, owners + 1)).unwrap_or(1)
    }

    /// A number that no other writer has; ids and versions come from here.
    fn next(&mut self) -> i64 {
        self.count += 1;
        self.count * 64 + self.number
    }

    async fn connection(&mut self) -> Result<Client> {
        match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => Ok(client),
            None => connect(&self.url).await,
        }
    }

    /// What became of a transaction whose COMMIT was not answered. Its number does not tell: after a
    /// crash Postgres gives the number of one that left no trace to another. Its rows do, which
    /// nobody else writes. A connection that is still being ended may yet commit; that is waited for.
    async fn ask(&self, attempt: &Attempt) -> Result<Outcome> {
        let xid = attempt
            .xid
            .context("a COMMIT follows a number")?
            .to_string();
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            let client = connect(&self.url).await?;
            match is_committed(&client, &xid, attempt.trace()).await {
                Ok(Some(true)) => return Ok(Outcome::Committed),
                Ok(Some(false)) => return Ok(Outcome::RolledBack),
                Ok(None) | Err(_) => sleep(PAUSE).await,
            }
        }
        anyhow::bail!("the outcome of transaction {xid} is not to be had")
    }
}

/// `None`: it is still at work. `trace` is a row, and its version if the transaction was committed;
/// without one there is only the number to go by.
async fn is_committed(
    client: &Client,
    xid: &str,
    trace: Option<(i64, Option<i64>)>,
) -> Result<Option<bool>> {
    let ask = "select pg_xact_status($1::text::xid8)";
    let answer = client.query_one(ask, &[&xid]).await;
    let status = match answer {
        Ok(row) => row.get::<_, Option<String>>(0),
        // "in the future": it left no trace, and nobody has the number yet.
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => None,
        Err(error) => return Err(error.into()),
    };
    if status.as_deref() == Some("in progress") {
        return Ok(None);
    }
    let Some((id, version)) = trace else {
        return Ok(Some(status.as_deref() == Some("committed")));
    };
    let read = "select version from ledger where id = $1";
    let there = client.query_opt(read, &[&id]).await?;
    let there = there.map(|row| row.get::<_, i64>(0));
    Ok(Some(there == version))
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Insert(usize),
    Update(usize),
    Delete(usize),
    /// The rows that came last.
    DeleteLast(usize),
    /// Inserts so many rows behind a savepoint and goes back to it.
    Undone(u64),
    Mark,
}

#[derive(Default)]
struct Attempt {
    xid: Option<u64>,
    entries: Vec<Entry>,
    /// COMMIT was sent.
    ending: bool,
}

impl Attempt {
    /// A row that looks otherwise once this is committed, and the version that it then has.
    fn trace(&self) -> Option<(i64, Option<i64>)> {
        let mut rows: HashMap<i64, (Option<Face>, Option<Face>)> = HashMap::new();
        for Entry { id, old, new } in &self.entries {
            rows.entry(*id).or_insert((*old, *new)).1 = *new;
        }
        let mut rows = rows.into_iter();
        let (id, (_, new)) = rows.find(|(_, (old, new))| old != new)?;
        Some((id, new.map(|face| face.version)))
    }
}

const INSERT: &str = "
    insert into ledger (id, owner, version, body)
    select id, owner::uuid, version, ledger_body(version)
      from unnest($1::bigint[], $2::text[], $3::bigint[]) as new (id, owner, version)
    returning id";
const UPDATE: &str = "
    update ledger set owner = new.owner::uuid, version = new.version, body = ledger_body(new.version)
      from unnest($1::bigint[], $2::text[], $3::bigint[]) as new (id, owner, version)
     where ledger.id = new.id
    returning ledger.id";
const DELETE: &str = "delete from ledger where id = any($1) returning id";

/// Tried again while Postgres is away.
async fn connect(url: &str) -> Result<Client> {
    let end = Instant::now() + PATIENCE;
    loop {
        match tokio_postgres::connect(url, NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection); // its error reaches the writer through the client
                return Ok(client);
            }
            Err(error) if Instant::now() > end => return Err(error).context("a writer"),
            Err(_) => sleep(PAUSE).await,
        }
    }
}
