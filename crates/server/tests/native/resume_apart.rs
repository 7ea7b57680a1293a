//! Clients that come back beside others who are in trouble: nobody waits for somebody else's.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio_postgres::Client;
use walcast_harness::{Postgres, Socket, eventually};

use crate::resume::{cursor, durable, missed, resume};
use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, now, subscribe, token_with};

/// Far less than the half minute for which it is tried to judge whom nobody can judge.
const SOON: Duration = Duration::from_secs(25);

/// Whoever judges `todos` for Alice waits while somebody has [`hold`].
const WAITS_FOR_ALICE: &str = "
    create function may_see() returns bool language plpgsql volatile as $$
    begin
        if auth.jwt() ->> 'sub' like 'a11ce%' then
            perform pg_advisory_xact_lock_shared(7);
        end if;
        return true;
    end $$;
    drop policy own_rows on todos;
    create policy waits on todos for select to authenticated using (may_see());";

async fn hold(stage: &Stage) -> Result<Client> {
    let postgres = Postgres::shared().await;
    let holder = postgres.connect("postgres", &stage.database).await?;
    holder.batch_execute("select pg_advisory_lock(7)").await?;
    Ok(holder)
}

async fn release(holder: &Client) -> Result<()> {
    Ok(holder.batch_execute("select pg_advisory_unlock(7)").await?)
}

fn todos(from: i32, to: i32) -> String {
    format!("insert into todos select n, '{BOB}', 'x', 's' from generate_series({from}, {to}) n")
}

/// Knows where in the log something was: what was committed before [`Clock::tick`] comes before its
/// cursor, and is in the log.
struct Clock {
    notes: Socket,
    id: i32,
}

impl Clock {
    async fn new(stage: &Stage) -> Result<Clock> {
        let notes = stage.subscriber(BOB, "table:notes").await?;
        Ok(Clock { notes, id: 0 })
    }

    async fn tick(&mut self, stage: &Stage) -> Result<String> {
        self.id += 1;
        let insert = format!("insert into notes values ({}, 'tick')", self.id);
        stage.execute(&insert).await?;
        cursor(&self.notes.next_json(DEADLINE).await?)
    }
}

/// The ids of the rows up to `last`, whether caught up or live.
async fn ids_until(socket: &mut Socket, last: i64) -> Result<Vec<i64>> {
    let mut ids = Vec::new();
    while ids.last() != Some(&last) {
        let message = socket.next_json(DEADLINE).await?;
        ids.extend(message["payload"]["record"]["id"].as_i64());
    }
    Ok(ids)
}

#[tokio::test]
async fn who_can_not_be_judged_leaves_the_others_of_its_walk() -> Result<()> {
    let stage = durable().await?;
    stage.execute(WAITS_FOR_ALICE).await?;
    let mut clock = Clock::new(&stage).await?;
    let at = clock.tick(&stage).await?;
    stage.execute(&todos(1, 12)).await?;
    clock.tick(&stage).await?;
    let holder = hold(&stage).await?;
    let (mut alice, mut bob) = (stage.connect(ALICE).await?, stage.connect(BOB).await?);
    let request = json!({ "type": "subscribe", "channel": "table:todos", "since": at });
    // Both at once: they share a walk.
    alice.send_json(&request).await?;
    bob.send_json(&request).await?;
    let begun = Instant::now();
    assert_eq!(bob.next_json(DEADLINE).await?["recovered"], true);
    assert_eq!(missed(&mut bob).await?.0, (1..=12).collect::<Vec<i64>>());
    let took = begun.elapsed();
    assert!(took < SOON, "Bob has waited for Alice: {took:?}");
    assert_eq!(alice.next_json(DEADLINE).await?["recovered"], true);
    stage.execute(&todos(13, 13)).await?;
    assert_eq!(ids_until(&mut bob, 13).await?, [13]);
    release(&holder).await?;
    let ids = ids_until(&mut alice, 13).await?;
    assert_eq!(ids, (1..=13).collect::<Vec<i64>>());
    stage.execute(&todos(14, 14)).await?;
    assert_eq!(ids_until(&mut alice, 14).await?, [14]);
    Ok(())
}

