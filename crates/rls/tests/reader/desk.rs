//! A database with a reader, and what a direct SELECT says.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_change::{Cell, ColumnSet, Row, Shape};
use walcast_harness::eventually;
use walcast_rls::{CheckConfig, ReadError, ReadLimits, ReaderBounds, Reading, TableReader, Viewer};

use crate::rig::Rig;

pub(crate) struct Desk {
    pub(crate) rig: Rig,
    pub(crate) reader: TableReader,
    /// Outside of the transactions of `rig.admin`: within one, what others do seems to stand still.
    watcher: Client,
}

pub(crate) const GENEROUS: ReadLimits = ReadLimits {
    rows_max: u64::MAX,
    bytes_max: u64::MAX,
    time_max: Duration::from_secs(60),
};

/// The values of a row as texts; a column that the row does not have is `?`.
pub(crate) type Texts = Vec<Option<String>>;

impl Desk {
    /// `sql` makes tables.
    pub(crate) async fn new(sql: &str) -> Result<Desk> {
        Desk::bounded(sql, ReaderBounds::default()).await
    }

    pub(crate) async fn bounded(sql: &str, bounds: ReaderBounds) -> Result<Desk> {
        let rig = Rig::new(sql).await?;
        let config = CheckConfig {
            lock_timeout: Duration::from_secs(30),
            ..rig.config()
        };
        Ok(Desk {
            watcher: rig.postgres.connect("postgres", &rig.database).await?,
            reader: TableReader::new(config, bounds),
            rig,
        })
    }

    /// The shape of the table that `sql` changes one row of.
    pub(crate) async fn shape(&mut self, sql: &str) -> Result<Arc<Shape>> {
        Ok(self.rig.change(sql).await?.shape.clone())
    }

    pub(crate) async fn open(
        &self,
        viewer: &Viewer,
        shape: &Arc<Shape>,
    ) -> Result<Reading, ReadError> {
        self.reader.read(viewer, shape, None, None, GENEROUS).await
    }

    /// All rows, sorted.
    pub(crate) async fn read(
        &self,
        viewer: &Viewer,
        shape: &Arc<Shape>,
        columns: Option<&ColumnSet>,
        filter: Option<&str>,
    ) -> Result<Vec<Texts>, ReadError> {
        let reading = self
            .reader
            .read(viewer, shape, columns, filter, GENEROUS)
            .await?;
        let mut rows: Vec<_> = rest(reading).await?.iter().map(texts).collect();
        rows.sort();
        Ok(rows)
    }

    /// What `SELECT {what}` gives to the viewer directly, sorted.
    pub(crate) async fn select(&self, viewer: &Viewer, what: &str) -> Result<Vec<Texts>> {
        let client = self
            .rig
            .postgres
            .connect("postgres", &self.rig.database)
            .await?;
        client.batch_execute("BEGIN").await?;
        client
            .query(
                "SELECT set_config('role', $1, true), set_config('request.jwt.claims', $2, true)",
                &[&&*viewer.role, &&*viewer.claims],
            )
            .await?;
        let found = client.simple_query(&format!("SELECT {what}")).await?;
        let rows = found.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(
                (0..row.len())
                    .map(|at| row.get(at).map(str::to_owned))
                    .collect(),
            ),
            _ => None,
        });
        let mut rows: Vec<Texts> = rows.collect();
        rows.sort();
        Ok(rows)
    }

    /// How many of the reader's sessions in this database are so, as `pg_stat_activity` puts it.
    pub(crate) async fn sessions(&self, condition: &str) -> Result<i64> {
        let sql = format!(
            "SELECT count(*) FROM pg_stat_activity
              WHERE datname = current_database() AND usename = 'checker' AND ({condition})"
        );
        Ok(self.watcher.query_one(&sql, &[]).await?.get(0))
    }

    /// Statements that the reader's sessions run at the moment.
    pub(crate) async fn running(&self) -> Result<i64> {
        self.sessions("state <> 'idle' OR backend_xmin IS NOT NULL")
            .await
    }

    /// Until one of the reader's sessions is so.
    pub(crate) async fn until(&self, condition: &str) -> Result<()> {
        eventually(Duration::from_secs(60), async || {
            (self.sessions(condition).await.ok()? == 1).then_some(())
        })
        .await
        .with_context(|| format!("never {condition}"))
    }

    pub(crate) async fn until_nothing_runs(&self) -> Result<()> {
        eventually(Duration::from_secs(60), async || {
            (self.running().await.ok()? == 0).then_some(())
        })
        .await
        .context("a statement goes on running")
    }
}

/// What is left of a reading.
pub(crate) async fn rest(mut reading: Reading) -> Result<Vec<Row>, ReadError> {
    let mut rows = Vec::new();
    while let Some(chunk) = reading.next_chunk().await? {
        assert!(!chunk.is_empty() && chunk.len() <= 1000);
        rows.extend(chunk);
    }
    assert!(matches!(reading.next_chunk().await, Ok(None)));
    Ok(rows)
}

pub(crate) fn texts(row: &Row) -> Texts {
    let text = |cell| match cell {
        Cell::Null => None,
        Cell::Missing => Some("?".to_owned()),
        Cell::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
    };
    row.cells().map(text).collect()
}
