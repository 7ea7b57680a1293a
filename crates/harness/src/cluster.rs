//! A Postgres cluster on disk: its programs, its folder, its port; started and stopped synchronously.

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
    pub(crate) fn create(settings: &[(String, String)]) -> Result<Cluster> {
        let programs = find_programs()?;
        let account = Account::find()?;
        let folder = make_folder(&account)?;
        let watchdog = watch(&programs, &account, &folder)?;
        let mut cluster = Cluster {
            programs,
            account,
            folder,
            port: 0,
            watchdog,
        };
        cluster.initialise(settings)?;
        cluster.start_on_free_port()?;
        Ok(cluster)
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
            "60".as_ref(),
            "-l".as_ref(),
            log.as_ref(),
            "-o".as_ref(),
            options.as_ref(),
        ];
        self.control(&arguments)
            .with_context(|| format!("postgres did not start; its log:\n{}", self.log()))
    }

    pub(crate) fn stop(&self, mode: StopMode) -> Result<()> {
        self.control(&["stop", "-w", "-t", "60", "-m", mode.name()])
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
        let file = self.folder.join("data/postgresql.auto.conf");
        let mut text = std::fs::read_to_string(&file)?;
        let sockets = self.folder.display().to_string();
        let fixed = [("unix_socket_directories", sockets.as_str())];
        for (name, value) in fixed.iter().chain(DEFAULTS) {
            text.push_str(&setting(name, value));
        }
        for (name, value) in settings {
            text.push_str(&setting(name, value)); // the last one of a name wins
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
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("max_connections", "200"),
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

/// The newest installation under Debian's folder, else the one on the PATH.
fn find_programs() -> Result<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten();
    let debian = versions
        .filter_map(|entry| {
            let version: u32 = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .filter(|(_, bin)| bin.join("initdb").exists())
        .max_by_key(|(version, _)| *version)
        .map(|(_, bin)| bin);
    let path = std::env::var_os("PATH").unwrap_or_default();
    debian
        .or_else(|| std::env::split_paths(&path).find(|bin| bin.join("initdb").exists()))
        .context(
            "no PostgreSQL server found; install it (Debian: apt-get install postgresql), or run make test",
        )
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

/// A free port below the ephemeral range, where no outgoing connection can take it meanwhile.
pub fn free_port() -> Result<u16> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    for _ in 0..1000 {
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let spread = std::process::id()
            .wrapping_mul(97)
            .wrapping_add(count.wrapping_mul(13));
        let port = 15_000 + u16::try_from(spread % 17_000)?;
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between 15000 and 32000")
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
