//! The proof that every way to judge gives the verdict of a direct SELECT as the viewer.
//!
//! `policies` makes up tables, rows, policies, roles and claims from a seed, and compares. A short
//! round runs with the other tests; `make prove` runs a long one. A failure names its seed:
//! `WALCAST_PROVE_SEED=7 WALCAST_PROVE_VERDICTS=1` repeats that round alone.
//! `traps` has by hand what a generator would not come upon.

mod crowd;
mod grammar;
mod kind;
mod oracle;
mod random;
#[allow(dead_code, reason = "the other binary's tests use all of it")]
#[path = "../postgres/rig.rs"]
mod rig;
mod round;
mod trap;
mod traps;
mod world;

use std::time::Instant;

use anyhow::{Context, Result};

use crate::round::{Figures, Round};

/// Enough for a change to be noticed, quick enough for every day.
const VERDICTS: usize = 10_000;

#[tokio::test(flavor = "multi_thread")]
async fn policies() -> Result<()> {
    let first = setting("WALCAST_PROVE_SEED", 1)?;
    let verdicts = setting("WALCAST_PROVE_VERDICTS", VERDICTS as u64)? as usize;
    println!("seed {first}, at least {verdicts} verdicts");
    let (started, mut figures, mut seed) = (Instant::now(), Figures::default(), first);
    while figures.verdicts < verdicts && figures.wrong.len() < 20 {
        Round::run(seed, &mut figures).await?;
        seed += 1;
    }
    figures.print(first, seed - 1, started.elapsed());
    for wrong in figures.wrong.values() {
        println!("{wrong}");
    }
    assert_eq!(figures.mismatches, 0);
    assert!(
        figures.visible > figures.verdicts / 10 && figures.visible < figures.verdicts * 9 / 10,
        "says too little"
    );
    for (way, verdicts) in figures.ways() {
        // by key: only what was not sent, which the traps have
        assert!(verdicts > 0 || way == "key", "nothing was judged by {way}");
    }
    assert!(
        figures.given_up * 100 <= figures.verdicts,
        "too many were given up"
    );
    Ok(())
}

fn setting(name: &str, default: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text
            .parse()
            .with_context(|| format!("{name} is no number: {text}")),
        Err(_) => Ok(default),
    }
}
