//! The clock on the wall jumps; time that passes is another matter.

use std::path::PathBuf;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use serde_json::json;
use tokio::time::sleep;
use walcast_harness::{Role, Socket, Subscriber, user};

use crate::report::by_form;
use crate::stage::{DEADLINE, DURABLE, PATIENT, SECRET, Stage, usual};

const HOUR: u64 = 60 * 60;

/// An hour ahead, an hour behind, right again: tokens end by the clock, and nothing else does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a13_the_clock_jumps() -> Result<()> {
    let Some(library) = library() else {
        eprintln!("A13 needs libfaketime (Debian: apt-get install libfaketime)");
        return Ok(());
    };
    let clock = Clock::new()?;
    let mut stage = Stage::unstarted("A13 clock jumps", DURABLE, PATIENT).await?;
    let (library, file) = (
        library.display().to_string(),
        clock.file.display().to_string(),
    );
    for (name, value) in [
        ("env:LD_PRELOAD", library.as_str()),
        ("env:FAKETIME_TIMESTAMP_FILE", &file),
        ("env:FAKETIME_NO_CACHE", "1"),
        ("env:FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("env:NO_FAKE_STAT", "1"),
    ] {
        stage.set(name, value);
    }
    stage.start().await?;
    stage.server().ready().await?;
    stage.witness.renew(&stage.sql).await?;
    stage.record(12).await?;
    let load = stage.load(usual(300)).await?;
    let mut short = stage.with_token_for(HOUR / 2).await?;
    let mut returning = stage.socket(Subscriber::new(Role::Anon, 2)).await?;
    sleep(Duration::from_secs(1)).await;
    let position = stage.position(&mut returning).await?;
    drop(returning);

    clock.set("+1h")?;
    let (code, reason) = short.closed(DEADLINE).await.context("ended by the clock")?;
    stage.figures.notes.push(format!("{code} {reason}"));
    assert_eq!(code, 4001, "{reason}");
    assert!(stage.with_token_for(HOUR / 2).await.is_err(), "it is over");
    stage.goes_on("an hour ahead").await?;
    // What a client missed is kept for ten minutes, and these have not passed.
    stage.comes_back(&position).await.context("an hour ahead")?;

    clock.set("-1h")?;
    let mut valid = stage.with_token_for(HOUR / 2).await?;
    stage.goes_on("an hour behind").await?;
    stage
        .comes_back(&position)
        .await
        .context("an hour behind")?;

    clock.set("+0")?;
    stage.goes_on("right again").await?;
    valid.send_json(&json!({ "type": "ping" })).await?;
    valid
        .expect(|message| message["type"] == "pong", DEADLINE)
        .await?;
    stage.figures.faults += 3;
    let book = load.finish().await?;
    let connections = stage.acknowledged();
    stage.judge(book).await?;
    assert!(
        connections.iter().all(|count| *count == 1),
        "nobody else was cut: {connections:?}"
    );
    Ok(())
}

impl Stage {
    /// Everybody still gets events, and the server says that all is well.
    async fn goes_on(&mut self, when: &str) -> Result<()> {
        for _ in 0..by_form(3, 15) {
            sleep(Duration::from_secs(1)).await;
            let (status, body) = self.server().get("/ready").await?;
            anyhow::ensure!(status == 200, "{when}: {body}");
        }
        self.quiet().await.with_context(|| when.to_owned())
    }

    /// A connection whose token ends after so many seconds, subscribed.
    async fn with_token_for(&self, seconds: u64) -> Result<Socket> {
        let end = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs() + seconds;
        let claims = json!({ "sub": user(1), "role": "authenticated", "exp": end });
        let token = walcast_auth::sign_hs256(SECRET, &claims.to_string())?;
        let address = format!("ws://{}/realtime?token={token}", self.address);
        let mut socket = Socket::connect(&address).await?;
        let ask = json!({ "type": "subscribe", "channel": "table:ledger" });
        socket.send_json(&ask).await?;
        let answer = socket.next_json(DEADLINE).await?;
        anyhow::ensure!(answer["type"] == "ack", "{answer}");
        Ok(socket)
    }

    async fn position(&self, client: &mut crate::rights::Client) -> Result<String> {
        let is = |message: &serde_json::Value| message["payload"]["cursor"].is_string();
        let event = client.socket.expect(is, DEADLINE).await?;
        let position = event["payload"]["cursor"].as_str();
        Ok(position.context("a position")?.to_owned())
    }

    /// Whoever has that position goes on from there.
    async fn comes_back(&self, since: &str) -> Result<()> {
        let token = Subscriber::new(Role::Anon, 2).token(SECRET)?;
        let address = format!("ws://{}/realtime?token={token}", self.address);
        let mut socket = Socket::connect(&address).await?;
        let ask = json!({ "type": "subscribe", "channel": "table:ledger", "since": since });
        socket.send_json(&ask).await?;
        let answer = socket.next_json(DEADLINE).await?;
        anyhow::ensure!(answer["recovered"] == true, "{answer}");
        Ok(())
    }
}

/// What the server takes for the time: a file says by how much it is wrong.
struct Clock {
    file: PathBuf,
}

impl Clock {
    fn new() -> Result<Clock> {
        let name = format!("walcast-clock-{}", std::process::id());
        let clock = Clock {
            file: std::env::temp_dir().join(name),
        };
        clock.set("+0")?;
        Ok(clock)
    }

    /// Read at each look, so never half written.
    fn set(&self, offset: &str) -> Result<()> {
        let new = self.file.with_extension("new");
        std::fs::write(&new, offset)?;
        Ok(std::fs::rename(&new, &self.file)?)
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.file);
    }
}

fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    let mut found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    found.find(|library| library.exists())
}
