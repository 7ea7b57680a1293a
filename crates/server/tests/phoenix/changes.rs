//! `postgres_changes`: who hears of what.

use anyhow::Result;
use serde_json::{Value, json};

use crate::phone::{BOTH, PATIENCE, Phone, Version, as_user};
use crate::stage::{ALICE, BOB, DEADLINE, Stage};

const ROOM: &str = "realtime:room";
/// How long a join waits in vain: a busy machine does what has to be done meanwhile.
const WAIT_MS: u64 = 12_000;

fn todos(more: Value) -> Value {
    let mut binding = json!({ "event": "*", "schema": "public", "table": "todos" });
    for (name, value) in more.as_object().into_iter().flatten() {
        binding[name] = value.clone();
    }
    json!({ "postgres_changes": [binding] })
}

#[tokio::test]
async fn each_hears_of_its_own_rows_and_their_ends() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for (nth, version) in BOTH.into_iter().enumerate() {
        let id = nth as i32 + 1;
        let mut alice = Phone::connect(&stage, version).await?;
        let mut bob = Phone::connect(&stage, version).await?;
        let mut ids = Vec::new();
        for (phone, user) in [(&mut alice, ALICE), (&mut bob, BOB)] {
            let joined = phone.join(ROOM, as_user(user, todos(json!({})))).await?;
            ids.push(joined["postgres_changes"][0]["id"].clone());
            phone.live(ROOM).await?;
        }
        let sql = format!(
            "insert into todos values ({id}, '{ALICE}', 'a', 's');
             update todos set body = 'b' where id = {id};
             delete from todos where id = {id};
             insert into todos values ({}, '{BOB}', 'bob''s', 's')",
            id + 100
        );
        stage.execute(&sql).await?;
        let insert = alice.expect(ROOM, "postgres_changes").await?;
        assert_eq!(insert["ids"], json!([ids[0]]));
        let data = &insert["data"];
        assert_eq!(data["type"], "INSERT");
        let record = json!({ "id": id, "user_id": ALICE, "body": "a" });
        assert_eq!(data["record"], record);
        assert_eq!(data["errors"], Value::Null);
        assert!(data.get("old_record").is_none(), "{data}");
        let columns = json!([
            { "name": "id", "type": "int4" }, { "name": "user_id", "type": "uuid" }, { "name": "body", "type": "text" },
        ]);
        assert_eq!(
            data["columns"], columns,
            "what may not be selected is not even named"
        );
        let update = alice.expect(ROOM, "postgres_changes").await?["data"].take();
        assert_eq!(
            (&update["type"], &update["record"]["body"]),
            (&json!("UPDATE"), &json!("b"))
        );
        assert_eq!(update["old_record"], record);
        let delete = alice.expect(ROOM, "postgres_changes").await?["data"].take();
        assert_eq!(
            (&delete["type"], &delete["old_record"]["id"]),
            (&json!("DELETE"), &json!(id))
        );
        assert!(delete.get("record").is_none(), "{delete}");
        alice.silent().await?;
        // Not even of the end of a row that he never saw.
        let own = bob.expect(ROOM, "postgres_changes").await?;
        assert_eq!(own["data"]["record"]["body"], "bob's");
        bob.silent().await?;
        stage.execute("truncate todos").await?;
    }
    Ok(())
}

#[tokio::test]
async fn filters_columns_and_wildcards() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    let config = json!({ "postgres_changes": [
        { "event": "INSERT", "schema": "public", "table": "notes", "filter": "body=eq.yes", "select": ["id"] },
        { "event": "DELETE", "schema": "*" },
        { "event": "UPDATE", "schema": "public", "table": "*" },
    ] });
    let joined = phone.join(ROOM, as_user(ALICE, config)).await?;
    let id = |nth: usize| joined["postgres_changes"][nth]["id"].clone();
    phone.live(ROOM).await?;
    stage
        .execute("insert into notes values (1, 'no'), (2, 'yes'); update notes set body = 'x' where id = 1; delete from notes where id = 2")
        .await?;
    for (nth, kind, key, of) in [
        (0, "INSERT", "record", 2),
        (2, "UPDATE", "record", 1),
        (1, "DELETE", "old_record", 2),
    ] {
        let change = phone.expect(ROOM, "postgres_changes").await?;
        assert_eq!(change["ids"], json!([id(nth)]), "{change}");
        assert_eq!(change["data"]["type"], kind);
        assert_eq!(change["data"][key]["id"], of);
        if nth == 0 {
            assert_eq!(change["data"][key], json!({ "id": 2 }));
        }
    }
    phone.silent().await
}

