//! What tables and statements come in all shapes: keys, names, large values, partitions, and every way
//! to write a row. Each is told as what it is to who subscribed to it.

use anyhow::{Context, Result};
use serde_json::{Value, json};
use walcast_harness::{Role, Socket, Subscriber};

use crate::stage::{DEADLINE, SECRET, Stage};

/// A client that bypasses row-level security, subscribed to the ledger's marks and to more.
struct Listener {
    socket: Socket,
}

impl Listener {
    async fn new(stage: &Stage, channels: &[&str]) -> Result<Listener> {
        Listener::with(stage, Role::Service, channels).await
    }

    async fn with(stage: &Stage, role: Role, channels: &[&str]) -> Result<Listener> {
        let token = Subscriber::new(role, 1).token(SECRET)?;
        let address = format!("ws://{}/realtime?token={token}", stage.address);
        let socket = Socket::connect(&address).await?;
        let mut listener = Listener { socket };
        listener.subscribe("table:ledger").await?;
        for channel in channels {
            listener.subscribe(channel).await?;
        }
        Ok(listener)
    }

    async fn subscribe(&mut self, channel: &str) -> Result<()> {
        let ask = json!({ "type": "subscribe", "channel": channel });
        self.socket.send_json(&ask).await?;
        let answer = self.socket.next_json(DEADLINE).await?;
        anyhow::ensure!(answer["type"] == "ack", "{channel}: {answer}");
        Ok(())
    }

    /// The payloads of everything up to now.
    async fn payloads(&mut self, stage: &mut Stage) -> Result<Vec<Value>> {
        let mark = stage.mark().await?;
        let is_mark = |message: &Value| message["payload"]["record"]["id"] == mark;
        let mut messages = self.socket.until(is_mark, DEADLINE).await?;
        messages.pop();
        let payloads = messages.iter_mut().map(|one| one["payload"].take());
        Ok(payloads.filter(|one| one["table"] != "ledger").collect())
    }

    /// The same, one line each: event, table, old row, new row, columns that are left out.
    async fn told(&mut self, stage: &mut Stage) -> Result<Vec<String>> {
        let payloads = self.payloads(stage).await?;
        Ok(payloads.iter().map(line).collect())
    }
}

fn line(payload: &Value) -> String {
    let mut line = payload["type"].as_str().unwrap_or("?").to_owned();
    line.push(' ');
    line.push_str(payload["table"].as_str().unwrap_or("?"));
    for (sign, part) in [(" -", "old_record"), (" +", "record"), (" !", "unchanged")] {
        if !payload[part].is_null() {
            line.push_str(&format!("{sign}{}", payload[part]));
        }
    }
    line
}

/// `(what is done, what is told)`, one after the other.
async fn check(stage: &mut Stage, channels: &[&str], steps: &[(&str, &[&str])]) -> Result<()> {
    let mut listener = Listener::new(stage, channels).await?;
    for (statements, expected) in steps {
        stage.execute(statements).await?;
        let told = listener.told(stage).await?;
        assert_eq!(told, *expected, "{statements}");
    }
    Ok(())
}

/// Too large for a page, and not to be compressed.
const LONG: &str = "(select string_agg(md5(n::text), '') from generate_series(1, 400) n)";

/// Large values that an UPDATE leaves alone: there, or named as left out. Never null.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c37_large_values_left_alone() -> Result<()> {
    let mut stage = Stage::new("C37 large values", &[], &[]).await?;
    for (identity, whole) in [
        ("default", false),
        ("using index large_other", false),
        ("full", true),
    ] {
        let create = format!(
            "drop table if exists large;
             create table large (id int primary key, other int not null, a int, b text, c text[], d jsonb);
             create unique index large_other on large (other);
             alter table large alter b set storage external, alter c set storage external, alter d set storage external;
             grant select on large to service_role;
             select enable_realtime('large');
             alter table large replica identity {identity}"
        );
        stage.execute(&create).await?;
        let mut listener = Listener::new(&stage, &["table:large"]).await?;
        let write = format!(
            "insert into large select 1, 1, 1, l, array[l, null], jsonb_build_object('l', l) from {LONG} s (l);
             update large set a = 2;
             update large set id = 2, other = 2;
             update large set b = null where id = 2;
             delete from large"
        );
        stage.execute(&write).await?;
        let payloads = listener.payloads(&mut stage).await?;
        assert_eq!(payloads.len(), 5, "{identity}");
        let payloads = &payloads[1..];
        for (nth, payload) in payloads.iter().enumerate().take(3) {
            let left: &[&str] = if nth == 2 {
                &["c", "d"]
            } else {
                &["b", "c", "d"]
            };
            let record = payload["record"].as_object().context("a record")?;
            for name in left {
                let marked = payload["unchanged"]
                    .as_array()
                    .is_some_and(|names| names.contains(&json!(name)));
                let there = record.get(*name).is_some_and(|value| !value.is_null());
                assert_eq!((there, marked), (whole, !whole), "{identity} {nth} {name}");
            }
        }
        let nulled = &payloads[2]["record"];
        assert_eq!(nulled.get("b"), Some(&Value::Null), "{identity}");
        assert_eq!(payloads[3]["type"], "DELETE", "{identity}");
    }
    // Without any identity Postgres refuses the application's UPDATE; rows that come are told.
    stage
        .execute("alter table large replica identity nothing")
        .await?;
    let steps: &[(&str, &[&str])] = &[(
        "insert into large values (5, 5, 5, 'b', '{c}', '{}')",
        &[r#"INSERT large +{"a":5,"b":"b","c":["c"],"d":{},"id":5,"other":5}"#],
    )];
    check(&mut stage, &["table:large"], steps).await?;
    stage.passed();
    Ok(())
}

