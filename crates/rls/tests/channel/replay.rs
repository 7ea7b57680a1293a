//! What was sent before: in the order of sending, and only as far as it may be seen.

use anyhow::Result;
use walcast_rls::{ChannelDenial, Replayed, ReplayedPayload};

use crate::policies::SUPABASE;
use crate::rig::{ALICE, Rig, user, viewer};

fn events(replayed: &[Replayed]) -> Vec<&str> {
    replayed.iter().map(|message| &*message.event).collect()
}

const POLICY: &str = "CREATE POLICY a ON realtime.messages FOR SELECT TO authenticated
    USING (realtime.topic() = 'room-' || (auth.jwt() ->> 'room') AND event IS DISTINCT FROM 'hidden')";

#[tokio::test]
async fn messages_of_one_transaction_keep_their_order() -> Result<()> {
    let rig = Rig::new(POLICY).await?;
    // one statement sends in the order of the series; now() is the same for all
    rig.run(
        "SELECT realtime.send(jsonb_build_object('n', n), 'e' || n, 'room-1') FROM generate_series(1, 40) n;
         SELECT realtime.send('{}', 'other', 'room-2'); SELECT realtime.send('{}', 'public', 'room-1', false);
         SELECT realtime.send('{}', 'hidden', 'room-1'); SELECT realtime.send_binary('\\x00ff', 'bytes', 'room-1');
         INSERT INTO realtime.messages (topic, extension, private, event) VALUES ('room-1', 'presence', true, 'presence')",
    )
    .await?;
    let access = rig.access().await?;
    let alice = user(ALICE, "1");
    let five = access.replay(&alice, "room-1", 0, 5).await?;
    assert_eq!(events(&five), ["e37", "e38", "e39", "e40", "bytes"]);
    assert_eq!(
        five[4].payload,
        ReplayedPayload::Binary(b"\x00\xff"[..].into())
    );
    let ReplayedPayload::Json(json) = &five[3].payload else {
        panic!("{five:?}");
    };
    assert!(
        json.contains("\"n\": 40") && json.contains(&five[3].id),
        "{json}"
    );

    let most = access.replay(&alice, "room-1", i64::MIN, 1_000).await?;
    assert_eq!(most.len(), 25);
    let now_us: i64 = rig
        .admin
        .query_one("SELECT (extract(epoch FROM now()) * 1000000)::int8", &[])
        .await?
        .get(0);
    let age_us = now_us - five[0].inserted_at_us;
    assert!((0..60_000_000).contains(&age_us), "{age_us}");

    let since_ms = five[4].inserted_at_us / 1000;
    let since = access.replay(&alice, "room-1", since_ms, 25).await?;
    assert_eq!(events(&since).last(), Some(&"bytes"));
    assert!(
        since
            .iter()
            .all(|message| message.inserted_at_us / 1000 >= since_ms)
    );
    for since_ms in [since_ms + 60_000, i64::MAX] {
        assert_eq!(access.replay(&alice, "room-1", since_ms, 25).await?, []);
    }
    Ok(())
}

#[tokio::test]
async fn nothing_is_replayed_that_may_not_be_seen() -> Result<()> {
    let rig = Rig::new(POLICY).await?;
    rig.run("SELECT realtime.send('{}', 'e', 'room-1')").await?;
    let access = rig.access().await?;
    assert_eq!(access.replay(&user(ALICE, "2"), "room-1", 0, 25).await?, []);
    assert_eq!(access.replay(&user(ALICE, "2"), "room-2", 0, 25).await?, []);
    let anon = access.replay(&viewer("anon", "{}"), "room-1", 0, 25).await;
    assert_eq!(anon, Err(ChannelDenial::NoPolicy.into()));
    let service = access
        .replay(&viewer("service_role", "{}"), "room-1", 0, 25)
        .await?;
    assert_eq!(events(&service), ["e"]);
    Ok(())
}

#[tokio::test]
async fn supabases_own_table_is_replayed_by_time() -> Result<()> {
    let rig = Rig::bare().await?;
    rig.run(SUPABASE).await?;
    rig.run(
        "INSERT INTO realtime.messages (topic, extension, private, event, payload, inserted_at)
         SELECT 'room-1', 'broadcast', true, 'e' || n, '{}', now()::timestamp + n * interval '1 ms' FROM generate_series(3, 1, -1) n",
    )
    .await?;
    let access = rig.access().await?;
    let found = access.replay(&user(ALICE, "1"), "room-1", 0, 25).await?;
    assert_eq!(events(&found), ["e1", "e2", "e3"]);
    Ok(())
}