#[tokio::test]
async fn what_can_not_be_subscribed_to_is_told_and_the_rest_works() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for (binding, expected) in [
        (json!({ "event": "*" }), "No subscription params provided."),
        (
            json!({ "schema": "public", "table": "nothing" }),
            "Please check Realtime is enabled for the given connect parameters: [event: *, schema: public, table: nothing, filters: [], select: nil]",
        ),
        (
            json!({ "schema": "public", "table": "unpublished" }),
            "Please check Realtime is enabled",
        ),
        (
            json!({ "schema": "public", "table": "notes", "filter": "foo" }),
            "Error parsing `filter` params: ",
        ),
        (
            json!({ "schema": "public", "table": "notes", "filter": "nope=eq.1" }),
            "Exception: ERROR P0001 (raise_exception) invalid column for filter nope",
        ),
        (
            json!({ "schema": "public", "table": "todos", "filter": "secret=eq.1" }),
            "invalid column for filter secret",
        ),
        (
            json!({ "schema": "public", "table": "todos", "select": ["secret"] }),
            "invalid column for select secret",
        ),
        (
            json!({ "schema": "public", "table": "*", "select": ["id"] }),
            "Column selection is not supported for wildcard subscriptions.",
        ),
    ] {
        let mut phone = Phone::connect(&stage, Version::V2).await?;
        let good = json!({ "event": "INSERT", "schema": "public", "table": "notes" });
        let config = json!({ "postgres_changes": [binding, good], "broadcast": { "ack": true } });
        phone.join(ROOM, as_user(ALICE, config.clone())).await?;
        let system = phone.expect(ROOM, "system").await?;
        assert_eq!(
            (&system["extension"], &system["status"], &system["channel"]),
            (&json!("postgres_changes"), &json!("error"), &json!("room"))
        );
        let message = system["message"].as_str().unwrap_or_default();
        assert!(message.contains(expected), "{message}");
        phone.silent().await?;
        stage
            .execute("truncate notes; insert into notes values (1, 'x')")
            .await?;
        let change = phone.expect(ROOM, "postgres_changes").await?;
        assert_eq!(change["data"]["type"], "INSERT");
        // A join that waits is refused for the same reason.
        let mut waiting = config;
        waiting["postgres_changes_options"] = json!({ "wait": true });
        let refused = phone
            .refused("realtime:waits", as_user(ALICE, waiting))
            .await?;
        assert!(
            refused.starts_with("RealtimeDisabledForConfiguration: "),
            "{refused}"
        );
        assert!(refused.contains(expected), "{refused}");
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_join_that_waits_is_live_when_it_is_answered() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    for nth in 1..=5 {
        let config = json!({
            "postgres_changes": [
                { "event": "INSERT", "schema": "public", "table": "notes", "filter": format!("id=eq.{nth}") },
                { "event": "DELETE", "schema": "public", "table": "notes" },
            ],
            "postgres_changes_options": { "wait": true, "timeout": 60_000 },
            "presence": { "enabled": true },
        });
        phone.join(ROOM, as_user(ALICE, config)).await?;
        stage
            .execute(&format!(
                "insert into notes values ({nth}, 'x'); delete from notes"
            ))
            .await?;
        assert_eq!(phone.expect(ROOM, "presence_state").await?, json!({}));
        let kinds = [
            phone.expect(ROOM, "postgres_changes").await?,
            phone.expect(ROOM, "postgres_changes").await?,
        ];
        assert_eq!(
            kinds.map(|change| change["data"]["type"].clone()),
            [json!("INSERT"), json!("DELETE")]
        );
        phone.ask(ROOM, "phx_leave", json!({})).await?;
        phone.expect(ROOM, "phx_close").await?;
    }
    phone.silent().await
}