/// Types of keys, with two values of each.
const KEYS: &[(&str, &str, &str)] = &[
    ("bool", "true", "false"),
    ("int2", "-32768", "32767"),
    ("int4", "0", "2147483647"),
    ("int8", "9007199254740993", "-9223372036854775808"),
    ("numeric", "1.50", "NaN"),
    ("float8", "0.1", "-Infinity"),
    ("text", "", "a\"b\\c\u{1f600}"),
    ("varchar(5)", "x", "yy"),
    ("char(4)", "x", "yy"),
    ("\"char\"", "x", "y"),
    ("name", "x", "Y y"),
    ("bytea", "\\x00ff", "\\x"),
    (
        "uuid",
        "00000000-0000-4000-8000-000000000001",
        "ffffffff-ffff-ffff-ffff-ffffffffffff",
    ),
    ("date", "0044-03-15 BC", "infinity"),
    ("time", "24:00", "00:00:00.000001"),
    ("timetz", "12:00+05:30", "12:00-08"),
    ("timestamp", "294276-12-31", "-infinity"),
    ("timestamptz", "2020-01-01 00:00:00.123456+00", "infinity"),
    ("interval", "1 year 2 mons -3 days +04:05:06.7", "0"),
    ("inet", "10.0.0.1/8", "::1"),
    ("cidr", "10.0.0.0/8", "::/0"),
    ("macaddr", "08:00:2b:01:02:03", "00:00:00:00:00:00"),
    ("bit(3)", "101", "000"),
    ("varbit", "1", ""),
    ("oid", "1", "4294967295"),
    ("money", "1.5", "-2"),
    ("pg_lsn", "0/1", "FFFFFFFF/0"),
    ("jsonb", "{\"a\": [1]}", "1.10"),
    ("int4range", "[1,5)", "empty"),
    ("text[]", "{a,NULL,\"\"}", "{}"),
    ("mood", "good", "not, so"),
    ("positive", "1", "9223372036854775807"),
    ("pair", "(1,a)", "(,)"),
];

/// A key of any type names its row: when it comes, when it changes, when it goes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c38_keys_of_all_types() -> Result<()> {
    let mut stage = Stage::new("C38 keys of all types", &[], &[]).await?;
    stage
        .execute(
            "create type mood as enum ('good', 'not, so'); create domain positive as int8 check (value > 0);
             create type pair as (a int, b text)",
        )
        .await?;
    let mut channels = Vec::new();
    for (nth, (kind, ..)) in KEYS.iter().enumerate() {
        let create = format!(
            "create table key_{nth} (k {kind} primary key, v int);
             alter table key_{nth} enable row level security;
             create policy all_rows on key_{nth} for select to authenticated using (k is distinct from null);
             grant select on key_{nth} to authenticated;
             select enable_realtime('key_{nth}');"
        );
        stage.execute(&create).await.with_context(|| *kind)?;
        channels.push(format!("table:key_{nth}"));
    }
    let channels: Vec<_> = channels.iter().map(String::as_str).collect();
    let mut listener = Listener::with(&stage, Role::Authenticated, &channels).await?;
    for (nth, (kind, first, second)) in KEYS.iter().enumerate() {
        let table = format!("key_{nth}");
        let statements = format!(
            "insert into {table} values ($k${first}$k$, 1);
             update {table} set v = 2;
             update {table} set k = $k${second}$k$;
             delete from {table}"
        );
        let json = format!(
            "select to_jsonb($k${first}$k$::{kind})::text, to_jsonb($k${second}$k$::{kind})::text"
        );
        stage.execute(&statements).await.with_context(|| *kind)?;
        let payloads = listener.payloads(&mut stage).await?;
        assert!(
            payloads.iter().all(|one| one["table"] == table),
            "{kind}: {payloads:?}"
        );
        let types: Vec<_> = payloads.iter().map(|one| &one["type"]).collect();
        assert_eq!(types, ["INSERT", "UPDATE", "UPDATE", "DELETE"], "{kind}");
        let row = stage.sql.query_one(&json, &[]).await?;
        let (first, second): (String, String) = (row.get(0), row.get(1));
        let (first, second): (Value, Value) = (
            serde_json::from_str(&first)?,
            serde_json::from_str(&second)?,
        );
        let keys = [
            &payloads[0]["record"]["k"],
            &payloads[1]["record"]["k"],
            &payloads[2]["old_record"]["k"],
            &payloads[2]["record"]["k"],
            &payloads[3]["old_record"]["k"],
        ];
        let expected = [&first, &first, &first, &second, &second];
        assert_eq!(keys, expected, "{kind}");
    }
    stage.passed();
    Ok(())
}

