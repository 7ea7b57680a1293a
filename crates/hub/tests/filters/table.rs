//! A table with a column of every kind, and its rows as they would come through the stream.

use std::sync::Arc;

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_change::{Operation, Row, Shape, Types};
use walcast_harness::Dice;
use walcast_hub::Filter;
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity, Value};

use crate::values::KINDS;

const ROWS: u64 = 60;

pub(crate) struct Table {
    pub(crate) columns: Vec<Named>,
    pub(crate) rows: Vec<Vec<Option<String>>>,
    /// A collation that knows Unicode.
    pub(crate) unicode: String,
    shape: Arc<Shape>,
}

pub(crate) struct Named {
    pub(crate) name: String,
    oid: u32,
}

impl Table {
    pub(crate) async fn create(client: &Client, dice: &mut Dice) -> Result<Table> {
        // As the stream's session is set.
        client
            .batch_execute(
                "SET datestyle = 'ISO, MDY'; SET timezone = 'UTC'; SET bytea_output = hex;
                 SET extra_float_digits = 1; CREATE TYPE mood AS ENUM ('low', 'high', 'A b')",
            )
            .await?;
        let columns: Vec<String> = KINDS
            .iter()
            .map(|kind| format!("{} {}", name(kind.column), kind.sql))
            .collect();
        let create = format!("CREATE TABLE t (nth int, {})", columns.join(", "));
        client.batch_execute(&create).await?;
        for nth in 0..ROWS {
            let values: Vec<String> = KINDS
                .iter()
                .map(|kind| match dice.percent(12) {
                    true => "NULL".to_owned(),
                    false => literal(&kind.value(dice)),
                })
                .collect();
            let insert = format!("INSERT INTO t VALUES ({nth}, {})", values.join(", "));
            client.batch_execute(&insert).await.context(insert)?;
        }
        let columns = described(client).await?;
        Ok(Table {
            shape: shape(&columns),
            rows: rows(client).await?,
            unicode: unicode(client).await?,
            columns,
        })
    }

    /// The types of a filter's columns.
    pub(crate) fn types(&self, filter: &Filter) -> Vec<u32> {
        let oid = |column: &Arc<str>| {
            let known = self.columns.iter().find(|known| *known.name == **column);
            known.map_or(0, |known| known.oid)
        };
        filter.columns().map(oid).collect()
    }

    /// `missing`: the column that was not sent.
    pub(crate) fn row(&self, row: &[Option<String>], missing: Option<usize>) -> Row {
        let values = row.iter().enumerate().map(|(nth, value)| match value {
            _ if missing == Some(nth) => Value::Unchanged,
            Some(text) => Value::Text(text.as_bytes()),
            None => Value::Null,
        });
        match Operation::insert(&self.shape, tuple(values)) {
            Operation::Insert { new } => new,
            other => panic!("an insert is {other:?}"),
        }
    }

    /// The first row that only one side has.
    pub(crate) fn difference(&self, ours: &[usize], theirs: &[usize]) -> String {
        let mut all = 0..self.rows.len();
        let nth = all.find(|nth| ours.contains(nth) != theirs.contains(nth));
        let Some(nth) = nth else {
            return "none".to_owned();
        };
        let cells = self.columns.iter().zip(&self.rows[nth]);
        let cells: Vec<_> = cells
            .map(|(column, value)| format!("{}={value:?}", column.name))
            .collect();
        format!("row {nth}: {}", cells.join(" "))
    }
}

pub(crate) fn name(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

pub(crate) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn shape(columns: &[Named]) -> Arc<Shape> {
    let columns = columns.iter().map(|column| Column {
        key: false,
        name: Bytes::from(column.name.clone()),
        type_oid: column.oid,
        type_modifier: -1,
    });
    let relation = Relation {
        id: RelationId(1),
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"t"),
        identity: ReplicaIdentity::Full,
        columns: columns.collect(),
    };
    Arc::new(Shape::new(&relation, None, &Types::default()))
}

async fn described(client: &Client) -> Result<Vec<Named>> {
    let sql = "SELECT attname::text, atttypid FROM pg_attribute
                WHERE attrelid = 't'::regclass AND attnum > 1 ORDER BY attnum";
    let rows = client.query(sql, &[]).await?;
    let named = |row: &tokio_postgres::Row| {
        Ok(Named {
            name: row.try_get(0)?,
            oid: row.try_get(1)?,
        })
    };
    rows.iter().map(named).collect()
}

/// What the output functions print, which a cast to text would not.
async fn rows(client: &Client) -> Result<Vec<Vec<Option<String>>>> {
    let mut rows = Vec::new();
    for message in client.simple_query("SELECT * FROM t ORDER BY nth").await? {
        if let SimpleQueryMessage::Row(row) = message {
            let cells = (1..row.len()).map(|at| row.get(at).map(str::to_owned));
            rows.push(cells.collect());
        }
    }
    Ok(rows)
}

async fn unicode(client: &Client) -> Result<String> {
    let sql = "SELECT collname::text FROM pg_collation
                WHERE collname IN ('C.utf8', 'en_US.utf8', 'und-x-icu', 'pg_c_utf8') ORDER BY collname LIMIT 1";
    let row = client.query_opt(sql, &[]).await?;
    let row = row.context("no collation here knows unicode")?;
    Ok(name(row.try_get(0)?))
}
