//! Policies that raise, sleep, change who they are, or leave something behind: they cost their own
//! subscriber its rows, and nobody else anything.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use walcast_harness::{Message, Role, Subscriber, user};

use crate::report::by_form;
use crate::stage::{DEADLINE, Stage};

/// A word that stands in every row and may stand nowhere else than in rows that may be seen.
const SECRET_WORD: &str = "tok-12345-sesame";

/// A function for the policy of role `team` on a table of its own.
struct Trap {
    name: &'static str,
    /// The body of `trap(id bigint, body text) returns boolean`, in PL/pgSQL.
    body: &'static str,
}

const TRAPS: &[Trap] = &[
    Trap {
        name: "raises",
        body: "raise exception 'no: % %', id, body;",
    },
    Trap {
        name: "raises_with_data",
        body: "return body::int > 0;",
    },
    Trap {
        name: "divides_by_zero",
        body: "return 1 / (id - id) > 0;",
    },
    Trap {
        name: "sleeps",
        body: "perform pg_sleep(60); return true;",
    },
    Trap {
        name: "recurses",
        body: "return exists (select from recurses r where r.id = id);",
    },
    Trap {
        name: "resets_role",
        body: "execute 'reset role'; return false;",
    },
    Trap {
        name: "role_none",
        body: "perform set_config('role', 'none', false); return false;",
    },
    Trap {
        name: "becomes_service",
        body: "perform set_config('role', 'service_role', false); return false;",
    },
    Trap {
        name: "poisons_claims",
        body: "perform set_config('request.jwt.claims', '{\"sub\":\"00000000-0000-4000-8000-000000000001\"}', false);
               return false;",
    },
    Trap {
        name: "poisons_search_path",
        body: "perform set_config('search_path', 'evil, public', false); return false;",
    },
    Trap {
        name: "poisons_row_security",
        body: "perform set_config('row_security', 'off', false); return false;",
    },
    Trap {
        name: "poisons_timeout",
        body: "perform set_config('statement_timeout', '1ms', false); return false;",
    },
    Trap {
        name: "poisons_a_name",
        body: "perform set_config('poison.left', 'behind', false); return false;",
    },
    Trap {
        name: "locks",
        body: "perform pg_advisory_lock(1); return false;",
    },
    Trap {
        name: "writes",
        body: "insert into written values (id); return false;",
    },
    Trap {
        name: "cancels_itself",
        body: "perform pg_cancel_backend(pg_backend_pid()); perform pg_sleep(1); return true;",
    },
    Trap {
        name: "ends_its_session",
        body: "perform pg_terminate_backend(pg_backend_pid()); perform pg_sleep(1); return true;",
    },
    Trap {
        name: "spills",
        body: "return length(repeat('x', 1000000000 + id::int)) < 0;",
    },
];

/// Beside the traps: a table whose policy checks that it runs as it should, and denies otherwise.
const SPIED: &str = "
    create schema evil;
    grant usage, create on schema public, evil to team;
    create function evil.now() returns timestamptz language sql return '1970-01-01'::timestamptz;
    create table written (id bigint);
    grant all on written to team;
    create table spied (id bigint primary key, body text);
    alter table spied enable row level security;
    create function is_undisturbed() returns boolean language plpgsql volatile as $$
    begin
        return current_user = 'authenticated'
           and session_user = 'walcast_checks'
           and current_setting('request.jwt.claims')::jsonb ->> 'sub' = '{user}'
           and current_setting('row_security') = 'on'
           and current_setting('search_path') not like '%evil%'
           and current_setting('statement_timeout') not in ('1ms', '0')
           and coalesce(current_setting('poison.left', true), '') = '';
    end $$;
    create policy spy on spied for select to authenticated using (is_undisturbed());
    grant select on spied to authenticated;
    select enable_realtime('spied');";

fn table(trap: &Trap) -> String {
    let Trap { name, body } = trap;
    format!(
        "create table {name} (id bigint primary key, body text);
         alter table {name} enable row level security;
         create function trap_{name}(id bigint, body text) returns boolean language plpgsql volatile as $$
         begin {body} end $$;
         create policy trap on {name} for select to team using (trap_{name}(id, body));
         create policy plain on {name} for select to authenticated using (id > 0);
         grant select on {name} to team, authenticated;
         select enable_realtime('{name}');"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d50_d51_hostile_policies() -> Result<()> {
    let rounds = by_form(2, 10);
    let mut stage = Stage::new(
        "D50/D51 hostile policies",
        &[],
        // Those who do not sleep are judged in time, on a busy machine too.
        &[("rls_statement_timeout", by_form("10s", "1s"))],
    )
    .await?;
    stage.execute(&SPIED.replace("{user}", &user(1))).await?;
    let mut id = 0;
    let mut slowest = Duration::ZERO;
    let mut spy = stage
        .socket_on(Subscriber::new(Role::Authenticated, 1), "table:spied")
        .await?;
    for trap in TRAPS {
        let name = trap.name;
        stage.execute(&table(trap)).await.with_context(|| name)?;
        let channel = format!("table:{name}");
        let mut victim = stage
            .socket_on(Subscriber::new(Role::Team, 1), &channel)
            .await?;
        let mut other = stage
            .socket_on(Subscriber::new(Role::Authenticated, 1), &channel)
            .await?;
        for _ in 0..rounds {
            let begin = Instant::now();
            // In one transaction, so that the trap's check stands before the spy's.
            let mut rows = Vec::new();
            for _ in 0..3 {
                id += 1;
                rows.push(id);
                stage
                    .execute(&format!(
                        "begin;
                         insert into {name} values ({id}, '{SECRET_WORD}');
                         insert into spied values ({id}, 'x');
                         commit"
                    ))
                    .await?;
            }
            for row in rows {
                let seen = other
                    .row(row)
                    .await
                    .with_context(|| format!("{name}: another subscriber"))?;
                assert!(
                    seen.is_empty(),
                    "{name}: in order, each once: {seen:?} before {row}"
                );
                let seen = spy
                    .row(row)
                    .await
                    .with_context(|| format!("{name}: the spy"))?;
                assert!(
                    seen.is_empty(),
                    "{name}: in order, each once: {seen:?} before {row}"
                );
            }
            slowest = slowest.max(begin.elapsed());
        }
        nothing_was_seen(&mut victim, name).await?;
    }
    let log = stage.server().log();
    assert!(!log.contains(SECRET_WORD), "a row's value is in the log");
    let written: i64 = stage
        .sql
        .query_one("select count(*) from written", &[])
        .await?
        .get(0);
    assert_eq!(written, 0, "no check writes");
    stage.figures.faults += TRAPS.len();
    stage.figures.notes.push(format!(
        "{} policies; others waited at most {:.1} s",
        TRAPS.len(),
        slowest.as_secs_f64()
    ));
    stage.passed();
    Ok(())
}

/// What it got, up to the answer of a ping, has no event and no word of the row.
async fn nothing_was_seen(victim: &mut crate::rights::Client, name: &str) -> Result<()> {
    victim
        .socket
        .send(Message::text(r#"{"type":"ping"}"#))
        .await?;
    let messages = victim
        .socket
        .until(|message| message["type"] == "pong", DEADLINE)
        .await?;
    for message in messages {
        assert!(message["type"] != "broadcast", "{name}: {message}");
        assert!(
            !message.to_string().contains(SECRET_WORD),
            "{name}: {message}"
        );
    }
    Ok(())
}
