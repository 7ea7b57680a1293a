//! One line of figures per scenario.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use anyhow::Result;
use walcast_harness::{Book, Verdict};

/// What a scenario counted beside the oracle's verdict.
#[derive(Debug, Default)]
pub(crate) struct Figures {
    /// How often something was killed, cut or restarted.
    pub(crate) faults: usize,
    /// From each fault's end until the first client had an event, and until every client had one.
    pub(crate) first: Vec<Duration>,
    pub(crate) all: Vec<Duration>,
    /// Whatever else is worth a word.
    pub(crate) notes: Vec<String>,
}

/// The full form runs longer and larger: `WALCAST_FAULTS=full`.
pub(crate) fn is_full() -> bool {
    std::env::var("WALCAST_FAULTS").is_ok_and(|form| form == "full")
}

/// One of two figures, by the form.
pub(crate) fn by_form<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// What has to be done in so long, in the full form. In the short one, where other tests run at the same
/// time on any machine, the deadline that each wait has must do.
pub(crate) fn within(took: Option<Duration>, bound: Duration) -> Result<()> {
    anyhow::ensure!(
        !is_full() || took <= Some(bound),
        "{took:?} instead of {bound:?}"
    );
    Ok(())
}

/// Prints the line, and appends it to the file that `WALCAST_FAULTS_REPORT` names.
pub(crate) fn report(scenario: &str, seed: u64, book: &Book, verdict: &Verdict, figures: &Figures) {
    let worst = |times: &[Duration]| {
        let worst = times.iter().max();
        worst.map_or("-".into(), |time| format!("{:.1}", time.as_secs_f64()))
    };
    let cells = [
        scenario.to_owned(),
        seed.to_string(),
        book.committed().count().to_string(),
        book.changes().to_string(),
        verdict.clients.to_string(),
        verdict.received.to_string(),
        verdict.lost.to_string(),
        verdict.duplicated.to_string(),
        verdict.leaked.to_string(),
        (verdict.reordered + verdict.wrong + verdict.stale).to_string(),
        verdict.gaps.to_string(),
        verdict.resumed.to_string(),
        figures.faults.to_string(),
        worst(&figures.first),
        worst(&figures.all),
        figures.notes.join("; "),
    ];
    let mut line = cells.join("\t");
    eprintln!("{line}\n{verdict}");
    line.write_char('\n').expect("a String takes everything");
    if let Some(path) = std::env::var_os("WALCAST_FAULTS_REPORT") {
        let file = std::fs::File::options()
            .append(true)
            .create(true)
            .open(path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        written.expect("the report's file is writable");
    }
}
