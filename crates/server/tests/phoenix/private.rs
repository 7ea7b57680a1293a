//! Private channels: the policies on `realtime.messages` decide.

use anyhow::Result;
use serde_json::{Value, json};

use crate::phone::{Phone, Version, as_user};
use crate::stage::{ALICE, BOB, Stage, token};

const POLICIES: &str = "
    create policy reads on realtime.messages for select to authenticated using (
        realtime.topic() = 'of:' || (auth.uid())::text
        or (realtime.topic() = 'all' and extension = 'broadcast'));
    create policy writes on realtime.messages for insert to authenticated with check (
        realtime.topic() = 'of:' || (auth.uid())::text);";

fn private(user: &str, more: Value) -> Value {
    let mut config = json!({ "private": true, "broadcast": { "ack": true, "self": true } });
    for (name, value) in more.as_object().into_iter().flatten() {
        config[name] = value.clone();
    }
    as_user(user, config)
}

fn said(event: &str) -> Value {
    json!({ "type": "broadcast", "event": event, "payload": {} })
}

#[tokio::test]
async fn who_may_read_and_write() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(POLICIES).await?;
    let own = format!("realtime:of:{ALICE}");
    let mut alice = Phone::connect(&stage, Version::V2).await?;
    let mut bob = Phone::connect(&stage, Version::V1).await?;
    let refused = bob.refused(&own, private(BOB, json!({}))).await?;
    let expected = format!(
        "Unauthorized: You do not have permissions to read from this Channel topic: of:{ALICE}"
    );
    assert_eq!(refused, expected);

    alice
        .join(
            &own,
            private(ALICE, json!({ "presence": { "enabled": true } })),
        )
        .await?;
    alice.expect(&own, "presence_state").await?;
    let reference = alice.send(&own, "broadcast", said("e")).await?;
    assert_eq!(alice.expect(&own, "broadcast").await?, said("e"));
    assert_eq!(alice.next().await?.reference, reference);
    let track = json!({ "type": "presence", "event": "track", "payload": {} });
    alice.send(&own, "presence", track.clone()).await?;
    alice.expect(&own, "presence_diff").await?;
    assert_eq!(alice.next().await?.payload["status"], "ok");

    // The public channel of the same name is another one.
    bob.join(&own, as_user(BOB, json!({}))).await?;
    bob.send(&own, "broadcast", said("public")).await?;
    bob.silent().await?;
    alice.silent().await?;

    // May read and not write: as theirs, not even an answer. Presence is not for him.
    for phone in [&mut alice, &mut bob] {
        let user = if phone.version == Version::V2 {
            ALICE
        } else {
            BOB
        };
        phone
            .join(
                "realtime:all",
                private(user, json!({ "presence": { "enabled": true } })),
            )
            .await?;
        phone
            .send("realtime:all", "broadcast", said("unheard"))
            .await?;
        phone.silent().await?;
        let refused = phone.ask("realtime:all", "presence", track.clone()).await?;
        assert_eq!(refused, json!({ "status": "error", "response": {} }));
    }
    alice.silent().await
}

#[tokio::test]
async fn a_new_token_is_judged_anew() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(POLICIES).await?;
    let own = format!("realtime:of:{ALICE}");
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    phone.join(&own, private(ALICE, json!({}))).await?;
    let with = |user: &str| json!({ "access_token": token(user, "authenticated", 1800) });
    phone.send(&own, "access_token", with(ALICE)).await?;
    phone.silent().await?;
    phone.send(&own, "access_token", with(BOB)).await?;
    let system = phone.expect(&own, "system").await?;
    let expected =
        format!("You no longer have permission to read from this Channel topic: of:{ALICE}");
    assert_eq!(
        (&system["message"], &system["extension"], &system["status"]),
        (&json!(expected), &json!("system"), &json!("error"))
    );
    phone.expect(&own, "phx_close").await?;
    phone.silent().await
}

#[tokio::test]
async fn messages_that_were_stored_are_sent_again() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(POLICIES).await?;
    let mut live = Phone::connect(&stage, Version::V2).await?;
    live.join("realtime:all", private(BOB, json!({}))).await?;
    for nth in 1..=3 {
        stage
            .execute(&format!(
                "select realtime.send('{{\"n\":{nth}}}', 'e', 'all', true)"
            ))
            .await?;
        // Who joins now hears it no more but as a stored one.
        live.expect("realtime:all", "broadcast").await?;
    }
    for version in [Version::V1, Version::V2] {
        let mut phone = Phone::connect(&stage, version).await?;
        let replay =
            json!({ "broadcast": { "replay": { "since": 1_700_000_000_000_u64, "limit": 2 } } });
        phone.join("realtime:all", private(BOB, replay)).await?;
        for nth in 2..=3 {
            let again = phone.expect("realtime:all", "broadcast").await?;
            assert_eq!(
                (&again["event"], &again["payload"]["n"]),
                (&json!("e"), &json!(nth))
            );
            assert_eq!(again["meta"]["replayed"], true);
            assert!(again["meta"]["id"].is_string(), "{again}");
        }
        phone.silent().await?;
        let refused = phone
            .refused(
                "realtime:all",
                private(BOB, json!({ "broadcast": { "replay": { "limit": 2 } } })),
            )
            .await;
        assert!(
            refused.is_err(),
            "the first channel is closed before: {refused:?}"
        );
        let answer = phone.next().await?;
        assert_eq!(
            answer.payload["response"]["reason"],
            "UnableToReplayMessages: Replay params are not valid"
        );
    }
    Ok(())
}

#[tokio::test]
async fn what_was_stored_is_judged_by_the_rules_of_now() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(POLICIES).await?;
    let mut live = Phone::connect(&stage, Version::V2).await?;
    live.join("realtime:all", private(BOB, json!({}))).await?;
    for event in ["open", "secret", "open"] {
        let send = format!("select realtime.send('{{}}', '{event}', 'all', true)");
        stage.execute(&send).await?;
        // Who joins now hears it no more but as a stored one.
        live.expect("realtime:all", "broadcast").await?;
    }
    let replay =
        json!({ "broadcast": { "replay": { "since": 1_700_000_000_000_u64, "limit": 25 } } });
    let cases: [(&str, &[&str]); 2] = [
        ("select 1", &["open", "secret", "open"]),
        (
            "alter policy reads on realtime.messages using (event is distinct from 'secret')",
            &["open", "open"],
        ),
    ];
    for (change, expected) in cases {
        stage.execute(change).await?;
        let mut phone = Phone::connect(&stage, Version::V2).await?;
        phone
            .join("realtime:all", private(BOB, replay.clone()))
            .await?;
        for event in expected {
            let again = phone.expect("realtime:all", "broadcast").await?;
            assert_eq!(again["event"], *event, "{change}");
        }
        phone.silent().await?;
    }
    stage
        .execute("drop policy reads on realtime.messages")
        .await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    let refused = phone.refused("realtime:all", private(BOB, replay)).await?;
    assert!(refused.starts_with("Unauthorized"), "{refused}");
    phone.silent().await
}