#[tokio::test]
async fn a_join_as_years_ago() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for version in BOTH {
        let mut phone = Phone::connect(&stage, version).await?;
        let topic = "realtime:public:notes:body=eq.yes";
        let joined = phone
            .join(
                topic,
                json!({ "user_token": crate::stage::token(ALICE, "authenticated", 3600) }),
            )
            .await?;
        assert_eq!(joined["postgres_changes"].as_array().map(Vec::len), Some(1));
        phone.live(topic).await?;
        stage
            .execute("insert into notes values (1, 'no'), (2, 'yes'); delete from notes")
            .await?;
        let insert = phone.expect(topic, "INSERT").await?;
        assert_eq!(
            (&insert["type"], &insert["record"]["id"]),
            (&json!("INSERT"), &json!(2))
        );
        assert_eq!(phone.expect(topic, "DELETE").await?["old_record"]["id"], 2);
        phone.silent().await?;
    }
    Ok(())
}

#[tokio::test]
async fn native_and_supabase_clients_hear_of_the_same_change() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut native = stage.subscriber(ALICE, "table:public.todos").await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    phone.join(ROOM, as_user(ALICE, todos(json!({})))).await?;
    phone.live(ROOM).await?;
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's')"
        ))
        .await?;
    let theirs = phone.expect(ROOM, "postgres_changes").await?;
    let ours = native.next_json(DEADLINE).await?;
    assert_eq!(theirs["data"]["record"], ours["payload"]["record"]);
    assert_eq!(
        theirs["data"]["cursor"], ours["payload"]["cursor"],
        "{ours}"
    );
    Ok(())
}

#[tokio::test]
async fn a_join_that_waits_in_vain_is_refused_and_leaves_nothing() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut phone = Phone::connect(&stage, Version::V2).await?;
    // Nobody can be asked who may subscribe while the catalogue is locked.
    let locker = walcast_harness::Postgres::shared()
        .await
        .connect("postgres", &stage.database)
        .await?;
    locker
        .batch_execute("begin; lock table pg_catalog.pg_publication_rel in access exclusive mode")
        .await?;
    let config = json!({
        "postgres_changes": [{ "event": "INSERT", "schema": "public", "table": "notes" }],
        "postgres_changes_options": { "wait": true, "timeout": WAIT_MS },
    });
    let reference = phone
        .send(ROOM, "phx_join", as_user(ALICE, config.clone()))
        .await?;
    // Meanwhile everything else goes on.
    phone.silent().await?;
    let refused = phone.next().await?;
    assert_eq!(refused.reference, reference);
    let reason = refused.payload["response"]["reason"].as_str();
    assert!(
        reason.is_some_and(|reason| reason.starts_with("PostgresChangesSubscribeTimeout: ")),
        "{refused:?}"
    );
    // One that is given up says nothing.
    phone
        .send(ROOM, "phx_join", as_user(ALICE, config.clone()))
        .await?;
    let left = phone.ask(ROOM, "phx_leave", json!({})).await?;
    assert_eq!(left["status"], "ok");
    // Without waiting it is joined at once, told of the trouble, and live when that is over.
    let mut patient = config.clone();
    patient["postgres_changes_options"] = json!({});
    phone.join(ROOM, as_user(ALICE, patient)).await?;
    let system = phone.expect(ROOM, "system").await?;
    assert_eq!(
        (&system["status"], &system["message"]),
        (&json!("error"), &json!(PATIENCE))
    );
    locker.batch_execute("rollback").await?;
    phone.live(ROOM).await?;
    stage.execute("insert into notes values (1, 'x')").await?;
    phone.expect(ROOM, "postgres_changes").await?;
    phone.silent().await
}
