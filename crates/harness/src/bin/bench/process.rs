//! What the kernel says of a process and of the machine.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::{Instant, sleep};

/// `/proc/<id>/stat` counts in these; 100 on every Linux that we know.
const TICKS_PER_SECOND: f64 = 100.0;

/// Resident memory in bytes.
pub(crate) fn resident_bytes(id: u32) -> Result<f64> {
    status_bytes(id, "VmRSS:")
}

/// The most that was ever resident, in bytes.
pub(crate) fn resident_peak_bytes(id: u32) -> Result<f64> {
    status_bytes(id, "VmHWM:")
}

fn status_bytes(id: u32, name: &str) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|rest| rest.split_whitespace().next());
    let kib: f64 = kib.with_context(|| format!("{name} of {id}"))?.parse()?;
    Ok(kib * 1024.0)
}

/// Waits until the resident memory has stood still for a second (at most ten), and returns it.
pub(crate) async fn settled_bytes(id: u32) -> Result<f64> {
    let end = Instant::now() + Duration::from_secs(10);
    let mut last = resident_bytes(id)?;
    loop {
        sleep(Duration::from_secs(1)).await;
        let now = resident_bytes(id)?;
        if now == last || Instant::now() > end {
            return Ok(now);
        }
        last = now;
    }
}

/// User and system time that the process has used.
pub(crate) fn cpu_seconds(id: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold anything; after it come state (field 3) and numbers.
    let (_, rest) = stat.rsplit_once(") ").context("a name in parentheses")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || -> Result<f64> { Ok(fields.next().context("utime and stime")?.parse()?) };
    Ok((next()? + next()?) / TICKS_PER_SECOND)
}

/// How many files this process, and so its children, may have open.
pub(crate) fn files_max() -> Result<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits")?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let soft = line.and_then(|rest| rest.split_whitespace().next());
    Ok(soft
        .context("Max open files")?
        .parse()
        .unwrap_or(usize::MAX))
}

/// One line about the machine.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let load = read("/proc/loadavg");
    let load = load
        .split_whitespace()
        .next()
        .unwrap_or("unknown")
        .to_owned();
    let info = read("/proc/cpuinfo");
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model
        .map_or("unknown processor", |(_, model)| model)
        .to_owned();
    format!("{cores} cores, {model}; load average when it began: {load}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_memory_time_and_files() -> Result<()> {
        let id = std::process::id();
        assert!(resident_bytes(id)? > 100_000.0);
        assert!(resident_peak_bytes(id)? > 100_000.0);
        assert!(cpu_seconds(id)? >= 0.0);
        assert!(files_max()? > 10);
        Ok(())
    }
}
