//! The real binary as a process of its own.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};
use tokio::sync::{OnceCell, watch};
use tokio::time::timeout;

use crate::eventually::eventually;
use crate::log_folder::LogFolder;

/// How long the binary may take to listen, to be ready, to end.
const DEADLINE: Duration = Duration::from_secs(90);

/// The log's oldest lines go first when there are more.
const LOG_LINES_MAX: usize = 20_000;

/// A running `walcast serve`. Killed on drop, and when the test process is killed; its log is printed
/// on drop, where the test runner shows it only for a test that failed.
pub struct Walcast {
    child: Child,
    _watchdog: Child,
    address: SocketAddr,
    log: watch::Receiver<Vec<String>>,
    quiet: bool,
    log_folder: Option<LogFolder>,
}

impl Walcast {
    /// Runs `binary serve` on a free port and waits until it listens.
    ///
    /// `settings` are names as in the settings file (`("rls_database_url", "postgres://…")`); they are
    /// passed as `WALCAST_…` variables, and the caller's own such variables are not; `env:NAME` is a
    /// variable of the process as it stands. Without a
    /// `log_dir` it gets a temporary one, which is that of the last server with the same database and
    /// slot, unless that one still runs.
    /// Give `env!("CARGO_BIN_EXE_walcast")` as the binary in a test of the server's crate.
    ///
    /// Errors: the binary ends or doesn't listen in time; its log is in the error.
    pub async fn start(binary: impl AsRef<Path>, settings: &[(&str, &str)]) -> Result<Walcast> {
        let log_folder = match keeps_a_log(binary.as_ref()).await {
            true => LogFolder::of(settings)?,
            false => None,
        };
        let mut command = command(binary.as_ref(), settings);
        if let Some(folder) = &log_folder {
            command.env("WALCAST_LOG_DIR", folder.path());
        }
        let mut child = command
            .arg("serve")
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("running {}", binary.as_ref().display()))?;
        let stderr = child.stderr.take().context("the child's stderr")?;
        let log = collect(stderr);
        let watchdog = watch_over(&child)?;
        let address = listening(log.clone()).await?;
        Ok(Walcast {
            child,
            _watchdog: watchdog,
            address,
            log,
            quiet: false,
            log_folder,
        })
    }

    /// Its log is not printed on drop.
    pub fn quiet(mut self) -> Walcast {
        self.quiet = true;
        self
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        let id = self.child.id().context("it ended before")?;
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        Ok(kib.context("VmRSS")?.parse::<u64>()? * 1024)
    }

    /// Open files and sockets.
    pub fn open_files(&self) -> Result<usize> {
        let id = self.child.id().context("it ended before")?;
        Ok(std::fs::read_dir(format!("/proc/{id}/fd"))?.count())
    }

    /// Its process id, as long as it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Runs another command of the binary (`migrate`, `check-config`) to its end: status, stdout, stderr.
    pub async fn run(
        binary: impl AsRef<Path>,
        settings: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<(ExitStatus, String, String)> {
        let output = command(binary.as_ref(), settings).args(arguments).output();
        let output = timeout(DEADLINE, output)
            .await
            .context("the command doesn't end")??;
        Ok((
            output.status,
            String::from_utf8_lossy(&output.stdout).into_owned(),
            String::from_utf8_lossy(&output.stderr).into_owned(),
        ))
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// `ws://address/path`, for example of `/realtime?token=…`.
    pub fn websocket(&self, path: &str) -> String {
        format!("ws://{}{path}", self.address)
    }

    /// Waits until `/ready` answers 200.
    pub async fn ready(&self) -> Result<()> {
        let ready = eventually(DEADLINE, async || {
            let (status, _) = self.get("/ready").await.ok()?;
            (status == 200).then_some(())
        });
        ready
            .await
            .with_context(|| format!("/ready; the log:\n{}", self.log()))
    }

    /// An HTTP GET: status and body (up to 16 MiB).
    pub async fn get(&self, path: &str) -> Result<(u16, String)> {
        timeout(DEADLINE, get(self.address, path))
            .await
            .with_context(|| format!("GET {path}"))?
    }

    /// Waits for a log line (also one that is already there) and returns it.
    pub async fn logged(
        &self,
        wanted: impl Fn(&str) -> bool,
        deadline: Duration,
    ) -> Result<String> {
        let mut log = self.log.clone();
        let find = |lines: &Vec<String>| lines.iter().any(|line| wanted(line));
        let lines = timeout(deadline, log.wait_for(find))
            .await
            .with_context(|| format!("no such line in the log:\n{}", self.log()))??;
        let line = lines.iter().find(|line| wanted(line));
        Ok(line.context("the line is there")?.clone())
    }

    /// Everything it wrote to stderr.
    pub fn log(&self) -> String {
        self.log.borrow().join("\n")
    }

    /// `kill -9`, and waits for the end.
    pub async fn kill9(&mut self) -> Result<()> {
        self.child.kill().await?;
        self.log_folder = None; // free for the next one
        Ok(())
    }

    /// SIGTERM, and waits for the graceful end.
    pub async fn terminate(&mut self) -> Result<ExitStatus> {
        self.signal("TERM").await?;
        let ended = timeout(DEADLINE, self.child.wait()).await;
        let ended =
            ended.with_context(|| format!("still running after SIGTERM:\n{}", self.log()))?;
        self.log_folder = None; // free for the next one
        Ok(ended?)
    }

    /// Sends a signal by its name (`STOP`, `CONT`, `HUP`).
    pub async fn signal(&self, name: &str) -> Result<()> {
        let id = self.child.id().context("it ended before")?;
        let status = Command::new("kill")
            .args(["-s", name, &id.to_string()])
            .status()
            .await?;
        anyhow::ensure!(status.success(), "kill -s {name} failed");
        Ok(())
    }
}

impl Drop for Walcast {
    fn drop(&mut self) {
        if !self.quiet {
            eprintln!("walcast's log:\n{}", self.log());
        }
    }
}

/// Whether the binary has the setting `log_dir`.
async fn keeps_a_log(binary: &Path) -> bool {
    static KEEPS: OnceCell<bool> = OnceCell::const_new();
    let ask = async || {
        let help = Command::new(binary).args(["serve", "--help"]).output();
        help.await
            .is_ok_and(|help| String::from_utf8_lossy(&help.stdout).contains("log-dir"))
    };
    *KEEPS.get_or_init(ask).await
}

fn command(binary: &Path, settings: &[(&str, &str)]) -> Command {
    let mut command = Command::new(binary);
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("WALCAST_") || text == "DATABASE_URL" {
            command.env_remove(&name);
        }
    }
    command
        .env("NO_COLOR", "1")
        .env("WALCAST_LISTEN", "127.0.0.1:0")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    for (name, value) in settings {
        match name.strip_prefix("env:") {
            Some(variable) => command.env(variable, value),
            None => command.env(format!("WALCAST_{}", name.to_uppercase()), value),
        };
    }
    command
}

