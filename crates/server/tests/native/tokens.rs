//! Tokens in all three places, renewed and running out.

use anyhow::Result;
use serde_json::{Value, json};
use walcast_harness::{Socket, eventually};

use crate::stage::{ALICE, BOB, DEADLINE, Stage, ask, now, subscribe, token, token_with};

/// Seconds: too few to wait for them long, enough for a handshake on a busy machine.
const SHORT: i64 = 10;

/// Gives a connection of Alice's a token that ends in some seconds, once she has done what takes its time.
pub(crate) async fn shorten(socket: &mut Socket) -> Result<()> {
    for _ in 0..10 {
        let token = ending(now() + 3);
        let renewed = json!({ "type": "access_token", "token": token });
        socket.send_json(&renewed).await?;
        let answers =
            |message: &Value| message["status"] == "updated" || message["code"] == "UNAUTHORIZED";
        // One that has ended on its way changes nothing.
        if socket.expect(answers, DEADLINE).await?["status"] == "updated" {
            return Ok(());
        }
    }
    anyhow::bail!("each token ended on its way")
}

fn ending(at: i64) -> String {
    token_with(json!({ "sub": ALICE, "role": "authenticated", "exp": at }))
}

#[tokio::test]
async fn a_token_in_the_url_the_header_or_a_message() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let token = token(ALICE, "authenticated", 3600);
    let mut by_url = stage.connect_with_token(&token).await?;
    let url = stage.walcast.websocket("/realtime");
    let bearer = format!("Bearer {token}");
    let mut by_header = Socket::connect_with(&url, &[("authorization", bearer.as_str())]).await?;
    let mut by_message = Socket::connect(&url).await?;
    let ack = ask(
        &mut by_message,
        json!({ "type": "access_token", "token": token }),
    )
    .await?;
    assert_eq!(
        ack["payload"],
        json!({ "type": "access_token", "updated": true })
    );
    for socket in [&mut by_url, &mut by_header, &mut by_message] {
        subscribe(socket, json!({ "channel": "table:todos" })).await?;
    }
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's')"
        ))
        .await?;
    for socket in [&mut by_url, &mut by_header, &mut by_message] {
        assert_eq!(
            socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
            1
        );
    }
    Ok(())
}

#[tokio::test]
async fn a_token_that_runs_out_ends_the_connection_after_a_warning() -> Result<()> {
    let stage = Stage::new(&[("jwt_leeway", "1ms"), ("token_expiry_warning", "1h")]).await?;
    let end = now() + SHORT;
    let mut socket = stage.connect_with_token(&ending(end)).await?;
    // It is within its last hour from the beginning.
    let warning = socket.next_json(DEADLINE).await?;
    assert_eq!(warning["event"], "token_expiring");
    assert_eq!(warning["expires_at"], end);
    // Whether it is in time to be live, the end comes as it is to.
    let notes = json!({ "type": "subscribe", "channel": "table:notes" });
    socket.send_json(&notes).await?;
    let is_error = |message: &Value| message["type"] == "error";
    let error = socket.expect(is_error, DEADLINE).await?;
    assert_eq!(error["code"], "UNAUTHORIZED");
    assert_eq!(socket.closed(DEADLINE).await?.0, 4001);
    Ok(())
}

#[tokio::test]
async fn a_new_token_in_time_keeps_the_connection() -> Result<()> {
    let stage = Stage::new(&[("jwt_leeway", "1ms"), ("token_expiry_warning", "1h")]).await?;
    let end = now() + SHORT;
    let mut socket = stage.connect_with_token(&ending(end)).await?;
    socket
        .expect(|message| message["event"] == "token_expiring", DEADLINE)
        .await?;
    let renewed = json!({ "type": "access_token", "token": token(ALICE, "authenticated", 7200) });
    let ack = ask(&mut socket, renewed).await?;
    assert_eq!(ack["status"], "updated");
    subscribe(&mut socket, json!({ "channel": "table:notes" })).await?;
    // Past the first token's end, events still come.
    for id in 1.. {
        let is_past = now() > end;
        stage
            .execute(&format!("insert into notes values ({id}, 'x')"))
            .await?;
        assert_eq!(
            socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
            id
        );
        if is_past {
            break;
        }
    }
    Ok(())
}

