//! A Postgres cluster on disk: its programs, its folder, its port; started and stopped synchronously.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};

use crate::account::Account;

/// How a running Postgres is stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopMode {
    /// Sessions are ended, a checkpoint is written: what an operator's restart does.
    Fast,
    /// As after a power cut: the next start recovers from the WAL.
    Immediate,
}

impl StopMode {
    fn name(self) -> &'static str {
        match self {
            StopMode::Fast => "fast",
            StopMode::Immediate => "immediate",
        }
    }
}

/// How long a start, a stop or a promotion may take, in seconds. After a crash Postgres first flushes every
/// file that it has, about a thousand.
const PATIENCE_S: &str = "300";

/// Tries to get a port, before giving up: other test processes look for one at the same time.
const PORT_TRIES: u32 = 20;

/// One initialised cluster. Dropping it stops Postgres at once and removes the folder.
pub(crate) struct Cluster {
    programs: PathBuf,
    account: Account,
    folder: PathBuf,
    port: u16,
    watchdog: Child,
}

impl Cluster {
    /// `initdb`, settings, first start.
    pub(crate) fn create(programs: PathBuf, settings: &[(String, String)]) -> Result<Cluster> {
        let mut cluster = Cluster::place(programs)?;
        cluster.initialise(settings)?;
        cluster.start_on_free_port()?;
        Ok(cluster)
    }

    /// A standby made of another cluster's data, started; the other one must not run, and is
    /// followed by what `settings` say (`primary_conninfo`). It has none of the other's slots.
    pub(crate) fn standby_of(other: &Cluster, settings: &[(String, String)]) -> Result<Cluster> {
        let mut cluster = Cluster::place(other.programs.clone())?;
        let mut copy = cluster.program_of_the_system("cp");
        copy.arg("-a")
            .arg(other.folder.join("data"))
            .arg(cluster.folder.join("data"));
        run(copy).context("copying the data")?;
        let mut clear = cluster.program_of_the_system("sh");
        clear.args([
            "-c",
            "rm -rf data/pg_replslot/* && touch data/standby.signal",
        ]);
        run(clear).context("making it a standby")?;
        cluster.configure(settings)?;
        cluster.start_on_free_port()?;
        Ok(cluster)
    }