/// Reads the log to its end; the sender is dropped then, which those who wait notice.
fn collect(stderr: impl AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Vec<String>> {
    let (sender, receiver) = watch::channel(Vec::new());
    tokio::spawn(async move {
        let mut lines = BufReader::new(stderr).lines();
        while let Ok(Some(line)) = lines.next_line().await {
            sender.send_modify(|log| {
                if log.len() == LOG_LINES_MAX {
                    log.drain(..LOG_LINES_MAX / 2);
                }
                log.push(line);
            });
        }
    });
    receiver
}

/// The address in the log's line `listening address=127.0.0.1:1234`.
async fn listening(mut log: watch::Receiver<Vec<String>>) -> Result<SocketAddr> {
    let find = |lines: &Vec<String>| lines.iter().any(|line| address(line).is_some());
    let _ = timeout(DEADLINE, log.wait_for(find)).await; // if it isn't found, the log tells why
    let lines = log.borrow();
    lines
        .iter()
        .find_map(|line| address(line))
        .with_context(|| format!("walcast doesn't listen; its log:\n{}", lines.join("\n")))
}

fn address(line: &str) -> Option<SocketAddr> {
    let rest = line.split_once("listening")?.1.split_once("address=")?.1;
    rest.split_whitespace().next()?.parse().ok()
}

/// Kills the child when this process is killed (its end of the pipe closes). On an orderly end the
/// watchdog is killed first and does nothing.
fn watch_over(child: &Child) -> Result<Child> {
    let id = child.id().context("the child's id")?;
    let mut watchdog = Command::new("sh");
    watchdog
        .args([
            "-c",
            r#"trap '' INT TERM HUP; read -r _; kill -9 "$1""#,
            "walcast-harness-watchdog",
        ])
        .arg(id.to_string())
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    watchdog.spawn().context("starting the watchdog")
}

async fn get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    const BODY_BYTES_MAX: u64 = 16 << 20;
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.0\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut bytes = Vec::new();
    stream.take(BODY_BYTES_MAX).read_to_end(&mut bytes).await?;
    let text = String::from_utf8_lossy(&bytes);
    let (head, body) = text.split_once("\r\n\r\n").context("an HTTP response")?;
    let status = head.split_whitespace().nth(1).context("a status")?;
    Ok((status.parse()?, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::address;

    #[test]
    fn the_address_is_read_from_the_log() {
        let cases = [
            (
                "2026-01-01T00:00:00Z  INFO walcast: listening address=127.0.0.1:4711",
                Some("127.0.0.1:4711"),
            ),
            (
                "INFO listening address=[::1]:80 tls=false",
                Some("[::1]:80"),
            ),
            ("INFO connecting address=127.0.0.1:1", None),
            ("INFO listening address=", None),
        ];
        for (line, expected) in cases {
            let expected = expected.map(|text| text.parse().expect("a table's address"));
            assert_eq!(address(line), expected, "{line}");
        }
    }
}
