//! The policies that are measured, their tables, and who watches.
//!
//! Each row has its own user, team and, of a hundred, tenant. Whatever the number of viewers, at most
//! one sees a row by owner or team; every hundredth by tenant, everybody where it is public.

use anyhow::Result;
use tokio_postgres::Client;
use walcast_rls::Viewer;

use crate::stage::user;

pub(crate) struct Policy {
    pub(crate) name: &'static str,
    pub(crate) table: &'static str,
    /// The way to judge that it is meant to show.
    pub(crate) way: &'static str,
    sql: &'static str,
    /// Of the ratio to the probe, at 10,000 viewers.
    pub(crate) ratio_min: Option<f64>,
    /// Changes per second, at 10,000 viewers.
    pub(crate) changes_min: Option<f64>,
    /// How much the cost of a change may grow from 100 viewers to 10,000.
    pub(crate) growth_max: Option<f64>,
}

pub(crate) const POLICIES: [Policy; 6] = [
    Policy {
        name: "own row",
        table: "own",
        way: "index",
        sql: "owner = auth.uid()",
        ratio_min: Some(1000.0),
        changes_min: Some(20_000.0),
        growth_max: Some(2.0),
    },
    Policy {
        name: "team membership",
        table: "team",
        way: "set",
        sql: "EXISTS (SELECT 1 FROM members m WHERE m.team = team.team_id AND m.who = auth.uid())",
        ratio_min: Some(200.0),
        changes_min: None,
        growth_max: Some(20.0),
    },
    Policy {
        name: "tenant claim",
        table: "tenant",
        way: "index",
        sql: "tenant_name = (auth.jwt() ->> 'tenant')",
        ratio_min: None,
        changes_min: None,
        growth_max: None,
    },
    Policy {
        name: "tenant claim, lower()",
        table: "odd",
        way: "image", // once for each tenant
        sql: "lower(tenant_name) = lower(auth.jwt() ->> 'tenant')",
        ratio_min: Some(4.0),
        changes_min: None,
        growth_max: None,
    },
    Policy {
        name: "PL/pgSQL, volatile",
        table: "opaque",
        way: "image", // once for each viewer
        sql: "decides(tenant_name, auth.jwt() ->> 'tenant')",
        ratio_min: None,
        changes_min: None,
        growth_max: None,
    },
    Policy {
        name: "public",
        table: "open",
        way: "index",
        sql: "true",
        ratio_min: None,
        changes_min: None,
        growth_max: None,
    },
];

/// Rows of each table.
pub(crate) const ROWS: usize = 500;
const TENANTS: usize = 100;

pub(crate) async fn set_up(sql: &Client) -> Result<()> {
    let id = |number: &str| {
        format!("('7f3e4567-e89b-42d3-a456-' || lpad(({number})::text, 12, '0'))::uuid")
    };
    // Everybody is in a team of one, and in one of many that no row belongs to.
    let mut text = format!(
        "CREATE TABLE members (team int, who uuid, PRIMARY KEY (team, who)); CREATE INDEX ON members (who);
         INSERT INTO members SELECT i, {0} FROM generate_series(0, 9999) i;
         INSERT INTO members SELECT 100000 + i % 100, {0} FROM generate_series(0, 9999) i;
         CREATE FUNCTION decides(a text, b text) RETURNS bool LANGUAGE plpgsql AS $$ BEGIN RETURN a = b; END $$;
         GRANT SELECT ON members TO authenticated;",
        id("i")
    );
    for Policy { table, sql, .. } in &POLICIES {
        text += &format!(
            "CREATE TABLE {table} (id bigint PRIMARY KEY, owner uuid, team_id int, tenant_name text, body text);
             INSERT INTO {table} SELECT i, {}, i % 100, 'tenant ' || i % {TENANTS}, repeat('x', 100)
               FROM generate_series(0, {ROWS} - 1) i;
             GRANT SELECT ON {table} TO authenticated; ALTER TABLE {table} ENABLE ROW LEVEL SECURITY; ALTER TABLE {table} REPLICA IDENTITY FULL;
             CREATE POLICY see ON {table} FOR SELECT USING ({sql}); ANALYZE {table};",
            id("i % 100"),
        );
    }
    sql.batch_execute(&text).await?;
    sql.batch_execute("ANALYZE members; CREATE PUBLICATION rls FOR ALL TABLES")
        .await?;
    Ok(())
}

/// Every one has a token of its own.
pub(crate) fn viewer(number: usize) -> Viewer {
    let (sub, tenant) = (user(number), number % TENANTS);
    Viewer {
        role: "authenticated".into(),
        claims: format!(r#"{{"sub": "{sub}", "role": "authenticated", "tenant": "tenant {tenant}", "iat": {number}}}"#).into(),
    }
}
