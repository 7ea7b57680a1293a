//! realtime.messages and the functions that send: the shape for two systems, and nothing silently lost.

use tokio_postgres::Client;
use walcast_harness::Postgres;
use walcast_server::migrate::{self, NoteKind};

use crate::{ensure_subscribers, migrated, notes, refusal, text};

/// The messages sent so far, the last first: those columns.
async fn sent(client: &Client, columns: &str) -> String {
    let query = format!(
        "SELECT string_agg(concat_ws(' ', {columns}), ', ' ORDER BY walcast_seq DESC) FROM realtime.messages"
    );
    text(client, &query).await
}

#[tokio::test]
async fn send_writes_what_supabases_does() {
    let (_admin, app) = migrated().await;
    for (statement, columns, expected) in [
        (
            "realtime.send('{\"a\": 1}', 'say', 'room')",
            "topic, event, private, extension, payload - 'id', payload ->> 'id' = id::text",
            "room say t broadcast {\"a\": 1} t",
        ),
        (
            "realtime.send('{\"id\": 7}', 'e', 't', false)",
            "private, payload",
            "f {\"id\": 7}",
        ),
        ("realtime.send('[1]', 'e', 't')", "payload", "[1]"),
        ("realtime.send(NULL, 'e', 't')", "payload - 'id'", "{}"),
        (
            "realtime.send('{}', NULL, 't')",
            "event IS NULL, event_name IS NULL",
            "t t",
        ),
        (
            "realtime.send_binary('\\x00ff', 'e', 't')",
            "binary_payload, payload IS NULL, private",
            "\\x00ff t t",
        ),
        (
            "realtime.send_binary('', 'e', 't')",
            "binary_payload, payload IS NULL",
            "\\x t",
        ),
        (
            "realtime.send('{}', 'e', 't')",
            "created_at = inserted_at AT TIME ZONE 'UTC', now() - created_at < '1 minute', channel_name, event_name",
            "t t t e",
        ),
    ] {
        // whatever the session's time zone is
        app.batch_execute(&format!(
            "TRUNCATE realtime.messages; SET TimeZone = 'Pacific/Auckland'; SELECT {statement}"
        ))
        .await
        .unwrap();
        assert_eq!(sent(&app, columns).await, expected, "{statement}");
    }
}

#[tokio::test]
async fn broadcast_changes_sends_rows_in_the_order_of_sending() {
    let (_admin, app) = migrated().await;
    app.batch_execute(
        "CREATE TABLE todos (id int PRIMARY KEY, t text);
         CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
           PERFORM realtime.broadcast_changes('todo:' || coalesce(NEW.id, OLD.id), 'on ' || TG_OP, TG_OP, TG_TABLE_NAME, TG_TABLE_SCHEMA, NEW, OLD);
           RETURN NULL; END $$;
         CREATE TRIGGER tell AFTER INSERT OR UPDATE OR DELETE ON todos FOR EACH ROW EXECUTE FUNCTION tell();
         BEGIN; INSERT INTO todos VALUES (1, 'x'); UPDATE todos SET t = 'y'; DELETE FROM todos; COMMIT;",
    )
    .await
    .unwrap();
    assert_eq!(
        sent(&app, "topic, event, private, payload - 'id'").await,
        r#"todo:1 on DELETE t {"table": "todos", "record": null, "schema": "public", "operation": "DELETE", "old_record": {"t": "y", "id": 1}}, todo:1 on UPDATE t {"table": "todos", "record": {"t": "y", "id": 1}, "schema": "public", "operation": "UPDATE", "old_record": {"t": "x", "id": 1}}, todo:1 on INSERT t {"table": "todos", "record": {"t": "x", "id": 1}, "schema": "public", "operation": "INSERT", "old_record": null}"#
    );
    assert_eq!(
        text(
            &app,
            "SELECT count(DISTINCT inserted_at) FROM realtime.messages"
        )
        .await,
        "1",
        "time does not order them"
    );
    for call in [
        "'t', 'e', 'INSERT', 'a', 'b', NULL::todos, NULL::todos, 'STATEMENT'",
        "'t', 'e', 'TRUNCATE', 'a', 'b', NULL::todos, NULL::todos",
        "'t', 'e', NULL, 'a', 'b', NULL::todos, NULL::todos",
    ] {
        let statement = format!("SELECT realtime.broadcast_changes({call})");
        assert_eq!(refusal(&app, &statement).await.0, "22023", "{statement}");
    }
}

