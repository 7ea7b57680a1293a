//! Who sees what, while many look on and rights change under them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::time::sleep;
use walcast_harness::{Role, Socket, Subscriber, Writer};

use crate::report::by_form;
use crate::stage::{DEADLINE, DURABLE, OWNERS, SECRET, Stage, usual};

/// Many subscribers of six roles: each gets its rows and nobody else's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d43_sixty_subscribers_of_six_roles() -> Result<()> {
    let mut stage = Stage::new("D43 60 subscribers, 6 roles", &[], &[]).await?;
    stage.record(60).await?;
    let load = stage.load(usual(600)).await?;
    sleep(Duration::from_secs(by_form(4, 20))).await;
    let book = load.finish().await?;
    stage.judge(book).await.map(drop)
}

/// Rows that are gone before anybody could ask the table for them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d47_inserted_and_deleted_at_once() -> Result<()> {
    let mut stage = Stage::new("D47 rows of a millisecond", DURABLE, &[]).await?;
    stage.record(12).await?;
    let mut writer = Writer::new(&stage.url(), 1, stage.seed, OWNERS);
    for nth in 0..by_form(100, 1000) {
        writer.flash(1 + nth % 5, nth % 2 == 0).await?;
    }
    stage.judge(writer.into_book()).await.map(drop)
}

/// How a right is taken away and given back, and from whom.
struct Revocation {
    name: &'static str,
    role: Role,
    revoke: &'static str,
    restore: &'static str,
    /// From its commit on; else within [`CATALOGUE`], for the stream tells nothing of it.
    at_once: bool,
}

const REVOCATIONS: &[Revocation] = &[
    Revocation {
        name: "membership deleted",
        role: Role::Team,
        revoke: "delete from ledger_members where member = ledger_user(1)",
        restore: "insert into ledger_members values (ledger_user(1), ledger_user(1))",
        at_once: true,
    },
    Revocation {
        name: "membership deleted, behind a function",
        role: Role::Auditor,
        revoke: "delete from ledger_members where member = ledger_user(1)",
        restore: "insert into ledger_members values (ledger_user(1), ledger_user(1))",
        at_once: true,
    },
    Revocation {
        name: "DROP POLICY",
        role: Role::Authenticated,
        revoke: "drop policy own on ledger",
        restore: "create policy own on ledger for select to authenticated, masked using (owner = auth.uid())",
        at_once: true,
    },
    Revocation {
        name: "ALTER POLICY",
        role: Role::Authenticated,
        revoke: "alter policy own on ledger using (false)",
        restore: "alter policy own on ledger using (owner = auth.uid())",
        at_once: true,
    },
    Revocation {
        name: "restrictive policy",
        role: Role::Team,
        revoke: "create policy stop on ledger as restrictive for select to team using (owner <> ledger_user(1))",
        restore: "drop policy stop on ledger",
        at_once: true,
    },
    Revocation {
        name: "REVOKE SELECT",
        role: Role::Auditor,
        revoke: "revoke select on ledger from auditor",
        restore: "grant select on ledger to auditor",
        at_once: true,
    },
    Revocation {
        name: "REVOKE SELECT of a table that a policy reads",
        role: Role::Team,
        revoke: "revoke select on ledger_members from team",
        restore: "grant select on ledger_members to team",
        at_once: true,
    },
    Revocation {
        name: "a function of a policy is replaced",
        role: Role::Auditor,
        revoke: "create or replace function ledger_audits(candidate uuid) returns boolean language sql stable
                 security definer set search_path = '' return false",
        restore: "create or replace function ledger_audits(candidate uuid) returns boolean language sql stable
                  security definer set search_path = ''
                  return exists (select from public.ledger_members m
                                 where m.member = auth.uid() and m.owner = candidate)",
        at_once: true,
    },
    Revocation {
        name: "NOBYPASSRLS",
        role: Role::Service,
        revoke: "alter role service_role nobypassrls",
        restore: "alter role service_role bypassrls",
        at_once: false,
    },
    Revocation {
        name: "REVOKE the role from the login",
        role: Role::Anon,
        revoke: "revoke anon from walcast_checks",
        restore: "grant anon to walcast_checks",
        at_once: false,
    },
];

/// Changes of the catalogue alone may take so long to be known.
const CATALOGUE: Duration = Duration::from_secs(1);

