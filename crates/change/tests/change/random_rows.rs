//! 10,000 random rows of the main types against `to_jsonb`.

use std::hash::{BuildHasher, RandomState};

use anyhow::{Context, Result};

use crate::random::Random;
use crate::same_json::same;
use crate::stream::Stream;

const ROWS: usize = 10_000;
const ROWS_PER_STATEMENT: usize = 1_000;

const COLUMNS: &[&str] = &[
    "bool",
    "int2",
    "int4",
    "int8",
    "float4",
    "float8",
    "numeric",
    "text",
    "bytea",
    "uuid",
    "date",
    "timestamp",
    "timestamptz",
    "interval",
    "json",
    "jsonb",
    "inet",
    "int8range",
    "mood",
    "positive",
    "int8[]",
    "float8[]",
    "text[]",
    "timestamptz[]",
    "jsonb[]",
    "mood[]",
    "pair",
    "pair[]",
    "nested",
];

const TYPES: &str = "
    create type mood as enum ('good', 'not \"so\" good', 'a,b', 'NULL');
    create domain positive as int8 check (value > 0);
    create type pair as (a int8, \"B b\" text, c text[]);
    create type nested as (p pair, ps pair[], t timestamptz, j jsonb);";

#[tokio::test]
async fn random_rows() -> Result<()> {
    let seed = std::env::var("WALCAST_TEST_SEED")
        .ok()
        .and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| RandomState::new().hash_one(ROWS));
    check(seed)
        .await
        .with_context(|| format!("again with WALCAST_TEST_SEED={seed}"))
}

async fn check(seed: u64) -> Result<()> {
    let mut random = Random::new(seed);
    let mut stream = Stream::open().await?;
    stream
        .client
        .batch_execute(&format!("{TYPES} {}", create_table()))
        .await?;
    for _ in 0..ROWS / ROWS_PER_STATEMENT {
        insert(&stream, &mut random).await?;
    }
    let (ours, theirs) = (stream.inserted().await?, stream.to_jsonb("t").await?);
    assert_eq!((ours.len(), theirs.len()), (ROWS, ROWS));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        same(ours, theirs).map_err(|why| anyhow::anyhow!("{why}\n{ours}\n{theirs}"))?;
    }
    Ok(())
}

fn create_table() -> String {
    let columns = joined(|nth, kind| format!("c{nth} {kind}"));
    format!("create table t (id int generated always as identity, {columns})")
}

async fn insert(stream: &Stream, random: &mut Random) -> Result<()> {
    let mut column = |kind| -> Vec<Option<String>> {
        (0..ROWS_PER_STATEMENT)
            .map(|_| random.maybe(kind))
            .collect()
    };
    let columns: Vec<_> = COLUMNS.iter().map(|kind| column(kind)).collect();
    let names = joined(|nth, _| format!("c{nth}"));
    let casts = joined(|nth, kind| format!("c{nth}::{kind}"));
    let arrays = joined(|nth, _| format!("${}::text[]", nth + 1));
    let insert =
        format!("insert into t ({names}) select {casts} from unnest({arrays}) s ({names})");
    let parameters: Vec<_> = columns.iter().map(|column| column as _).collect();
    stream.client.execute(&insert, &parameters[..]).await?;
    Ok(())
}

fn joined(part: impl Fn(usize, &str) -> String) -> String {
    let parts = COLUMNS
        .iter()
        .enumerate()
        .map(|(nth, kind)| part(nth, kind));
    parts.collect::<Vec<_>>().join(", ")
}