    /// A folder of its own with nothing in it yet.
    fn place(programs: PathBuf) -> Result<Cluster> {
        let account = Account::find()?;
        let folder = make_folder(&account)?;
        let watchdog = watch(&programs, &account, &folder)?;
        Ok(Cluster {
            programs,
            account,
            folder,
            port: 0,
            watchdog,
        })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// Holds the data folder (`data`), the log (`log`) and the Unix socket.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Where `postgres`, `initdb` and the others are.
    pub(crate) fn programs(&self) -> &Path {
        &self.programs
    }

    pub(crate) fn log(&self) -> String {
        let bytes = std::fs::read(self.folder.join("log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Starts on the port it had; waits until connections are accepted.
    pub(crate) fn start(&self) -> Result<()> {
        let options = format!("-p {}", self.port);
        let log = self.folder.join("log");
        let arguments: [&OsStr; 8] = [
            "start".as_ref(),
            "-w".as_ref(),
            "-t".as_ref(),
            PATIENCE_S.as_ref(),
            "-l".as_ref(),
            log.as_ref(),
            "-o".as_ref(),
            options.as_ref(),
        ];
        self.control(&arguments)
            .with_context(|| format!("postgres did not start; its log:\n{}", self.log()))
    }

    pub(crate) fn stop(&self, mode: StopMode) -> Result<()> {
        self.control(&["stop", "-w", "-t", PATIENCE_S, "-m", mode.name()])
    }

    /// Ends the recovery of a standby; waits until it takes writes.
    pub(crate) fn promote(&self) -> Result<()> {
        self.control(&["promote", "-w", "-t", PATIENCE_S])
    }

    /// Copies the data folder aside, under a name; the server must not run.
    pub(crate) fn save(&self, name: &str) -> Result<()> {
        self.copy("data", &format!("data.{name}"))
    }

    /// Puts a copy in the data folder's place; the server must not run.
    pub(crate) fn restore(&self, name: &str) -> Result<()> {
        self.copy(&format!("data.{name}"), "data")
    }

    fn copy(&self, from: &str, to: &str) -> Result<()> {
        let _ = std::fs::remove_dir_all(self.folder.join(to));
        let mut copy = self.program_of_the_system("cp");
        copy.arg("-a")
            .arg(self.folder.join(from))
            .arg(self.folder.join(to));
        run(copy).with_context(|| format!("copying {from} to {to}"))
    }

    fn initialise(&self, settings: &[(String, String)]) -> Result<()> {
        let mut initdb = self.program("initdb");
        initdb
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8"])
            .args(["--locale=C", "--no-sync", "--no-instructions", "-D"])
            .arg(self.folder.join("data"));
        run(initdb).context("initdb")?;
        let defaults = DEFAULTS
            .iter()
            .map(|&(name, value)| (name.into(), value.into()));
        let all: Vec<_> = defaults.chain(settings.iter().cloned()).collect();
        self.configure(&all)
    }

    /// Adds settings; the last one of a name wins.
    fn configure(&self, settings: &[(String, String)]) -> Result<()> {
        let file = self.folder.join("data/postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&file)?;
        let sockets = self.folder.display().to_string();
        text.push_str(&setting("unix_socket_directories", &sockets));
        for (name, value) in settings {
            text.push_str(&setting(name, value));
        }
        std::fs::write(&file, text).with_context(|| format!("writing {}", file.display()))
    }

    fn start_on_free_port(&mut self) -> Result<()> {
        for attempt in 1.. {
            self.port = free_port()?;
            match self.start() {
                Ok(()) => return Ok(()),
                Err(_) if attempt < PORT_TRIES && self.lost_the_port() => {
                    std::fs::remove_file(self.folder.join("log"))?;
                }
                Err(error) => return Err(error),
            }
        }
        unreachable!("the last attempt returns")
    }

    fn lost_the_port(&self) -> bool {
        self.log().contains("Address already in use")
    }

    fn control(&self, arguments: &[impl AsRef<OsStr>]) -> Result<()> {
        let mut command = self.program("pg_ctl");
        command
            .args(arguments)
            .arg("-D")
            .arg(self.folder.join("data"));
        run(command)
    }

    fn program_of_the_system(&self, name: &str) -> Command {
        self.account.command(Path::new(name), &self.folder)
    }

    fn program(&self, name: &str) -> Command {
        self.account
            .command(&self.programs.join(name), &self.folder)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // Closing its pipe makes the watchdog do the same thing as when we are killed: one way to end.
        drop(self.watchdog.stdin.take());
        let _ = self.watchdog.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// What every cluster is started with; the tests' answer to "which Postgres do you mean?".
const DEFAULTS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    // One cluster serves all tests of a process, many of which leave a slot behind, and as many of them
    // run at a time as the machine has cores.
    ("max_wal_senders", "100"),
    ("max_replication_slots", "100"),
    ("max_connections", "1000"),
    ("shared_buffers", "64MB"),
    ("synchronous_commit", "on"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("timezone", "UTC"),
];

fn setting(name: &str, value: &str) -> String {
    format!("{name} = '{}'\n", value.replace('\'', "''"))
}

/// Stops Postgres and removes its folder once our end of its pipe is closed, that is also when this
/// process is killed or ends without dropping (statics). In a process group of its own, so that Ctrl-C
/// in a terminal doesn't reach it.
fn watch(programs: &Path, account: &Account, folder: &Path) -> Result<Child> {
    const SCRIPT: &str = r#"trap '' INT TERM HUP; read -r _; "$1" stop -m immediate -D "$2/data" >/dev/null 2>&1; cd /; rm -rf "$2""#;
    account
        .command(Path::new("sh"), folder)
        .args(["-c", SCRIPT, "walcast-harness-watchdog"])
        .arg(programs.join("pg_ctl"))
        .arg(folder)
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context("starting the watchdog")
}

/// The folder that `WALCAST_POSTGRES` names; else the newest installation under Debian's folder, else
/// the one on the PATH.
pub(crate) fn find_programs() -> Result<PathBuf> {
    if let Some(named) = std::env::var_os("WALCAST_POSTGRES") {
        let named = PathBuf::from(named);
        anyhow::ensure!(
            named.join("initdb").exists(),
            "WALCAST_POSTGRES is not the folder of a PostgreSQL's programs: {}",
            named.display()
        );
        return Ok(named);
    }
    let debian = installed().into_iter().next_back().map(|(_, bin)| bin);
    debian.or_else(on_the_path).context(
        "no PostgreSQL server found; install it (Debian: apt-get install postgresql), or run make test",
    )
}

/// The installation of one major version: Debian's, or the folder that `WALCAST_POSTGRES_17` names.
pub(crate) fn find_major(major: u32) -> Option<PathBuf> {
    let named = std::env::var_os(format!("WALCAST_POSTGRES_{major}")).map(PathBuf::from);
    named
        .filter(|bin| bin.join("initdb").exists())
        .or_else(|| installed().remove(&major))
}

/// Another program of PostgreSQL, where the server's own installation has none but the server's.
pub(crate) fn find_client(name: &str) -> Option<PathBuf> {
    let folders = installed().into_values().rev().chain(on_the_path());
    let mut programs = folders.map(|bin| bin.join(name));
    programs.find(|program| program.exists())
}

/// Debian's installations, by their major versions.
fn installed() -> BTreeMap<u32, PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let bins = versions.filter_map(|entry| {
        let version: u32 = entry.file_name().to_str()?.parse().ok()?;
        Some((version, entry.path().join("bin")))
    });
    bins.filter(|(_, bin)| bin.join("initdb").exists())
        .collect()
}

fn on_the_path() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).find(|bin| bin.join("initdb").exists())
}

fn make_folder(account: &Account) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let mut parent = std::env::temp_dir();
    if parent.as_os_str().len() > 60 {
        parent = PathBuf::from("/tmp"); // a Unix socket's path has at most 107 bytes
    }
    let folder = parent.join(format!("walcast-{}-{number}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder); // of a process that had our id before a reboot
    std::fs::create_dir(&folder).with_context(|| format!("creating {}", folder.display()))?;
    account.own(&folder)?;
    Ok(folder)
}

/// A free port outside of the ephemeral range, where no outgoing connection can take it meanwhile.
pub fn free_port() -> Result<u16> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range");
    let (first, end) = lasting_ports(&range.unwrap_or_default());
    for _ in 0..1000 {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id()
            .wrapping_mul(97)
            .wrapping_add(count.wrapping_mul(13));
        let port = u16::try_from(first + spread % (end - first))?;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {first} and {end}")
}

/// The first port that is not ephemeral, and the one behind the last. `range` is what Linux says: the first
/// and the last ephemeral one.
fn lasting_ports(range: &str) -> (u32, u32) {
    const USUAL: (u32, u32) = (15_000, 32_000);
    let mut ends = range.split_whitespace().map(str::parse);
    match (ends.next(), ends.next()) {
        (Some(Ok(first)), _) if first >= USUAL.1 => USUAL,
        (Some(Ok(first)), _) if (12_000..).contains(&first) => (10_000, first),
        (_, Some(Ok(last))) if (20_000..64_000).contains(&last) => (last + 1, 65_000),
        _ => USUAL,
    }
}

fn run(mut command: Command) -> Result<()> {
    // Output goes to a file-less sink unless it failed: pg_ctl's child would keep a pipe open for ever.
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .status()
        .with_context(|| format!("running {name}"))?;
    anyhow::ensure!(status.success(), "{name} failed: {status}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::lasting_ports;

    #[test]
    fn ports_that_no_outgoing_connection_takes() {
        for (range, expected) in [
            ("32768\t60999\n", (15_000, 32_000)),
            ("16000 65535", (10_000, 16_000)),
            ("1024 60999", (61_000, 65_000)),
            // Every port may be taken: as good as any.
            ("1024 65535", (15_000, 32_000)),
            ("", (15_000, 32_000)),
        ] {
            assert_eq!(lasting_ports(range), expected, "{range}");
        }
    }
}