/// Names that need quotes, with everything in them that could be taken for something else.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c38_names_of_all_kinds() -> Result<()> {
    let mut stage = Stage::new("C38 names", &[], &[]).await?;
    let long = "ü".repeat(31) + "x"; // 63 bytes
    let pairs = [
        ("a.b", "c"),
        ("a", "b.c"),
        ("a\"b", "c\"\"d"),
        ("Public", "T"),
        ("public", "t"),
        ("x y", "\u{1f600} *:,=&?"),
        (&long, &long),
        ("s", "table:t"),
        ("select", "user"),
    ];
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    let mut listener = Listener::new(&stage, &[]).await?;
    for (schema, table) in pairs {
        let name = format!("{}.{}", quoted(schema), quoted(table));
        let create = format!(
            "create schema if not exists {}; grant usage on schema {0} to service_role, walcast_checks;
             create table {name} (\"B.b\" text, \"a\"\"A\" int, primary key (\"B.b\", \"a\"\"A\"));
             grant select on {name} to service_role;
             select enable_realtime($n${name}$n$)",
            quoted(schema)
        );
        stage.execute(&create).await?;
        listener
            .subscribe(&format!("table:{name}"))
            .await
            .with_context(|| name.clone())?;
    }
    for (schema, table) in pairs {
        let name = format!("{}.{}", quoted(schema), quoted(table));
        let statements = format!(
            "insert into {name} values ('x', 1); update {name} set \"a\"\"A\" = 2; delete from {name}"
        );
        stage.execute(&statements).await?;
        let payloads = listener.payloads(&mut stage).await?;
        let places: Vec<_> = payloads
            .iter()
            .map(|one| (&one["schema"], &one["table"]))
            .collect();
        assert_eq!(places, [(&json!(schema), &json!(table)); 3]);
        let row = |n| json!({ "B.b": "x", "a\"A": n });
        assert_eq!(payloads[0]["record"], row(1), "{name}");
        assert_eq!(
            (&payloads[1]["old_record"], &payloads[1]["record"]),
            (&row(1), &row(2)),
            "{name}"
        );
        assert_eq!(payloads[2]["old_record"], row(2), "{name}");
    }
    stage.passed();
    Ok(())
}