#[tokio::test]
async fn downgraded_to_anonymous_by_setting() -> Result<()> {
    let settings = [
        ("jwt_leeway", "1ms"),
        ("anonymous", "true"),
        ("expired_token_action", "downgrade"),
        ("token_expiry_warning", "1ms"),
    ];
    let stage = Stage::new(&settings).await?;
    let mut socket = stage.connect(ALICE).await?;
    for channel in ["table:todos", "table:notes"] {
        subscribe(&mut socket, json!({ "channel": channel })).await?;
    }
    shorten(&mut socket).await?;
    let told = socket
        .expect(|message| message["event"] == "token_expired", DEADLINE)
        .await?;
    assert_eq!(told["role"], "anon");
    let lost = socket.next_json(DEADLINE).await?;
    assert_eq!(
        (&lost["code"], &lost["channel"]),
        (&json!("FORBIDDEN"), &json!("table:todos"))
    );
    stage
        .execute(&format!(
            "insert into todos values (1, '{ALICE}', 'a', 's'); insert into notes values (1, 'x');"
        ))
        .await?;
    assert_eq!(
        socket.next_json(DEADLINE).await?["payload"]["table"],
        "notes"
    );
    Ok(())
}

#[tokio::test]
async fn a_connection_stays_its_users() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    let mut socket = stage.subscriber(ALICE, "table:todos").await?;
    let others = json!({ "type": "access_token", "token": token(BOB, "authenticated", 3600) });
    assert_eq!(ask(&mut socket, others).await?["code"], "FORBIDDEN");
    let bad = json!({ "type": "access_token", "token": "nonsense" });
    assert_eq!(ask(&mut socket, bad).await?["code"], "UNAUTHORIZED");
    stage
        .execute(&format!(
            "insert into todos values (1, '{BOB}', 'b', 's'), (2, '{ALICE}', 'a', 's')"
        ))
        .await?;
    assert_eq!(
        socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
        2
    );
    Ok(())
}

#[tokio::test]
async fn a_token_with_fewer_rights_counts_from_its_acknowledgement() -> Result<()> {
    let stage = Stage::new(&[]).await?;
    stage
        .execute(
            "create table teams (id int primary key, team text);
             alter table teams enable row level security;
             create policy own_team on teams for select using (team = auth.jwt() ->> 'team');
             grant select on teams to authenticated;
             select enable_realtime('teams');",
        )
        .await?;
    let member = |team: &str| {
        token_with(
            json!({ "sub": ALICE, "role": "authenticated", "exp": now() + 3600, "team": team }),
        )
    };
    let mut socket = stage.connect_with_token(&member("red")).await?;
    subscribe(&mut socket, json!({ "channel": "table:teams" })).await?;
    stage
        .execute("insert into teams values (1, 'red'), (2, 'blue')")
        .await?;
    assert_eq!(
        socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
        1
    );
    let ack = ask(
        &mut socket,
        json!({ "type": "access_token", "token": member("blue") }),
    )
    .await?;
    assert_eq!(ack["status"], "updated");
    stage
        .execute("insert into teams values (3, 'red'), (4, 'blue')")
        .await?;
    assert_eq!(
        socket.next_json(DEADLINE).await?["payload"]["record"]["id"],
        4
    );
    Ok(())
}

#[tokio::test]
async fn who_says_nothing_about_themselves_is_sent_away() -> Result<()> {
    let stage = Stage::new(&[("handshake_timeout", "3s")]).await?;
    let url = stage.walcast.websocket("/realtime");
    // It holds for the request as well, which a busy machine may not send in time.
    let mut socket = eventually(DEADLINE, async || Socket::connect(&url).await.ok()).await?;
    assert_eq!(socket.next_json(DEADLINE).await?["code"], "UNAUTHORIZED");
    assert_eq!(socket.closed(DEADLINE).await?.0, 4001);
    Ok(())
}
