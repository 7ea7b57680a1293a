//! What walcast's checking stage costs.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use walcast_change::Change;
use walcast_rls::{PostgresCheck, Question, RowCheck, Version, Viewer};

pub(crate) struct Cost {
    /// Seconds that a change takes in a batch as the server makes them.
    pub(crate) change_s: f64,
    /// Seconds that a change takes when it comes alone.
    pub(crate) alone_s: f64,
    /// Viewers who see the first row.
    pub(crate) visible: usize,
}

const CELL: Duration = Duration::from_millis(700);
/// As the server bounds a batch.
const PAIRS_MAX: usize = 50_000;

/// Everybody watches, and is known: what comes once for each viewer is done.
pub(crate) async fn watch(
    check: &mut PostgresCheck,
    table: &str,
    viewers: &[Viewer],
    changes: &[Change],
) -> Result<()> {
    for (number, viewer) in viewers.iter().enumerate() {
        check.watch(u32::try_from(number)?, viewer, "public", Some(table));
    }
    let first = changes.first().map(question).context("a change")??;
    check.sweep(&[first], &|_, _| true).await;
    Ok(())
}

pub(crate) async fn sweeps(
    check: &mut PostgresCheck,
    changes: &[Change],
    viewers: usize,
) -> Result<Cost> {
    let questions = changes.iter().map(question);
    let questions: Vec<Question> = questions.collect::<Result<_>>()?;
    let first = questions.get(..1).context("a change")?;
    let found = check.sweep(first, &|_, _| true).await;
    let visible = found.first().map_or(0, Vec::len);
    let shape = first.first().context("a change")?.row.shape().clone();
    let cost = check.cost(&shape).clamp(1, viewers);
    let batch = (PAIRS_MAX / cost).clamp(1, questions.len());
    let (started, mut judged) = (Instant::now(), 0);
    for batch in questions.chunks(batch).cycle() {
        if judged > 0 && started.elapsed() >= CELL {
            break;
        }
        check.sweep(batch, &|_, _| true).await;
        judged += batch.len();
    }
    let change_s = started.elapsed().as_secs_f64() / judged as f64;
    let (started, mut times) = (Instant::now(), 0);
    while times < 3 || started.elapsed() < CELL / 5 {
        check.sweep(first, &|_, _| true).await;
        times += 1;
    }
    Ok(Cost {
        change_s,
        alone_s: started.elapsed().as_secs_f64() / f64::from(times),
        visible,
    })
}

fn question(change: &Change) -> Result<Question> {
    Ok(Question {
        row: change.new().context("an update")?.clone(),
        version: Version::New,
        xid: Some(change.xid),
        viewers: Vec::new(),
        among: None,
    })
}
