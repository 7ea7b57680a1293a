//! However a connection ends, nothing is left of its subscriptions, and nothing is judged for it any more.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::{Message, Socket, eventually};

use crate::stage::{ALICE, DEADLINE, Stage, subscribe, token};
use crate::tokens::shorten;

/// How a client with subscriptions goes, or is made to go.
#[derive(Clone, Copy, Debug)]
enum Ending {
    SaysGoodbye,
    Vanishes,
    BreaksTheProtocol,
    Expires,
    ReadsNothing,
}

#[tokio::test]
async fn nothing_is_left_and_nothing_is_judged() -> Result<()> {
    let settings = [
        ("jwt_leeway", "1ms"),
        ("outbox_bytes_max", "64KiB"),
        ("write_timeout", "1s"),
    ];
    let stage = Stage::new(&settings).await?;
    for (id, ending) in (0..).zip([
        Ending::SaysGoodbye,
        Ending::Vanishes,
        Ending::BreaksTheProtocol,
        Ending::Expires,
        Ending::ReadsNothing,
    ]) {
        let token = token(ALICE, "authenticated", 3600);
        let address = format!("/realtime?token={token}");
        let mut socket = Socket::connect_narrow(&stage.walcast.websocket(&address)).await?;
        for fields in [
            json!({ "channel": "table:todos" }),
            json!({ "channel": "table:notes" }),
            json!({ "channel": "table:notes", "filter": "id=gt.0", "snapshot": true }),
        ] {
            socket.send_json(&request(fields)?).await?;
        }
        let is_complete = |message: &Value| message["event"] == "snapshot_complete";
        socket.expect(is_complete, DEADLINE).await?;
        eventually(DEADLINE, async || {
            (counted(&stage, "subscriptions").await == Some(3)).then_some(())
        })
        .await
        .with_context(|| format!("{ending:?}: three are live"))?;
        let judged = judged_by_a_change(&stage, 2 * id).await?;
        assert!(judged > 0, "{ending:?}: it is judged while it is there");
        let unread = ending.come_to_pass(&stage, socket).await?;
        eventually(DEADLINE, async || {
            let left =
                counted(&stage, "subscriptions").await? + counted(&stage, "connections").await?;
            (left == 0).then_some(())
        })
        .await
        .with_context(|| format!("{ending:?}: it is gone"))?;
        drop(unread);
        let judged = judged_by_a_change(&stage, 2 * id + 1).await?;
        assert_eq!(judged, 0, "{ending:?}");
    }
    Ok(())
}

fn request(mut fields: Value) -> Result<Value> {
    let fields_of = fields.as_object_mut().context("an object")?;
    fields_of.insert("type".into(), "subscribe".into());
    Ok(fields)
}

impl Ending {
    /// Returns the socket if the server is to end it.
    async fn come_to_pass(self, stage: &Stage, mut socket: Socket) -> Result<Option<Socket>> {
        match self {
            Ending::SaysGoodbye => socket.close().await?,
            Ending::Vanishes => drop(socket),
            Ending::BreaksTheProtocol => {
                socket
                    .send(Message::Binary(vec![0; 200 << 10].into()))
                    .await?;
                drop(socket);
            }
            Ending::Expires => {
                shorten(&mut socket).await?;
                socket.closed(DEADLINE).await?;
            }
            Ending::ReadsNothing => {
                let rows = "insert into notes select n, repeat('x', 1000) from generate_series(1000, 30000) n";
                stage.execute(rows).await?;
                return Ok(Some(socket));
            }
        }
        Ok(None)
    }
}

/// How many verdicts a change of either table took, once its transaction has been published.
async fn judged_by_a_change(stage: &Stage, id: i32) -> Result<i64> {
    let before = verdicts(stage).await?;
    let transactions = counted(stage, "transactions_total")
        .await
        .context("a count")?;
    stage
        .execute(&format!(
            "insert into todos values ({id}, '{ALICE}', 'b', 's'); insert into notes values ({id}, 'x')"
        ))
        .await?;
    eventually(DEADLINE, async || {
        (counted(stage, "transactions_total").await? > transactions).then_some(())
    })
    .await?;
    // It is counted when it is taken; orders are carried out when its batch is published.
    let mut behind = stage.connect(ALICE).await?;
    subscribe(
        &mut behind,
        json!({ "channel": "table:todos", "filter": "id=lt.0" }),
    )
    .await?;
    behind.close().await?;
    Ok(verdicts(stage).await? - before)
}

async fn verdicts(stage: &Stage) -> Result<i64> {
    let (_, metrics) = stage.walcast.get("/metrics").await?;
    let lines = metrics
        .lines()
        .filter(|line| line.starts_with("walcast_rls_verdicts_total"));
    lines.map(value_of).sum::<Option<i64>>().context("numbers")
}

async fn counted(stage: &Stage, name: &str) -> Option<i64> {
    let (_, metrics) = stage.walcast.get("/metrics").await.ok()?;
    let name = format!("walcast_{name} ");
    value_of(metrics.lines().find(|line| line.starts_with(&name))?)
}

fn value_of(line: &str) -> Option<i64> {
    line.rsplit(' ').next()?.parse().ok()
}
