//! Who sees what.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::Message;

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, subscribe, token};

fn summary(events: &[Value]) -> Vec<(String, Value)> {
    events
        .iter()
        .map(|event| {
            let row = if event["record"].is_null() {
                &event["old_record"]
            } else {
                &event["record"]
            };
            (
                event["type"].as_str().unwrap_or_default().to_owned(),
                row["id"].clone(),
            )
        })
        .collect()
}

/// A row of `todos` that the user sees.
fn own(user: &str) -> (&'static str, String) {
    ("todos", format!("'{user}'"))
}

#[tokio::test]
async fn each_user_sees_their_own_rows_only_deletes_included() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut sockets = Vec::new();
    for user in [ALICE, BOB] {
        let mut socket = stage.subscriber(user, "table:public.todos").await?;
        subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
        sockets.push(socket);
    }
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's'), (2, '{BOB}', 'b', 's');
             update todos set body = body || '!';
             delete from todos;"
        ))
        .await?;
    for (socket, (id, user)) in sockets.iter_mut().zip([(1, ALICE), (2, BOB)]) {
        let events = stage.events_until_marks(socket, id, own(user)).await;
        // The other's mark may come first; it is no event of `todos`.
        let events: Vec<_> = events?
            .into_iter()
            .filter(|event| event["table"] == "todos")
            .collect();
        let expected = ["INSERT", "UPDATE", "DELETE"].map(|kind| (kind.to_owned(), json!(id)));
        assert_eq!(summary(&events), expected, "{events:?}");
    }
    Ok(())
}

#[tokio::test]
async fn records_are_whole_but_for_columns_without_privilege() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 'top secret');
             update todos set body = 'b';"
        ))
        .await?;
    let events = stage.events_until_marks(&mut socket, 1, own(ALICE)).await?;
    let (before, after) = (
        json!({ "id": 1, "user_id": ALICE, "body": "a" }),
        json!({ "id": 1, "user_id": ALICE, "body": "b" }),
    );
    assert_eq!(events[0]["record"], before);
    assert!(events[0].get("old_record").is_none());
    assert_eq!(events[1]["record"], after);
    assert_eq!(events[1]["old_record"], before);
    assert_eq!(events[0]["schema"], "public");
    assert!(
        events[0]["commit_timestamp"]
            .as_str()
            .is_some_and(|time| time.ends_with('Z'))
    );
    assert_ne!(events[0]["cursor"], events[1]["cursor"]);
    assert!(!format!("{events:?}").contains("top secret"));
    Ok(())
}

#[tokio::test]
async fn rows_that_come_into_and_go_out_of_sight_are_told_as_such() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    stage
        .execute(&format!(
            "insert into todos values (1, '{BOB}', 'a', 's');
             update todos set user_id = '{ALICE}';
             update todos set user_id = '{BOB}';
             delete from todos;"
        ))
        .await?;
    let events = stage.events_until_marks(&mut socket, 1, own(ALICE)).await?;
    assert_eq!(
        summary(&events),
        [("INSERT".into(), json!(1)), ("DELETE".into(), json!(1))]
    );
    assert_eq!(events[0]["reason"], "entered");
    assert_eq!(events[0]["record"]["body"], "a");
    assert!(
        events[0].get("old_record").is_none(),
        "the old row was not hers"
    );
    assert_eq!(events[1]["reason"], "left");
    assert_eq!(events[1]["old_record"], json!({ "id": 1 }));
    assert!(events[1].get("record").is_none(), "the new row is not hers");
    Ok(())
}

