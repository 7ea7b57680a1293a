//! The partitions of realtime.messages: made ahead, emptied, dropped, and never in anybody's way.

use tokio_postgres::Client;
use walcast_harness::Postgres;

use crate::{migrated, refusal, text};

const NAMES: &str = "SELECT count(*) || ' ' || min(c.relname) || ' ' || max(c.relname)
    FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
   WHERE i.inhparent = 'realtime.messages'::regclass AND c.relname LIKE 'messages\\_%'";

async fn add(client: &Client, day: &str) -> String {
    text(
        client,
        &format!("SELECT realtime.walcast_messages_add_day('{day}')"),
    )
    .await
}

async fn expire(client: &Client) -> String {
    text(
        client,
        "SELECT realtime.walcast_messages_expire('72 hours')",
    )
    .await
}

#[tokio::test]
async fn the_first_ones_are_there_after_migrating() {
    let expected = "SELECT '5 messages_' || to_char(now() AT TIME ZONE 'UTC' - interval '1 day', 'YYYY_MM_DD')
                        || ' messages_' || to_char(now() AT TIME ZONE 'UTC' + interval '3 days', 'YYYY_MM_DD')";
    let postgres = Postgres::shared().await;
    let clock = postgres.connect("postgres", "postgres").await.unwrap();
    let before = text(&clock, expected).await;
    let (_admin, app) = migrated().await;
    // Midnight may come meanwhile.
    let expected = [before, text(&clock, expected).await];
    let found = text(&app, NAMES).await;
    assert!(expected.contains(&found), "{found} and not {expected:?}");
    app.batch_execute("SELECT realtime.send('{}', 'e', 't')")
        .await
        .unwrap();
    let place = "SELECT tableoid::regclass = format('realtime.messages_%s', to_char(inserted_at, 'YYYY_MM_DD'))::regclass
                   FROM realtime.messages";
    assert_eq!(text(&app, place).await, "true");
}

#[tokio::test]
async fn a_new_one_has_what_the_others_have() {
    let (_admin, app) = migrated().await;
    assert_eq!(add(&app, "2001-02-03").await, "created");
    assert_eq!(add(&app, "2001-02-03").await, "present");
    app.batch_execute("INSERT INTO realtime.messages (topic, inserted_at) VALUES ('t', '2001-02-03 23:59:59.999999')")
        .await
        .unwrap();
    let row = "SELECT concat_ws(' ', tableoid::regclass, channel_name, walcast_seq > 0, payload) FROM realtime.messages";
    assert_eq!(text(&app, row).await, "realtime.messages_2001_02_03 t t {}");
    let like = "SELECT concat_ws(' ', relrowsecurity, relreplident, (SELECT count(*) FROM pg_index WHERE indrelid = c.oid), relacl IS NULL)
                  FROM pg_class c WHERE c.oid = 'realtime.messages_2001_02_03'::regclass";
    assert_eq!(text(&app, like).await, "t d 2 t");
}

#[tokio::test]
async fn a_day_that_the_default_partition_has_stays_there() {
    let (_admin, app) = migrated().await;
    app.batch_execute(
        "INSERT INTO realtime.messages (topic, inserted_at) VALUES ('t', '2090-01-01 12:00')",
    )
    .await
    .unwrap();
    assert_eq!(add(&app, "2090-01-01").await, "in default");
    assert_eq!(add(&app, "2090-01-02").await, "created");
    assert_eq!(
        text(
            &app,
            "SELECT to_regclass('realtime.messages_2090_01_01') IS NULL"
        )
        .await,
        "true"
    );
}

#[tokio::test]
async fn names_and_days_that_others_have_taken() {
    let (_admin, app) = migrated().await;
    app.batch_execute(
        "CREATE TABLE realtime.messages_2090_01_01 (id int);
         CREATE TABLE realtime.mine PARTITION OF realtime.messages FOR VALUES FROM ('2091-01-01') TO ('2092-01-01');
         CREATE TABLE realtime.older PARTITION OF realtime.messages FOR VALUES FROM ('1991-01-01') TO ('1992-01-01')",
    )
    .await
    .unwrap();
    let got = refusal(
        &app,
        "SELECT realtime.walcast_messages_add_day('2090-01-01')",
    )
    .await;
    assert!(got.0 == "42P07" && got.2.contains("RENAME"), "{got:?}");
    assert_eq!(add(&app, "2091-06-01").await, "present");
    assert_eq!(expire(&app).await, "NULL", "only its own are dropped");
}

#[tokio::test]
async fn old_ones_are_emptied_then_dropped_and_the_default_one_is_swept() {
    let (_admin, app) = migrated().await;
    for day in ["2001-02-03", "2001-02-04"] {
        assert_eq!(add(&app, day).await, "created");
    }
    // autovacuum may hold for a while what is to be dropped, which is busy then
    app.batch_execute(
        "ALTER TABLE realtime.walcast_messages_default SET (autovacuum_enabled = false);
         INSERT INTO realtime.messages (topic, inserted_at) VALUES ('a', '2001-02-04 01:00');
         INSERT INTO realtime.messages (topic, inserted_at) SELECT 'b', '2001-03-01' FROM generate_series(1, 5001);
         INSERT INTO realtime.messages (topic, inserted_at) VALUES ('c', '2090-01-01'); SELECT realtime.send('{}', 'e', 'd');
         SET DateStyle = 'German, DMY'", // bounds are read whatever dates look like
    )
    .await
    .unwrap();
    for expected in [
        "emptied messages_2001_02_04",
        "dropped messages_2001_02_03",
        "dropped messages_2001_02_04",
        "deleted 5000 from the default partition",
        "deleted 1 from the default partition",
        "NULL",
    ] {
        assert_eq!(expire(&app).await, expected);
    }
    assert_eq!(
        text(
            &app,
            "SELECT string_agg(topic, ' ' ORDER BY topic) FROM realtime.messages"
        )
        .await,
        "c d"
    );
    let nothing = refusal(&app, "SELECT realtime.walcast_messages_expire('0')").await;
    assert_eq!(nothing.0, "22023", "{nothing:?}");
}

#[tokio::test]
async fn a_transaction_that_sends_is_not_waited_for() {
    let postgres = Postgres::shared().await;
    let (admin, app) = migrated().await;
    let database = text(&admin, "SELECT current_database()").await;
    add(&app, "2001-02-03").await;
    app.batch_execute(
        "INSERT INTO realtime.messages (topic, inserted_at) VALUES ('a', '2001-02-03 01:00')",
    )
    .await
    .unwrap();
    let sender = postgres.connect("app", &database).await.unwrap();
    sender
        .batch_execute("BEGIN; SELECT realtime.send('{}', 'e', 'room')")
        .await
        .unwrap();
    assert_eq!(
        add(&app, "2090-01-01").await,
        "created",
        "beside an open transaction"
    );
    assert_eq!(expire(&app).await, "emptied messages_2001_02_03");
    assert_eq!(expire(&app).await, "busy messages_2001_02_03");
    sender
        .batch_execute("SELECT realtime.send('{}', 'e', 'room'); COMMIT")
        .await
        .unwrap();
    assert_eq!(expire(&app).await, "dropped messages_2001_02_03");
    assert_eq!(
        text(&app, "SELECT count(*) FROM realtime.messages").await,
        "2"
    );
}