/// Takes as long as the server is patient.
#[tokio::test]
async fn who_can_not_be_judged_for_long_is_told_a_gap_and_goes_on() -> Result<()> {
    let stage = durable().await?;
    stage.execute(WAITS_FOR_ALICE).await?;
    let mut clock = Clock::new(&stage).await?;
    let at = clock.tick(&stage).await?;
    stage.execute(&todos(1, 2)).await?;
    clock.tick(&stage).await?;
    let holder = hold(&stage).await?;
    let (mut alice, _) = resume(&stage, ALICE, "table:todos", &at).await?;
    let gap = alice.next_json(Duration::from_secs(90)).await?;
    assert_eq!(
        (&gap["event"], &gap["reason"]),
        (&json!("gap"), &json!("unjudged"))
    );
    let caught_up = alice.next_json(DEADLINE).await?;
    assert_eq!(caught_up["event"], "caught_up", "{caught_up}");
    release(&holder).await?;
    stage.execute(&todos(3, 3)).await?;
    assert_eq!(ids_until(&mut alice, 3).await?, [3]);
    Ok(())
}

#[tokio::test]
async fn who_comes_back_soon_is_not_behind_those_from_far_back() -> Result<()> {
    const CLIENTS: i32 = 6;
    const WALKS: i32 = 4;
    const ROWS: i32 = 40;
    // Those far back are read one after the other, and answer no ping before.
    let settings = [("slot_mode", "durable"), ("idle_timeout", "10m")];
    let stage = Stage::on(Postgres::shared().await, &settings).await?;
    stage
        .execute(
            "create function slow() returns bool language plpgsql volatile as $$
             begin perform pg_sleep(0.08); return true; end $$;
             drop policy own_rows on todos;
             create policy slow on todos for select to authenticated using (slow())",
        )
        .await?;
    let mut clock = Clock::new(&stage).await?;
    let mut places = Vec::new();
    for nth in 0..CLIENTS {
        places.push(clock.tick(&stage).await?);
        stage
            .execute(&todos(nth * ROWS + 1, (nth + 1) * ROWS))
            .await?;
    }
    // What is left over of a segment of WAL counts for the distance.
    for _ in 0..3 {
        clock.tick(&stage).await?;
        stage.execute("select pg_switch_wal()").await?;
    }
    let recent = clock.tick(&stage).await?;
    clock.tick(&stage).await?;
    let mut far = Vec::new();
    // Each wants what the walks before it have gone past, as many as there may be.
    for (nth, at) in (0..CLIENTS).zip(&places).rev() {
        let mut socket = stage.connect(ALICE).await?;
        let request = json!({ "type": "subscribe", "channel": "table:todos", "since": at });
        socket.send_json(&request).await?;
        let mut ids = Vec::new();
        if CLIENTS - nth <= WALKS {
            assert_eq!(socket.next_json(DEADLINE).await?["recovered"], true);
            let event = socket.next_json(DEADLINE).await?;
            ids.extend(event["payload"]["record"]["id"].as_i64());
        }
        far.push((nth, socket, ids));
    }
    let begun = Instant::now();
    let (mut bob, _) = resume(&stage, BOB, "table:notes", &recent).await?;
    assert_eq!(missed(&mut bob).await?.0, [i64::from(clock.id)]);
    let took = begun.elapsed();
    // The walks of those far back take 3, 6, 10 … seconds, and two wait for their turn before him.
    assert!(
        took < Duration::from_secs(8),
        "Bob has waited for those far back: {took:?}"
    );
    for (nth, mut socket, mut ids) in far {
        if ids.is_empty() {
            // Its turn comes when another's walk is over, which is long where judging is slower still.
            let turn = socket.next_json(4 * DEADLINE).await?;
            assert_eq!(turn["recovered"], true);
        }
        ids.extend(missed(&mut socket).await?.0);
        let expected: Vec<i64> = (nth * ROWS + 1..=CLIENTS * ROWS).map(i64::from).collect();
        assert_eq!(ids, expected);
    }
    Ok(())
}

fn member(team: &str) -> String {
    let claims =
        json!({ "sub": ALICE, "role": "authenticated", "exp": now() + 3600, "team": team });
    token_with(claims)
}

