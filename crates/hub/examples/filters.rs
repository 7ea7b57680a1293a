//! What a change of a public table costs by how many subscribe to it, each with a filter of its own:
//! `cargo run --release -p walcast-hub --example filters`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use tokio_postgres::NoTls;
use walcast_change::{Operation, Row, Shape, Types};
use walcast_harness::Postgres;
use walcast_hub::{
    Audience, ConnId, Events, Filter, Member, Outbox, Spec, Standing, SubscriptionId, Target,
};
use walcast_pgoutput::encode::tuple;
use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity, Value};
use walcast_rls::{CheckConfig, Connector, PostgresCheck, Question, RowCheck, Version, Viewer};

const SQL: &str = "
    CREATE ROLE authenticated; CREATE ROLE checker LOGIN NOINHERIT; GRANT authenticated TO checker;
    CREATE TABLE t (id int PRIMARY KEY, body text); GRANT SELECT ON t TO authenticated;
    CREATE PUBLICATION realtime FOR ALL TABLES;";

const BATCH: i32 = 100;

#[tokio::main]
async fn main() -> Result<()> {
    let postgres = Postgres::start().await?;
    let admin = postgres.connect("postgres", "postgres").await?;
    admin.batch_execute(SQL).await?;
    let oid = admin.query_one("SELECT 't'::regclass::oid", &[]).await?;
    let shape = shape(oid.try_get(0)?);
    let url = postgres.url("checker", "postgres");
    let connector = Connector::new(move || {
        let url = url.clone();
        async move {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await?;
            tokio::spawn(connection);
            Ok::<_, tokio_postgres::Error>(client)
        }
    });
    for subscribers in [100, 1_000, 10_000] {
        for filtered in [true, false] {
            let mut check = PostgresCheck::connect(CheckConfig::new(connector.clone())).await?;
            let audience = audience(subscribers, filtered, &mut check)?;
            for lookup in [false, true] {
                let (each, delivered) = measure(&mut check, &audience, &shape, lookup).await?;
                println!(
                    "{subscribers:>6} subscribers, {}, {}: {each:>10.1?} a change, {delivered} deliveries",
                    if filtered {
                        "each its filter"
                    } else {
                        "no filters     "
                    },
                    if lookup { "lookup" } else { "all   " },
                );
            }
        }
    }
    Ok(())
}

/// The time of one change, and how many wanted one of the batch.
async fn measure(
    check: &mut PostgresCheck,
    audience: &Audience,
    shape: &Arc<Shape>,
    lookup: bool,
) -> Result<(Duration, usize)> {
    let rows: Vec<Row> = (0..BATCH).map(|id| row(shape, id)).collect();
    let (mut rounds, mut delivered) = (0, 0);
    let mut begin = Instant::now();
    while rounds < 20 && begin.elapsed().as_secs() < 4 {
        let questions = rows.iter().map(|row| Question {
            row: row.clone(),
            version: Version::New,
            xid: None,
            viewers: Vec::new(),
            among: lookup.then(|| audience.candidates(row)).flatten(),
        });
        let questions: Vec<_> = questions.collect();
        let found = check.sweep(&questions, &|_, _| true).await;
        delivered = 0;
        for (row, sightings) in rows.iter().zip(&found) {
            for sighting in sightings {
                let groups = audience.groups_of(sighting.viewer, row.shape());
                let filters = groups.map(|group| group.spec.filter.as_ref());
                let wanted = filters
                    .filter(|filter| filter.is_none_or(|filter| filter.selects(row) == Some(true)));
                delivered += wanted.count();
            }
        }
        rounds += 1;
        if rounds == 1 {
            begin = Instant::now(); // the first one reads the catalogue
        }
    }
    Ok((
        begin.elapsed() / (rounds.max(2) - 1) / BATCH as u32,
        delivered,
    ))
}

fn audience(subscribers: u64, filtered: bool, check: &mut PostgresCheck) -> Result<Audience> {
    let mut audience = Audience::new();
    for n in 0..subscribers {
        let filter = filtered.then(|| Filter::parse(&format!("id=eq.{n}")));
        let spec = Spec {
            target: Target {
                schema: "public".into(),
                table: Some("t".into()),
            },
            events: Events::parse("*").context("all events")?,
            filter: filter.transpose()?,
            channel: "table:t".into(),
            format: 0,
            tag: 0,
            columns: None,
        };
        let viewer = Viewer {
            role: "authenticated".into(),
            claims: format!("{{\"sub\":\"{n}\"}}").into(),
        };
        let member = Member {
            outbox: Arc::new(Outbox::new(1 << 20)),
            gate: None,
            standing: Arc::new(Standing::new(viewer.clone())),
        };
        audience.subscribe(SubscriptionId(n), ConnId(n), &viewer, spec.into(), member)?;
        check.watch(n as u32, &viewer, "public", Some("t"));
    }
    Ok(audience)
}

fn shape(oid: u32) -> Arc<Shape> {
    let column = |(name, oid): (&'static str, u32)| Column {
        key: name == "id",
        name: Bytes::from_static(name.as_bytes()),
        type_oid: oid,
        type_modifier: -1,
    };
    let relation = Relation {
        id: RelationId(oid),
        schema: Bytes::from_static(b"public"),
        name: Bytes::from_static(b"t"),
        identity: ReplicaIdentity::Default,
        columns: [("id", 23), ("body", 25)].into_iter().map(column).collect(),
    };
    Arc::new(Shape::new(&relation, None, &Types::default()))
}

fn row(shape: &Arc<Shape>, id: i32) -> Row {
    let id = id.to_string();
    let values = [Value::Text(id.as_bytes()), Value::Text(b"body")];
    match Operation::insert(shape, tuple(values)) {
        Operation::Insert { new } => new,
        other => panic!("an insert is {other:?}"),
    }
}
