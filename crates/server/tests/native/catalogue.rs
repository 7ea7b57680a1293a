//! What the stream does not say of a table, where the catalogue can't be asked about it.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::{Postgres, Socket, eventually};

use crate::stage::{ALICE, DEADLINE, Stage, subscribe};

const TAGS: &str = "
    create table tags (id int primary key, body text);
    grant select on tags to authenticated;
    select enable_realtime('tags');
    alter table tags set (autovacuum_enabled = false), replica identity full;
    alter table notes replica identity full;";

#[tokio::test]
async fn a_table_s_key_is_remembered_and_asked_for_again() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage.execute(TAGS).await?;
    let mut notes = reader(&stage, "notes").await?;
    let mut tags = reader(&stage, "tags").await?;
    assert_eq!(
        left(&stage, &mut notes, "notes", 1).await?,
        json!({"id": 1})
    );

    let admin = Postgres::shared().await;
    let admin = admin.connect("postgres", "postgres").await?;
    let database = &stage.database;
    let allow = format!("alter database {database} allow_connections");
    admin.batch_execute(&format!("{allow} false")).await?;
    let end = "select pg_terminate_backend(pid) from pg_stat_activity
               where datname = $1 and application_name = 'walcast catalogue'";
    eventually(DEADLINE, async || {
        let ended = admin.query(end, &[database]).await.ok()?;
        ended.is_empty().then_some(())
    })
    .await
    .context("the catalogue's connections end")?;
    // The next change describes the table anew.
    stage.execute("alter table notes add more int").await?;
    assert_eq!(
        left(&stage, &mut notes, "notes", 2).await?,
        json!({"id": 2}),
        "the key is the one that was known"
    );
    assert_eq!(
        left(&stage, &mut tags, "tags", 1).await?,
        json!({"id": 1, "body": "in"}),
        "nothing was known of it so far"
    );

    admin.batch_execute(&format!("{allow} true")).await?;
    let mut id = 2;
    eventually(DEADLINE, async || {
        id += 1;
        let key = left(&stage, &mut tags, "tags", id).await.ok()?;
        (key == json!({ "id": id })).then_some(())
    })
    .await
    .context("the key is asked for again")
}

async fn reader(stage: &Stage, table: &str) -> Result<Socket> {
    let mut socket = stage.connect(ALICE).await?;
    let ask = json!({ "channel": format!("table:{table}"), "filter": "body=eq.in" });
    subscribe(&mut socket, ask).await?;
    Ok(socket)
}

/// What is told of a row that no longer matches.
async fn left(stage: &Stage, socket: &mut Socket, table: &str, id: i32) -> Result<Value> {
    let rows = format!(
        "insert into {table} values ({id}, 'in'); update {table} set body = 'out' where id = {id}"
    );
    stage.execute(&rows).await?;
    let is_left = |message: &Value| message["payload"]["reason"] == "left";
    let message = socket.expect(is_left, DEADLINE).await?;
    Ok(message["payload"]["old_record"].clone())
}