#[tokio::test]
async fn what_cannot_be_sent_is_an_error() {
    let (admin, app) = migrated().await;
    let topic = refusal(&app, "SELECT realtime.send('{}', 'e', NULL)").await;
    assert_eq!(topic.0, "22023", "{topic:?}");
    assert_eq!(
        refusal(&app, "SELECT realtime.send('{}', 'e', '')").await.0,
        "22023"
    );
    admin.batch_execute("SET ROLE authenticated").await.unwrap();
    let policy = refusal(&admin, "SELECT realtime.send('{}', 'e', 'room')").await;
    assert_eq!(policy.0, "42501", "{policy:?}");
    assert_eq!(sent(&app, "topic").await, "NULL");
}

#[tokio::test]
async fn policies_of_both_systems_decide() {
    let (admin, app) = migrated().await;
    app.batch_execute(
        "CREATE POLICY supabase ON realtime.messages FOR INSERT TO authenticated
           WITH CHECK (realtime.topic() LIKE 'room-%' AND topic = realtime.topic() AND extension = 'broadcast' AND event <> 'bad');
         CREATE POLICY insforge ON realtime.messages FOR INSERT TO anon
           WITH CHECK (realtime.channel_name() LIKE 'chat:%' AND channel_name = realtime.channel_name() AND event_name <> 'bad'
                       AND created_at > now() - interval '1 hour')",
    )
    .await
    .unwrap();
    let supabase = "INSERT INTO realtime.messages (topic, extension, event) VALUES";
    let insforge = "INSERT INTO realtime.messages (event_name, channel_id, channel_name, payload, sender_type, sender_id) VALUES";
    for (role, topic, statement, fails) in [
        ("authenticated", "room-1", format!("{supabase} ('room-1', 'broadcast', 'e')"), None),
        ("authenticated", "room-1", "SELECT realtime.send('{}', 'e', 'room-2')".into(), None),
        ("authenticated", "room-1", format!("{supabase} ('room-1', 'presence', 'e')"), Some("42501")),
        ("authenticated", "room-1", format!("{supabase} ('room-2', 'broadcast', 'e')"), Some("42501")),
        ("authenticated", "room-1", "SELECT realtime.send('{}', 'e', 'other')".into(), Some("42501")),
        // the names of the other system are no way round
        (
            "authenticated",
            "room-1",
            "INSERT INTO realtime.messages (channel_name, event_name) VALUES ('room-1', 'bad')".into(),
            Some("42501"),
        ),
        (
            "authenticated",
            "room-1",
            "INSERT INTO realtime.messages (topic, channel_name, event) VALUES ('room-1', 'other', 'e')".into(),
            Some("23514"),
        ),
        ("anon", "chat:1", format!("{insforge} ('e', NULL, 'chat:1', '{{}}', 'user', NULL)"), None),
        ("anon", "chat:1", format!("{insforge} ('bad', NULL, 'chat:1', '{{}}', 'user', NULL)"), Some("42501")),
        ("anon", "chat:1", format!("{insforge} ('e', NULL, 'chat:2', '{{}}', 'user', NULL)"), Some("42501")),
        ("anon", "chat:1", format!("{supabase} ('chat:1', 'broadcast', 'bad')"), Some("42501")),
        ("service_role", "", format!("{supabase} ('x', 'broadcast', 'bad')"), None),
    ] {
        let enter = format!(
            "BEGIN; SET LOCAL ROLE {role}; SELECT set_config('realtime.topic', '{topic}', true), set_config('realtime.channel_name', '{topic}', true)"
        );
        admin.batch_execute(&enter).await.unwrap();
        match fails {
            None => admin.batch_execute(&statement).await.unwrap_or_else(|error| panic!("{role} {statement}: {error:?}")),
            Some(code) => assert_eq!(refusal(&admin, &statement).await.0, code, "{role} {statement}"),
        }
        admin.batch_execute("ROLLBACK").await.unwrap();
    }
}

#[tokio::test]
async fn sending_leaves_the_asked_channel_in_force() {
    let (_admin, app) = migrated().await;
    app.batch_execute("BEGIN; SELECT set_config('realtime.topic', 'before', true); SELECT realtime.send('{}', 'e', 'room')")
        .await
        .unwrap();
    let now = "SELECT concat_ws('|', realtime.topic(), coalesce(realtime.channel_name(), 'none'))";
    assert_eq!(text(&app, now).await, "before|none");
    app.batch_execute("COMMIT").await.unwrap();
}

