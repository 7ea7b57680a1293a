//! What asking Postgres once for each subscriber and change costs: a PL/pgSQL loop that puts the
//! session into the subscriber's place and looks for the row by its key. Walrus, the program that
//! answers for Supabase's subscribers, does it like this.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio_postgres::Client;
use walcast_rls::Viewer;

use super::policies::ROWS;

const PROBE: &str = "
    CREATE FUNCTION probe(target regclass, key bigint, role text, claims text[]) RETURNS int LANGUAGE plpgsql AS $$
    DECLARE one text; found bool; count int := 0;
    BEGIN
      IF EXISTS (SELECT FROM pg_prepared_statements WHERE name = 'probe_one') THEN DEALLOCATE probe_one; END IF;
      EXECUTE format('PREPARE probe_one AS SELECT EXISTS (SELECT 1 FROM %s WHERE id = %s)', target, key);
      FOREACH one IN ARRAY claims LOOP
        PERFORM set_config('role', role, true), set_config('request.jwt.claims', one, true);
        EXECUTE 'EXECUTE probe_one' INTO found;
        count := count + found::int;
      END LOOP;
      PERFORM set_config('role', 'none', true);
      RETURN count;
    END $$;";

const CALL: &str = "SELECT probe($1::text::regclass, $2, 'authenticated', $3)";

/// Viewers that it is measured with: the others cost the same each.
const SLICE: usize = 100;
const CELL: Duration = Duration::from_millis(700);

pub(crate) async fn set_up(sql: &Client) -> Result<()> {
    Ok(sql.batch_execute(PROBE).await?)
}

/// How many of the viewers see the first row.
pub(crate) async fn visible(sql: &Client, table: &str, viewers: &[Viewer]) -> Result<usize> {
    let claims: Vec<&str> = viewers.iter().map(|viewer| &*viewer.claims).collect();
    let count: i32 = sql.query_one(CALL, &[&table, &0i64, &claims]).await?.get(0);
    Ok(usize::try_from(count)?)
}

pub(crate) async fn verdict_seconds(sql: &Client, table: &str, viewers: &[Viewer]) -> Result<f64> {
    let call = sql.prepare(CALL).await?;
    let viewers = viewers.iter().take(SLICE);
    let claims: Vec<&str> = viewers.map(|viewer| &*viewer.claims).collect();
    let (started, mut verdicts, mut key) = (Instant::now(), 0, 0i64);
    while started.elapsed() < CELL {
        sql.query_one(&call, &[&table, &key, &claims]).await?;
        verdicts += claims.len();
        key = (key + 1) % ROWS as i64;
    }
    Ok(started.elapsed().as_secs_f64() / verdicts as f64)
}