/// `first` is done for every row that is judged; it may look at its `id`.
async fn of_teams(first: &str) -> Result<Stage> {
    let stage = durable().await?;
    stage
        .execute(&format!(
            "create table teams (id int primary key, team text);
             alter table teams enable row level security;
             create function of_team(id int, team text) returns bool language plpgsql volatile as $$
             begin {first}; return team = auth.jwt() ->> 'team'; end $$;
             create policy own_team on teams for select using (of_team(id, team));
             grant select on teams to authenticated;
             select enable_realtime('teams');",
        ))
        .await?;
    Ok(stage)
}

/// Waits until a check waits for this.
async fn is_judged(stage: &Stage, waits_for: &str) -> Result<()> {
    let check =
        "select from pg_stat_activity where datname = current_database() and wait_event = $1";
    eventually(DEADLINE, async || {
        let found = stage.sql.query(check, &[&waits_for]).await.ok()?;
        (!found.is_empty()).then_some(())
    })
    .await
}

const TEAMS: &str = "insert into teams
    select n, case n % 2 when 0 then 'blue' else 'red' end from generate_series(1, 10) n";

/// A client of the red team that comes back; what it missed is in [`TEAMS`].
async fn of_reds(stage: &Stage) -> Result<Socket> {
    let mut clock = Clock::new(stage).await?;
    let at = clock.tick(stage).await?;
    stage.execute(TEAMS).await?;
    clock.tick(stage).await?;
    let mut socket = stage.connect_with_token(&member("red")).await?;
    let request = json!({ "channel": "table:teams", "since": at });
    subscribe(&mut socket, request).await?;
    Ok(socket)
}

/// The ids of what comes before this message.
async fn ids_before(socket: &mut Socket, last: impl Fn(&Value) -> bool) -> Result<Vec<i64>> {
    let mut messages = socket.until(last, DEADLINE).await?;
    messages.pop();
    let ids = messages.iter().map(|message| {
        let id = message["payload"]["record"]["id"].as_i64();
        id.with_context(|| format!("a record in {message}"))
    });
    ids.collect()
}

#[tokio::test]
async fn a_token_does_not_wait_for_those_who_can_not_be_judged() -> Result<()> {
    let stage = of_teams("perform pg_advisory_xact_lock_shared(7)").await?;
    let holder = hold(&stage).await?;
    let mut socket = of_reds(&stage).await?;
    // It is tried, and will be again.
    is_judged(&stage, "advisory").await?;
    let begun = Instant::now();
    let renewed = json!({ "type": "access_token", "token": member("blue") });
    assert_eq!(ask(&mut socket, renewed).await?["status"], "updated");
    let took = begun.elapsed();
    assert!(took < SOON, "the token has waited: {took:?}");
    release(&holder).await?;
    assert_eq!(missed(&mut socket).await?.0, [2, 4, 6, 8, 10]);
    Ok(())
}

#[tokio::test]
async fn what_only_the_old_token_allowed_is_not_sent_after_the_new_ones_acknowledgement()
-> Result<()> {
    // Some are judged and handed out, and the next ones are being judged until the lock is released.
    let stage = of_teams(
        "if id > 4 then
             while not pg_try_advisory_xact_lock_shared(7) loop perform pg_sleep(0.05); end loop;
         end if",
    )
    .await?;
    let holder = hold(&stage).await?;
    let mut socket = of_reds(&stage).await?;
    is_judged(&stage, "PgSleep").await?;
    let renewed = json!({ "type": "access_token", "token": member("blue") });
    socket.send_json(&renewed).await?;
    let before = ids_before(&mut socket, |message| message["status"] == "updated").await?;
    release(&holder).await?;
    let after = ids_before(&mut socket, |message| message["event"] == "caught_up").await?;
    // What was handed out as red is behind it, the rest is judged as blue.
    assert!([1, 3].starts_with(&before), "{before:?} {after:?}");
    assert!([2, 4, 6, 8, 10].ends_with(&after), "{before:?} {after:?}");
    assert!(after.ends_with(&[6, 8, 10]), "{before:?} {after:?}");
    Ok(())
}
