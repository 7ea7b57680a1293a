//! What SQL sends to channels.

use anyhow::Result;
use serde_json::json;

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, subscribe};

fn room(name: &str) -> serde_json::Value {
    json!({ "type": "subscribe", "channel": format!("broadcast:{name}"), "config": {} })
}

#[tokio::test]
async fn what_sql_sends_comes_in_the_order_of_commits() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    let mut other = stage.connect(BOB).await?;
    assert_eq!(
        ask(&mut socket, room("news")).await?["status"],
        "subscribed"
    );
    assert_eq!(
        ask(&mut other, room("sports")).await?["status"],
        "subscribed"
    );
    stage
        .execute(
            "begin;
             select realtime.send(jsonb_build_object('n', n), 'tick', 'news', false) from generate_series(1, 5) n;
             commit;
             begin; select realtime.send('{\"n\":0}', 'tick', 'news', false); rollback;
             select realtime.send('{\"n\":-1}', 'tick', 'news', true);
             select realtime.send('{\"n\":6}', 'tock', 'news', false);
             select realtime.send('{\"n\":7}', 'tock', 'sports', false)",
        )
        .await?;
    for (n, event) in (1..=6).map(|n| (n, if n == 6 { "tock" } else { "tick" })) {
        let message = socket.next_json(DEADLINE).await?;
        assert_eq!(message["type"], "broadcast", "{message}");
        assert_eq!(message["channel"], "broadcast:news", "{message}");
        assert_eq!(message["event"], event, "{message}");
        assert_eq!(message["payload"]["n"], n, "{message}");
    }
    let message = other.next_json(DEADLINE).await?;
    assert_eq!(message["payload"]["n"], 7, "{message}");
    Ok(())
}

#[tokio::test]
async fn a_trigger_tells_a_channel_of_a_tables_changes() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(
            "create function tell() returns trigger language plpgsql as $$
             begin
                 perform realtime.broadcast_changes('all', tg_op, tg_op, tg_table_name, tg_table_schema, new, old);
                 return null;
             end $$;
             create trigger tell after insert or update or delete on hidden for each row execute function tell()",
        )
        .await?;
    let mut socket = stage.connect(ALICE).await?;
    // Private, as theirs are: only those whom a policy lets in.
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    stage
        .execute("insert into hidden values (1); insert into notes values (1, 'x')")
        .await?;
    let message = socket.next_json(DEADLINE).await?;
    assert_eq!(message["payload"]["table"], "notes", "{message}");
    let sent =
        "select count(*)::int from realtime.messages where topic = 'all' and event = 'INSERT'";
    let count: i32 = stage.sql.query_one(sent, &[]).await?.get(0);
    assert_eq!(count, 1);
    Ok(())
}

#[tokio::test]
async fn the_table_of_messages_is_no_tables_channel() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.connect(ALICE).await?;
    for channel in ["table:realtime.messages", "table:realtime.*"] {
        let answer = ask(
            &mut socket,
            json!({ "type": "subscribe", "channel": channel }),
        )
        .await?;
        if answer["type"] == "ack" {
            subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
            stage
                .execute("select realtime.send('{}', 'e', 't', false); insert into notes values (1, 'x')")
                .await?;
            let message = socket.next_json(DEADLINE).await?;
            assert_eq!(message["payload"]["table"], "notes", "{message}");
        } else {
            assert_eq!(answer["code"], "FORBIDDEN", "{answer}");
        }
    }
    Ok(())
}
