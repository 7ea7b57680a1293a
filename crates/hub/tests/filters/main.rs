//! Filters against Postgres: what a filter selects is what `SELECT … WHERE` with the same condition
//! gives, and what Postgres refuses is refused.
//!
//! `WALCAST_SEED` repeats a run, `WALCAST_CASES` makes it longer.

mod condition;
mod table;
mod values;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_harness::{Dice, Postgres};
use walcast_hub::Filter;

use condition::Condition;
use table::Table;

const CASES: u64 = 3_000;

#[tokio::test]
async fn a_filter_selects_what_postgres_selects() -> Result<()> {
    let seed = number("WALCAST_SEED").unwrap_or_else(Dice::seed);
    let cases = number("WALCAST_CASES").unwrap_or(CASES);
    let mut dice = Dice::new(seed);
    let postgres = Postgres::start().await?;
    let client = postgres.connect("postgres", "postgres").await?;
    let table = Table::create(&client, &mut dice).await?;
    let (begin, mut tally) = (Instant::now(), Tally::default());
    for nth in 0..cases {
        let condition = Condition::random(&mut dice, &table.unicode);
        let checked = judge(&client, &table, &condition, &mut dice, &mut tally).await;
        let repeat = || {
            format!(
                "case {nth} of WALCAST_SEED={seed}\n  filter {}\n  sql    {}",
                condition.filter, condition.sql
            )
        };
        checked.with_context(repeat)?;
    }
    println!(
        "{cases} filters, {tally:?}, {:?}, seed {seed}",
        begin.elapsed()
    );
    // What is refused needlessly is not wrong, but it must not be the rule.
    ensure!(tally.agreed > cases / 2, "too few were accepted: {tally:?}");
    ensure!(
        tally.selected > cases / 4,
        "too few select anything: {tally:?}"
    );
    Ok(())
}

#[derive(Debug, Default)]
struct Tally {
    /// Filters that both sides take, and that selected something of the table.
    agreed: u64,
    selected: u64,
    refused_by_both: u64,
    /// By the filter alone.
    refused: u64,
    /// Verdicts about rows of which a column was not sent: known all the same.
    known: u64,
}

async fn judge(
    client: &Client,
    table: &Table,
    condition: &Condition,
    dice: &mut Dice,
    tally: &mut Tally,
) -> Result<()> {
    let theirs = matching(client, &condition.sql).await;
    let filter = match Filter::parse(&condition.filter) {
        Ok(filter) if filter.check(&table.types(&filter)).is_ok() => filter,
        _ => {
            match theirs {
                Ok(_) => tally.refused += 1,
                Err(_) => tally.refused_by_both += 1,
            }
            return Ok(());
        }
    };
    let theirs = theirs.context("postgres refuses what the filter takes")?;
    let rows = table.rows.iter().enumerate();
    let ours: Vec<usize> = rows
        .filter(|(_, row)| filter.selects(&table.row(row, None)) == Some(true))
        .map(|(nth, _)| nth)
        .collect();
    ensure!(
        ours == theirs,
        "ours {ours:?}, theirs {theirs:?}: {}",
        table.difference(&ours, &theirs)
    );
    tally.agreed += 1;
    tally.selected += u64::from(!ours.is_empty());

    let sql = filter.to_sql(&table.types(&filter));
    let read = matching(client, &sql).await;
    let read = read.with_context(|| format!("its clause {sql}"))?;
    ensure!(
        ours.iter().all(|row| read.contains(row)),
        "the clause {sql} leaves out what the filter selects"
    );

    let missing = dice.below(table.columns.len() as u64) as usize;
    for (nth, row) in table.rows.iter().enumerate() {
        if let Some(known) = filter.selects(&table.row(row, Some(missing))) {
            let column = &table.columns[missing].name;
            ensure!(
                known == ours.contains(&nth),
                "row {nth} without {column} is judged differently"
            );
            tally.known += 1;
        }
    }
    Ok(())
}

/// The numbers of the rows for which a condition is true.
async fn matching(client: &Client, condition: &str) -> Result<Vec<usize>> {
    let sql = format!("SELECT nth FROM t WHERE {condition} ORDER BY nth");
    let mut found = Vec::new();
    for message in client.simple_query(&sql).await? {
        if let SimpleQueryMessage::Row(row) = message {
            found.push(row.get(0).context("a number")?.parse()?);
        }
    }
    Ok(found)
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}