/// No event of a row committed after the revocation reaches who lost the right.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d48_revoked_while_streaming() -> Result<()> {
    let mut stage = Stage::new("D48 revocations", &[], &[]).await?;
    let mut sql = Probe {
        stage: &stage,
        id: 0,
    };
    let many = by_form(10, 100);
    for revocation in REVOCATIONS {
        let name = revocation.name;
        let mut victims = Vec::new();
        for _ in 0..many {
            let victim = Subscriber::new(revocation.role, 1);
            victims.push(stage.socket(victim).await?);
        }
        // Another, who sees everything, tells when a row has been judged: a policy that reads other
        // tables is asked as they are by then.
        let other = match revocation.role {
            Role::Service => Role::Authenticated,
            _ => Role::Service,
        };
        let mut other = stage.socket(Subscriber::new(other, 1)).await?;
        let first = sql.insert().await?;
        for victim in &mut victims {
            let seen = victim.row(first).await;
            seen.with_context(|| format!("{name}: before"))?;
        }
        stage.execute(revocation.revoke).await?;
        if !revocation.at_once {
            sleep(CATALOGUE).await;
        }
        let hidden = sql.insert().await?;
        other
            .row(hidden)
            .await
            .with_context(|| format!("{name}: another subscriber"))?;
        stage.execute(revocation.restore).await?;
        sleep(CATALOGUE).await;
        let last = sql.insert().await?;
        for victim in &mut victims {
            let seen = victim.row(last).await;
            let seen = seen.with_context(|| format!("{name}: given back"))?;
            assert!(!seen.contains(&hidden), "{name}: row {hidden} was seen");
        }
    }
    stage.figures.faults += REVOCATIONS.len();
    let note = format!("{many} clients that lose each of them");
    stage.figures.notes.push(note);
    stage.passed();
    Ok(())
}

/// A column that is taken away is in no record from then on; the rest goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d48_a_column_is_revoked() -> Result<()> {
    let stage = Stage::new("D48 column revoked", &[], &[]).await?;
    let mut sql = Probe {
        stage: &stage,
        id: 0,
    };
    stage
        .execute("revoke select on ledger from auditor; grant select (id, body, version) on ledger to auditor")
        .await?;
    sleep(CATALOGUE).await;
    let mut client = stage.socket(Subscriber::new(Role::Auditor, 1)).await?;
    let id = sql.insert().await?;
    let record = client.record(id).await?;
    assert!(
        record.get("body").is_some() && record.get("owner").is_none(),
        "{record}"
    );
    stage
        .execute("revoke select (body) on ledger from auditor")
        .await?;
    sleep(CATALOGUE).await;
    let id = sql.insert().await?;
    let record = client.record(id).await?;
    assert!(
        record.get("body").is_none() && record.get("version").is_some(),
        "{record}"
    );
    stage.passed();
    Ok(())
}

/// Inserts rows of owner 1, with even versions.
struct Probe<'s> {
    stage: &'s Stage,
    id: i64,
}

impl Probe<'_> {
    async fn insert(&mut self) -> Result<i64> {
        self.id += 2;
        let insert = "insert into ledger values ($1, ledger_user(1), $1, ledger_body($1))";
        self.stage.sql.execute(insert, &[&self.id]).await?;
        Ok(self.id)
    }
}

/// A subscribed client that is read by hand.
pub(crate) struct Client {
    pub(crate) socket: Socket,
}

impl Stage {
    pub(crate) async fn socket(&self, subscriber: Subscriber) -> Result<Client> {
        self.socket_on(subscriber, "table:ledger").await
    }

    pub(crate) async fn socket_on(&self, subscriber: Subscriber, channel: &str) -> Result<Client> {
        let token = subscriber.token(SECRET)?;
        let address = format!("ws://{}/realtime?token={token}", self.address);
        let mut socket = Socket::connect(&address).await?;
        socket
            .send_json(&json!({ "type": "subscribe", "channel": channel }))
            .await?;
        let answer = socket.next_json(DEADLINE).await?;
        anyhow::ensure!(answer["type"] == "ack", "{subscriber:?}: {answer}");
        Ok(Client { socket })
    }
}

impl Client {
    /// Reads up to the row, and returns the ids before it.
    pub(crate) async fn row(&mut self, id: i64) -> Result<Vec<i64>> {
        let is = |message: &Value| message["payload"]["record"]["id"] == id;
        let messages = self.socket.until(is, DEADLINE).await?;
        let ids = messages
            .iter()
            .filter_map(|message| message["payload"]["record"]["id"].as_i64());
        Ok(ids.filter(|other| *other != id).collect())
    }

    async fn record(&mut self, id: i64) -> Result<Value> {
        let is = |message: &Value| message["payload"]["record"]["id"] == id;
        let message = self.socket.expect(is, DEADLINE).await?;
        Ok(message["payload"]["record"].clone())
    }
}
