//! `walcast-bench`: how fast and how large the release binary is, on a private Postgres that is
//! started for it and gone afterwards. What is measured and why: `proto-docs/performance.md`.

mod channels;
mod client;
mod crowd;
mod dialect;
mod drain;
mod fanout;
mod frames;
mod latency;
mod load;
mod log;
mod memory;
mod process;
mod recovery;
mod report;
mod resume;
mod rls;
mod samples;
mod snapshot;
mod stage;
mod start;
mod supabase;
mod times;
mod wire;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, ValueEnum};

use crate::report::Report;
use crate::stage::Stage;

/// Measures the walcast binary. Progress goes to stderr, the table (or JSON) to stdout.
#[derive(Parser)]
#[command(name = "walcast-bench")]
pub(crate) struct Options {
    /// Only these, separated by commas
    #[arg(long, value_delimiter = ',')]
    only: Vec<Bench>,
    /// Fewer rows, fewer samples, fewer connections: a look, not a figure
    #[arg(long)]
    quick: bool,
    /// JSON instead of the table
    #[arg(long)]
    json: bool,
    /// Repeats of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=5))]
    repeats: u32,
    /// The binary to measure; by default the one beside this program
    #[arg(long)]
    binary: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Bench {
    /// COMMIT returned → client received, one subscriber, beside the bare stream
    Latency,
    /// A backlog without subscribers, beside pg_recvlogical
    Drain,
    /// Resident memory per idle connection
    Memory,
    /// One table to many subscribers, without and with row-level security
    Fanout,
    /// The checking stage alone: policies x viewers, beside a probe for each subscriber
    Rls,
    /// The change log by itself, and a backlog with and without it
    Log,
    /// Thousands of clients that come back within a second
    Resume,
    /// The rows of a table to one subscriber, beside COPY
    Snapshot,
    /// The first event after kill -9, and after a restart of Postgres; a start beside a full log
    Recovery,
    /// Broadcast to a thousand subscribers; joins; both dialects
    Channels,
    /// Changes to thousands of Supabase's clients, beside Supabase's published figures
    Supabase,
}

impl Bench {
    async fn run(self, stage: &Stage, options: &Options, report: &mut Report) -> Result<()> {
        match self {
            Bench::Latency => latency::run(stage, options, report).await,
            Bench::Drain => drain::run(stage, options, report).await,
            Bench::Memory => memory::run(stage, options, report).await,
            Bench::Fanout => fanout::run(stage, options, report).await,
            Bench::Rls => rls::run(stage, options, report).await,
            Bench::Log => log::run(stage, options, report).await,
            Bench::Resume => resume::run(stage, options, report).await,
            Bench::Snapshot => snapshot::run(stage, options, report).await,
            Bench::Recovery => recovery::run(stage, options, report).await,
            Bench::Channels => channels::run(stage, options, report).await,
            Bench::Supabase => supabase::run(stage, options, report).await,
        }
    }
}

impl Options {
    /// `full`, or `quick` with `--quick`.
    pub(crate) fn size(&self, full: usize, quick: usize) -> usize {
        if self.quick { quick } else { full }
    }

    fn wants(&self, bench: Bench) -> bool {
        self.only.is_empty() || self.only.contains(&bench)
    }

    fn binary(&self) -> Result<PathBuf> {
        let binary = match &self.binary {
            Some(binary) => binary.clone(),
            None => std::env::current_exe()?.with_file_name("walcast"),
        };
        anyhow::ensure!(
            binary.exists(),
            "there is no {}; run `make bench`, or name one with --binary",
            binary.display()
        );
        Ok(binary)
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let options = Options::parse();
    let stage = Stage::new(options.binary()?).await?;
    let mut report = Report::new(process::machine());
    let mut failed = Vec::new();
    for bench in Bench::value_variants() {
        if options.wants(*bench)
            && let Err(error) = bench.run(&stage, &options, &mut report).await
        {
            eprintln!("{bench:?} failed: {error:#}"); // what the others measure is not lost
            failed.push(format!("{bench:?}").to_lowercase());
        }
    }
    if options.json {
        println!("{}", report.json()?);
    } else {
        print!("{}", report.table());
    }
    anyhow::ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    Ok(())
}