/// One TRUNCATE of many tables; rows that move between partitions; partitions that come and go.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c39_truncations_partitions_inheritance() -> Result<()> {
    let mut stage = Stage::new("C39 partitions", &[], &[]).await?;
    stage
        .execute(
            "create table mother (id int primary key);
             create table daughter (id int primary key, of int references mother);
             create table days (id int, day int, primary key (id, day)) partition by range (day);
             create table days_1 partition of days for values from (1) to (10);
             create table days_2 partition of days for values from (10) to (20);
             create table days_3 (id int, day int, primary key (id, day));
             insert into days_3 values (30, 20);
             create table plain (id int primary key);
             create table heir (more int, primary key (id)) inherits (plain);
             grant select on all tables in schema public to service_role;
             select enable_realtime('mother'), enable_realtime('daughter'), enable_realtime('days'), enable_realtime('plain')",
        )
        .await?;
    let channels = [
        "table:mother",
        "table:daughter",
        "table:days",
        "table:plain",
    ];
    let steps: &[(&str, &[&str])] = &[
        (
            "insert into mother values (1); insert into daughter values (1, 1)",
            &[
                r#"INSERT mother +{"id":1}"#,
                r#"INSERT daughter +{"id":1,"of":1}"#,
            ],
        ),
        (
            "truncate mother cascade",
            &["TRUNCATE mother", "TRUNCATE daughter"],
        ),
        (
            "truncate plain, mother, daughter",
            &["TRUNCATE plain", "TRUNCATE mother", "TRUNCATE daughter"],
        ),
        (
            "insert into days values (1, 1); update days set day = 2 where id = 1; update days set day = 11 where id = 1",
            &[
                r#"INSERT days +{"day":1,"id":1}"#,
                r#"UPDATE days -{"day":1,"id":1} +{"day":2,"id":1}"#,
                r#"DELETE days -{"day":2,"id":1}"#,
                r#"INSERT days +{"day":11,"id":1}"#,
            ],
        ),
        // Postgres publishes no truncation of a part under the name of the whole.
        ("truncate days_2", &[]),
        (
            "alter table days attach partition days_3 for values from (20) to (30); insert into days values (2, 25)",
            &[r#"INSERT days +{"day":25,"id":2}"#],
        ),
        (
            "update days set id = 31 where id = 30",
            &[r#"UPDATE days -{"day":20,"id":30} +{"day":20,"id":31}"#],
        ),
        // What is no longer a part is another table, and nobody published that.
        (
            "alter table days detach partition days_3; insert into days_3 values (3, 26)",
            &[],
        ),
        (
            "insert into days values (4, 4)",
            &[r#"INSERT days +{"day":4,"id":4}"#],
        ),
        ("truncate days", &["TRUNCATE days"]),
        // An heir's rows are the heir's.
        (
            "insert into heir values (7, 8); insert into plain values (9)",
            &[r#"INSERT plain +{"id":9}"#],
        ),
    ];
    check(&mut stage, &channels, steps).await?;
    stage.passed();
    Ok(())
}

/// Every way to write a row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c40_every_way_to_write() -> Result<()> {
    let mut stage = Stage::new(
        "C40 every way to write",
        &[("max_prepared_transactions", "5")],
        &[],
    )
    .await?;
    stage
        .execute(
            "create table t (id int primary key, a int default 1);
             create table made (id int primary key, twice int generated always as (id * 2) stored);
             create table c (id int primary key, t int references t on delete cascade deferrable initially deferred);
             create table noted (id int primary key);
             create function doubles() returns trigger language plpgsql as
                $$ begin new.a := new.a * 10; return new; end $$;
             create function notes() returns trigger language plpgsql as
                $$ begin insert into noted values (new.id); return null; end $$;
             grant select on t, c, noted, made to service_role;
             select enable_realtime('t'), enable_realtime('c'), enable_realtime('noted'), enable_realtime('made');
             alter table t replica identity default; alter table c replica identity default;
             alter table noted replica identity default",
        )
        .await?;
    let steps: &[(&str, &[&str])] = &[
        (
            "begin; insert into t values (1); prepare transaction 'two'",
            &[],
        ),
        ("commit prepared 'two'", &[r#"INSERT t +{"a":1,"id":1}"#]),
        (
            "begin; insert into t values (2); prepare transaction 'undone'",
            &[],
        ),
        ("rollback prepared 'undone'", &[]),
        (
            "begin; insert into t values (3); savepoint s; insert into t values (4); rollback to s;
             savepoint u; insert into t values (5); release u; commit",
            &[r#"INSERT t +{"a":1,"id":3}"#, r#"INSERT t +{"a":1,"id":5}"#],
        ),
        (
            "copy t (id, a) from program 'printf \"10\\t1\\n11\\t2\\n12\\t3\\n\"'",
            &[
                r#"INSERT t +{"a":1,"id":10}"#,
                r#"INSERT t +{"a":2,"id":11}"#,
                r#"INSERT t +{"a":3,"id":12}"#,
            ],
        ),
        (
            "insert into t values (10, 7) on conflict (id) do update set a = excluded.a;
             insert into t values (10, 8) on conflict do nothing",
            &[r#"UPDATE t +{"a":7,"id":10}"#],
        ),
        (
            "begin; insert into c values (1, 20); insert into t values (20); commit",
            &[
                r#"INSERT c +{"id":1,"t":20}"#,
                r#"INSERT t +{"a":1,"id":20}"#,
            ],
        ),
        (
            "delete from t where id = 20",
            &[r#"DELETE t -{"id":20}"#, r#"DELETE c -{"id":1}"#],
        ),
        (
            "create trigger doubles before insert on t for each row execute function doubles();
             create trigger notes after insert on t for each row execute function notes();
             insert into t values (30, 3), (31, 4)",
            &[
                r#"INSERT t +{"a":30,"id":30}"#,
                r#"INSERT t +{"a":40,"id":31}"#,
                r#"INSERT noted +{"id":30}"#,
                r#"INSERT noted +{"id":31}"#,
            ],
        ),
        (
            "update t set a = a where id = 3",
            &[r#"UPDATE t +{"a":1,"id":3}"#],
        ),
        (
            "merge into t using (values (3, 5), (99, 9)) as s (id, a) on t.id = s.id
               when matched then update set a = s.a when not matched then do nothing",
            &[r#"UPDATE t +{"a":5,"id":3}"#],
        ),
        (
            "begin; insert into noted values (100); rollback; begin; delete from noted; rollback",
            &[],
        ),
    ];
    check(&mut stage, &["table:t", "table:c", "table:noted"], steps).await?;
    // Before version 18 Postgres tells nothing of columns that it makes itself.
    let version = "select current_setting('server_version_num')::int >= 180000";
    let made: &[&str] = match stage.sql.query_one(version, &[]).await?.get(0) {
        true => &[r#"INSERT made +{"id":1,"twice":2}"#],
        false => &[r#"INSERT made +{"id":1}"#],
    };
    let steps = [("insert into made values (1)", made)];
    check(&mut stage, &["table:made"], &steps).await?;
    stage.passed();
    Ok(())
}

/// Databases whose bytes are not UTF-8. Nobody knows what those of SQL_ASCII mean: `doctor` says so, and
/// who is judged by Postgres does not see rows that it can't be asked about.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c41_other_encodings() -> Result<()> {
    // Encoding, what is written, what is told, to whom it is told that is judged.
    let cases: [(_, _, _, &[&str]); 2] = [
        (
            "LATIN1",
            "chr(255) || chr(233)",
            "\u{ff}\u{e9}",
            &["\u{ff}\u{e9}", "plain"],
        ),
        ("SQL_ASCII", r"E'\xff' || 'é'", "\u{fffd}é", &["plain"]),
    ];
    for (encoding, value, told, judged_by_postgres) in cases {
        let mut stage = Stage::unstarted("C41 encodings", &[], &[]).await?;
        let database = format!("in_{}", encoding.to_lowercase());
        let create = format!(
            "create database {database} encoding '{encoding}' locale 'C' template template0"
        );
        stage.execute(&create).await?;
        stage.database = database;
        stage.reconnect().await?;
        let (url, checks) = (
            stage.url(),
            stage.postgres.url("walcast_checks", &stage.database),
        );
        stage.set("database_url", &url);
        stage.set("rls_database_url", &checks);
        let (fine, out, errors) = stage.run(&["migrate"]).await?;
        assert!(fine, "{encoding}: {out}{errors}");
        stage.execute(walcast_harness::SCHEMA).await?;
        stage.marker = walcast_harness::Writer::new(&url, 63, stage.seed, 1);
        stage
            .execute(
                "create table t (id int primary key, v text);
                 alter table t enable row level security;
                 create function reads(v text) returns boolean language plpgsql volatile as $$ begin return v <> ''; end $$;
                 create policy p on t for select to authenticated using (reads(v));
                 grant select on t to authenticated, service_role;
                 select enable_realtime('t')",
            )
            .await?;
        stage.start().await?;
        stage.server().ready().await?;
        let mut service = Listener::new(&stage, &["table:t"]).await?;
        let mut judged = Listener::with(&stage, Role::Authenticated, &["table:t"]).await?;
        let insert = format!("insert into t values (1, {value}), (2, 'plain')");
        stage.execute(&insert).await?;
        let payloads = service.payloads(&mut stage).await?;
        let values: Vec<_> = payloads.iter().map(|one| &one["record"]["v"]).collect();
        assert_eq!(values, [told, "plain"], "{encoding}");
        let payloads = judged.payloads(&mut stage).await?;
        let values: Vec<_> = payloads.iter().map(|one| &one["record"]["v"]).collect();
        assert_eq!(values, judged_by_postgres, "{encoding}, judged");
        let (_, out, errors) = stage.run(&["doctor"]).await?;
        assert_eq!(
            format!("{out}{errors}").contains("SQL_ASCII"),
            encoding == "SQL_ASCII",
            "{out}"
        );
        stage.done();
    }
    Ok(())
}
