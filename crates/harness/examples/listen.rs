//! Prints what arrives on a channel: `listen ws://127.0.0.1:8080/realtime?token=… table:public.todos`

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use walcast_harness::{Message, Socket};

/// The connection is kept alive by the server's own pings; a day of silence is enough.
const SILENCE: Duration = Duration::from_secs(24 * 60 * 60);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let url = arguments.next().context("usage: listen URL CHANNEL…")?;
    let mut socket = Socket::connect(&url).await?;
    for channel in arguments {
        let subscribe = json!({"type": "subscribe", "channel": channel});
        socket.send_json(&subscribe).await?;
    }
    loop {
        match socket.next(SILENCE).await? {
            Message::Close(frame) => anyhow::bail!("closed by the server: {frame:?}"),
            message => println!("{}", message.to_text()?),
        }
    }
}