#[tokio::test]
async fn messages_are_in_the_stream_under_their_tables_name_and_writable() {
    let (admin, app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    let slot = format!("messages_{database}");
    admin
        .query(
            "SELECT pg_create_logical_replication_slot($1, 'pgoutput', true)",
            &[&slot],
        )
        .await
        .unwrap();
    app.batch_execute(
        "SELECT realtime.send('{}', 'e', 'room'); INSERT INTO realtime.messages (topic, inserted_at) VALUES ('far', '2099-01-01');
         UPDATE realtime.messages SET wh_delivered_count = 1; DELETE FROM realtime.messages WHERE topic = 'far'",
    )
    .await
    .unwrap();
    let rows = admin
        .query(
            "SELECT data FROM pg_logical_slot_get_binary_changes($1, NULL, NULL, 'proto_version', '1', 'publication_names', 'realtime')",
            &[&slot],
        )
        .await
        .unwrap();
    // partitions are described as well; what counts is whose row it is
    let (mut tables, mut inserted) = (Vec::new(), Vec::new());
    for row in &rows {
        let data: &[u8] = row.get(0);
        let relation = data.get(1..5).unwrap_or_default().to_vec();
        match data[0] {
            b'R' if data[5..].starts_with(b"realtime\0messages\0") => tables.push(relation),
            b'I' => inserted.push(relation),
            _ => {}
        }
    }
    assert_eq!(inserted.len(), 2);
    assert!(inserted.iter().all(|relation| tables.contains(relation)));
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime_enabled_tables").await,
        "0"
    );
}

#[tokio::test]
async fn supabases_own_messages_are_left_to_them() {
    let postgres = Postgres::shared().await;
    let database = postgres.create_database().await.unwrap();
    let mut admin = postgres.connect("postgres", &database).await.unwrap();
    ensure_subscribers(&admin).await;
    admin
        .batch_execute(
            "CREATE SCHEMA realtime;
             CREATE TABLE realtime.messages (topic text NOT NULL, extension text NOT NULL, payload jsonb, event text,
               private boolean DEFAULT false, inserted_at timestamp DEFAULT now() NOT NULL, id uuid DEFAULT gen_random_uuid() NOT NULL,
               PRIMARY KEY (id, inserted_at)) PARTITION BY RANGE (inserted_at);
             CREATE FUNCTION realtime.topic() RETURNS text LANGUAGE sql STABLE AS $$ SELECT 'theirs'::text $$",
        )
        .await
        .unwrap();
    let shape = "SELECT string_agg(attname, ',' ORDER BY attnum) || relrowsecurity::text || coalesce(relacl::text, '')
                   FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
                  WHERE attrelid = 'realtime.messages'::regclass AND attnum > 0 GROUP BY relrowsecurity, relacl::text";
    let before = text(&admin, shape).await;

    let report = migrate::migrate(&mut admin).await.unwrap();
    assert_eq!(text(&admin, shape).await, before);
    let kept = notes(&report, NoteKind::Kept);
    let said: Vec<&str> = kept.iter().map(|note| note.what.as_str()).collect();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(
        said[0].contains("realtime.messages") && said[0].contains("send_binary"),
        "{said:?}"
    );
    assert!(said[1].contains("realtime.topic()"), "{said:?}");
    let missing = notes(&report, NoteKind::Missing);
    assert_eq!(missing.len(), 1, "{missing:?}");
    let ours = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'realtime'::regnamespace AND proname IN ('send', 'send_binary', 'broadcast_changes')";
    assert_eq!(text(&admin, ours).await, "0");
    assert_eq!(text(&admin, "SELECT realtime.topic()").await, "theirs");
    let keeps = "SELECT realtime.walcast_messages_add_day('2040-01-01') || coalesce(realtime.walcast_messages_expire('1 hour'), '')";
    assert_eq!(text(&admin, keeps).await, "not ours");

    // what the remedy says
    let remedy = missing[0].remedy.as_deref().unwrap();
    admin
        .batch_execute(&remedy[..=remedy.find(';').unwrap()])
        .await
        .unwrap();
    let again = migrate::migrate(&mut admin).await.unwrap();
    assert!(
        notes(&again, NoteKind::Missing).is_empty(),
        "{:?}",
        again.notes
    );
}

#[tokio::test]
async fn what_was_dropped_is_made_again() {
    let (_admin, mut app) = migrated().await;
    app.batch_execute("DROP TABLE realtime.messages; DROP FUNCTION realtime.send")
        .await
        .unwrap();
    let report = migrate::migrate(&mut app).await.unwrap();
    let created = notes(&report, NoteKind::Created).len();
    assert_eq!(
        created,
        1 + 6 + 1 + 1,
        "table, grants, publication, send: {:?}",
        report.notes
    );
    app.batch_execute("SELECT realtime.send('{}', 'e', 't')")
        .await
        .unwrap();
}