#[tokio::test]
async fn filters_and_events_choose() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    let mut chosen = stage.connect(ALICE).await?;
    subscribe(
        &mut chosen,
        json!({ "channel": "table:public.notes", "filter": "id=gt.10" }),
    )
    .await?;
    let mut inserts = stage.connect(ALICE).await?;
    subscribe(
        &mut inserts,
        json!({ "channel": "table:notes", "event": "INSERT" }),
    )
    .await?;
    stage
        .execute(
            "insert into notes values (5, 'x');
             insert into notes values (11, 'x');
             update notes set id = 12 where id = 5;
             update notes set id = 6 where id = 11;
             update notes set body = 'y' where id = 12;
             delete from notes;",
        )
        .await?;
    let events = stage.events_until_mark(&mut socket, 100).await?;
    assert_eq!(events.len(), 7);
    let events = stage.events_until_mark(&mut chosen, 101).await?;
    let expected: Vec<(String, Value)> = [
        ("INSERT", 11),
        ("INSERT", 12), // entered
        ("DELETE", 11), // left
        ("UPDATE", 12),
        ("DELETE", 12),
        ("INSERT", 100),
    ]
    .map(|(kind, id)| (kind.to_owned(), json!(id)))
    .into();
    assert_eq!(summary(&events), expected);
    let events = stage.events_until_mark(&mut inserts, 102).await?;
    assert!(events.iter().all(|event| event["type"] == "INSERT"));
    assert_eq!(summary(&events).len(), 4);
    Ok(())
}

#[tokio::test]
async fn everybody_is_judged_as_their_role() -> Result<()> {
    let stage = Stage::new(&[("anonymous", "true")]).await?;
    let service = token("service", "service_role", 3600);
    let mut service = stage.connect_with_token(&service).await?;
    subscribe(&mut service, json!({ "channel": "table:todos" })).await?;
    let mut anybody =
        walcast_harness::Socket::connect(&stage.walcast.websocket("/realtime")).await?;
    let refused = ask(
        &mut anybody,
        json!({ "type": "subscribe", "channel": "table:todos" }),
    )
    .await?;
    assert_eq!(
        refused["code"], "FORBIDDEN",
        "anon has no privilege on todos: {refused}"
    );
    subscribe(&mut anybody, json!({ "channel": "table:notes" })).await?;
    stage
        .execute(&format!("insert into todos values (1, '{BOB}', 'b', 's')"))
        .await?;
    stage
        .execute("insert into notes values (1, 'for all')")
        .await?;
    let event = service.next_json(DEADLINE).await?;
    assert_eq!(
        event["payload"]["record"]["secret"], "s",
        "service_role bypasses the policies"
    );
    let event = anybody.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["record"]["body"], "for all");
    Ok(())
}

#[tokio::test]
async fn a_schema_is_all_its_published_tables_as_far_as_they_may_be_read() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:public.*").await?;
    stage
        .execute(&format!(
            "insert into hidden values (1);
             insert into unpublished values (1);
             insert into todos values (1, '{BOB}', 'b', 's'), (2, '{ALICE}', 'a', 's');
             create table later (id int primary key);
             grant select on later to authenticated;
             select enable_realtime('later');
             insert into later values (7);"
        ))
        .await?;
    let events = stage.events_until_mark(&mut socket, 1).await?;
    let tables: Vec<_> = events
        .iter()
        .map(|event| (event["table"].clone(), event["record"]["id"].clone()))
        .collect();
    assert_eq!(
        tables,
        [(json!("todos"), json!(2)), (json!("later"), json!(7))]
    );
    Ok(())
}

#[tokio::test]
async fn truncate_is_told_to_those_who_may_read_the_table() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    stage.execute("truncate todos").await?;
    let event = socket.next_json(DEADLINE).await?;
    assert_eq!(event["payload"]["type"], "TRUNCATE");
    assert!(event["payload"].get("record").is_none());
    Ok(())
}

#[tokio::test]
async fn a_schemas_subscriber_hears_no_truncation_of_a_table_it_may_not_read() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut sockets = Vec::new();
    for nth in 0..8 {
        let may = nth % 2 == 0;
        let role = if may { "authenticated" } else { "anon" };
        let token = token(&format!("user {nth}"), role, 3600);
        let mut socket = stage.connect_with_token(&token).await?;
        subscribe(&mut socket, json!({ "channel": "table:public.*" })).await?;
        sockets.push((socket, may));
    }
    stage.execute("truncate todos, hidden").await?;
    for (mark, (socket, may)) in sockets.iter_mut().enumerate() {
        let mut events = stage.events_until_mark(socket, mark as i32).await?;
        events.retain(|event| event["table"] != "notes");
        let tables: Vec<_> = events.iter().map(|event| event["table"].clone()).collect();
        let expected: &[&str] = if *may { &["todos"] } else { &[] };
        assert_eq!(tables, expected, "{events:?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_table_that_is_gone_holds_nobody_up() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:public.*").await?;
    let begin = std::time::Instant::now();
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's');
             truncate todos;
             drop table todos;"
        ))
        .await?;
    stage.events_until_mark(&mut socket, 1).await?;
    assert!(begin.elapsed() < DEADLINE / 4, "{:?}", begin.elapsed());
    Ok(())
}

#[tokio::test]
async fn a_policy_that_changes_is_followed_at_once() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    let insert = |id| format!("insert into todos values ({id}, '{ALICE}', 'a', 's')");
    stage.execute(&insert(1)).await?;
    let mut events = stage.events_until_marks(&mut socket, 1, own(ALICE)).await?;
    stage.execute("drop policy own_rows on todos").await?;
    stage.execute(&insert(2)).await?;
    stage
        .execute("create policy again on todos for select to public using (id > 2 and user_id = auth.uid())")
        .await?;
    stage.execute(&insert(3)).await?;
    events.extend(stage.events_until_marks(&mut socket, 2, own(ALICE)).await?);
    assert_eq!(
        summary(&events),
        [("INSERT".into(), json!(1)), ("INSERT".into(), json!(3))]
    );
    Ok(())
}

#[tokio::test]
async fn subscribed_means_that_the_next_commit_is_delivered() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    for id in 0..30 {
        let mut socket = stage.subscriber(ALICE, "table:notes").await?;
        stage
            .execute(&format!("insert into notes values ({id}, 'x')"))
            .await?;
        let event = socket.next_json(DEADLINE).await?;
        assert_eq!(event["payload"]["record"]["id"], id);
    }
    Ok(())
}

#[tokio::test]
async fn changes_of_a_table_under_way_are_read_with_the_shape_of_their_time() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    stage
        .execute(
            "begin;
             insert into notes values (1, 'one');
             alter table notes add column extra int default 5;
             insert into notes values (2, 'two', 6);
             alter table notes rename column body to text;
             insert into notes values (3, 'three', 7);
             alter table notes drop column text;
             insert into notes values (4, 8);
             commit;",
        )
        .await?;
    for expected in [
        json!({ "id": 1, "body": "one" }),
        json!({ "id": 2, "body": "two", "extra": 6 }),
        json!({ "id": 3, "text": "three", "extra": 7 }),
        json!({ "id": 4, "extra": 8 }),
    ] {
        let event = socket.next_json(DEADLINE).await?;
        assert_eq!(event["payload"]["record"], expected);
    }
    stage
        .execute(
            "drop table notes;
             create table notes (id int primary key, other text);
             grant select on notes to authenticated;
             select enable_realtime('notes');
             insert into notes values (5, 'five');",
        )
        .await?;
    let event = socket.next_json(DEADLINE).await?;
    assert_eq!(
        event["payload"]["record"],
        json!({ "id": 5, "other": "five" })
    );
    Ok(())
}

#[tokio::test]
async fn only_the_events_that_the_table_was_enabled_for() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:notes").await?;
    stage
        .execute(
            "create table quiet (id int primary key);
             grant select on quiet to authenticated;
             select enable_realtime('quiet', array['DELETE']);",
        )
        .await?;
    subscribe(&mut socket, json!({ "channel": "table:quiet" })).await?;
    // The setting is read once a second: delete until it is in force.
    let mut id = 0;
    let in_force = walcast_harness::eventually(DEADLINE, async || {
        id += 1;
        let sql = format!(
            "insert into quiet values ({id}); delete from quiet; insert into notes values ({id}, 'mark')"
        );
        stage.execute(&sql).await.ok()?;
        let is_mark = |message: &Value| message["payload"]["table"] == "notes";
        let events = socket.until(is_mark, DEADLINE).await.ok()?;
        (events.len() == 2 && events[0]["payload"]["type"] == "DELETE").then_some(())
    });
    in_force.await
}

#[tokio::test]
async fn partitions_speak_as_their_root() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(
            "create table events (id int, day date, user_id uuid, primary key (id, day)) partition by range (day);
             create table events_1 partition of events for values from ('2026-01-01') to ('2026-02-01');
             create table events_2 partition of events for values from ('2026-02-01') to ('2026-03-01');
             alter table events enable row level security;
             create policy own_rows on events for select using (user_id = auth.uid());
             grant select on events to authenticated;
             select enable_realtime('events');",
        )
        .await?;
    let mut socket = stage.subscriber(ALICE, "table:events").await?;
    stage
        .execute(&format!(
            "insert into events values (1, '2026-01-05', '{ALICE}'), (2, '2026-02-05', '{ALICE}'), (3, '2026-02-06', '{BOB}');
             update events set id = 4 where id = 1;
             delete from events;"
        ))
        .await?;
    for (kind, id) in [
        ("INSERT", 1),
        ("INSERT", 2),
        ("UPDATE", 4),
        ("DELETE", 4),
        ("DELETE", 2),
    ] {
        let event = socket.next_json(DEADLINE).await?;
        let payload = &event["payload"];
        assert_eq!(
            (payload["type"].as_str(), &payload["table"]),
            (Some(kind), &json!("events")),
            "{event}"
        );
        let row = if kind == "DELETE" {
            &payload["old_record"]
        } else {
            &payload["record"]
        };
        assert_eq!(row["id"], id, "{event}");
    }
    Ok(())
}

#[tokio::test]
async fn quoted_names_and_the_types_of_the_database_itself() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(
            r#"create schema "My Schema";
             create type mood as enum ('sad', 'happy');
             create domain percent as numeric(5, 2) check (value between 0 and 100);
             create type point3 as (x int, y numeric, tags text[]);
             create table "My Schema"."Ünïcode.Table" (
                 "Primary Key" bigint primary key, "quote""d" mood, share percent, place point3, moods mood[], doc jsonb);
             grant usage on schema "My Schema" to authenticated, walcast_checks;
             grant select on "My Schema"."Ünïcode.Table" to authenticated;
             select enable_realtime('"My Schema"."Ünïcode.Table"');"#,
        )
        .await?;
    let channel = r#"table:"My Schema"."Ünïcode.Table""#;
    let mut socket = stage.subscriber(ALICE, channel).await?;
    stage
        .execute(
            r#"insert into "My Schema"."Ünïcode.Table" values
             (9007199254740993, 'happy', 12.50, row(1, 2.5, array['a"b', null]), '{sad,happy}', '{"a": 1e400}')"#,
        )
        .await?;
    // As text: the digits are the point.
    let Message::Text(text) = socket.next(DEADLINE).await? else {
        panic!("not a text frame")
    };
    for part in [
        r#""channel":"table:\"My Schema\".\"Ünïcode.Table\"""#,
        r#""Primary Key":9007199254740993"#,
        r#""quote\"d":"happy""#,
        r#""share":12.50"#,
        r#""place":{"x":1,"y":2.5,"tags":["a\"b",null]}"#,
        r#""moods":["sad","happy"]"#,
    ] {
        assert!(text.contains(part), "{part} in {text}");
    }
    Ok(())
}
