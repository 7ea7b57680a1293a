//! Keeps the daily partitions of `realtime.messages`: made ahead, dropped when they are old.
//!
//! How is in the functions `realtime.walcast_messages_add_day` and `…_expire`, which have their owner's
//! rights: the server's login needs EXECUTE on both and owns nothing. They do nothing to a table that is
//! another product's, and one server at a time does something. When nobody keeps partitions, messages go
//! to the default one, where they are found and expire as well: nothing is lost, only slower to remove.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use walcast_source::{SourceError, connect_sql};

/// From yesterday, for messages of transactions that began before midnight.
const DAYS: std::ops::RangeInclusive<i32> = -1..=3;
const INTERVAL: Duration = Duration::from_secs(3600);
/// After an error, or when a lock was not to be had.
const RETRY: Duration = Duration::from_secs(60);
/// The longest round, and its longest statement.
const PATIENCE: Duration = Duration::from_secs(300);
/// Rounds in a row that are given up before it is worth a warning: an hour.
const BUSY_ROUNDS_MAX: u32 = 60;
/// Portions of one round: what expired in a year is gone after two.
const PORTIONS_MAX: usize = 500;

/// Until `stop`. Never fatal: errors are logged, once for each time that it begins to fail.
pub(crate) async fn keep_partitions(url: String, retention: Duration, stop: CancellationToken) {
    let mut failing = false;
    let mut busy_rounds = 0;
    loop {
        let round = timeout(PATIENCE, keep(&url, retention));
        let kept = tokio::select! {
            () = stop.cancelled() => return,
            kept = round => kept.unwrap_or(Err(KeepError::Timeout)),
        };
        busy_rounds = match kept {
            Ok(Round::Busy) => busy_rounds + 1,
            _ => 0,
        };
        if busy_rounds == BUSY_ROUNDS_MAX {
            warn!(
                remedy = "end transactions that have been open for an hour: pg_stat_activity, xact_start",
                "partitions of realtime.messages can't be made or dropped, for some transaction always holds them"
            );
        }
        let pause = match kept {
            Ok(Round::Complete) => INTERVAL,
            Ok(Round::Busy) | Err(_) => RETRY,
        };
        match kept {
            Ok(_) => failing = false,
            Err(error) if !std::mem::replace(&mut failing, true) => {
                warn!(%error, remedy = error.remedy(), "the partitions of realtime.messages are not kept");
            }
            Err(error) => debug!(%error, "the partitions of realtime.messages are still not kept"),
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Round {
    Complete,
    /// Transactions hold what is to be made or dropped.
    Busy,
}

async fn keep(url: &str, retention: Duration) -> Result<Round, KeepError> {
    let client = connect_sql(url, "walcast partitions").await?;
    let patience = format!("SET statement_timeout = {}", PATIENCE.as_millis());
    client.batch_execute(&patience).await?;
    let mut made = Round::Complete;
    for ahead in DAYS {
        if or_busy(add_day(&client, ahead).await)? == Round::Busy {
            made = Round::Busy;
        }
    }
    match or_busy(expire(&client, retention).await)? {
        Round::Complete => Ok(made),
        Round::Busy => Ok(Round::Busy),
    }
}

/// A lock that was not to be had is no error.
fn or_busy(done: Result<Round, Error>) -> Result<Round, Error> {
    match done {
        Err(error) if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) => Ok(Round::Busy),
        done => done,
    }
}

async fn add_day(client: &Client, ahead: i32) -> Result<Round, Error> {
    let sql =
        "SELECT realtime.walcast_messages_add_day((now() AT TIME ZONE 'UTC')::date + $1::int4)";
    let row = client.query_one(sql, &[&ahead]).await?;
    match row.try_get::<_, &str>(0)? {
        "created" => info!(ahead, "made a day's partition of realtime.messages"),
        "in default" => debug!(
            ahead,
            "a day's messages stay in the default partition of realtime.messages"
        ),
        _ => {}
    }
    Ok(Round::Complete)
}

async fn expire(client: &Client, retention: Duration) -> Result<Round, Error> {
    let sql = "SELECT realtime.walcast_messages_expire(make_interval(secs => $1::float8))";
    let statement = client.prepare(sql).await?;
    for _ in 0..PORTIONS_MAX {
        let row = client
            .query_one(&statement, &[&retention.as_secs_f64()])
            .await?;
        match row.try_get::<_, Option<&str>>(0)? {
            None => return Ok(Round::Complete),
            Some(what) if what.starts_with("busy") => {
                debug!(what, "an old partition of realtime.messages is in use");
                return Ok(Round::Busy);
            }
            Some(what) => info!(what, "removed old messages from realtime.messages"),
        }
    }
    Ok(Round::Busy)
}

#[derive(Debug, thiserror::Error)]
enum KeepError {
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    #[error(transparent)]
    Connect(#[from] SourceError),
    #[error("{}", .0.code().map_or("connection lost", SqlState::code))]
    Query(#[from] Error),
}

impl KeepError {
    fn remedy(&self) -> &'static str {
        let code = match self {
            KeepError::Query(error) => error.code(),
            KeepError::Timeout | KeepError::Connect(_) => None,
        };
        match code {
            Some(code) if *code == SqlState::INSUFFICIENT_PRIVILEGE => {
                "GRANT USAGE ON SCHEMA realtime, and EXECUTE ON FUNCTION realtime.walcast_messages_add_day, \
                 realtime.walcast_messages_expire, to the login of database_url (proto-docs/sql.md)"
            }
            Some(code)
                if *code == SqlState::UNDEFINED_FUNCTION
                    || *code == SqlState::INVALID_SCHEMA_NAME =>
            {
                "run walcast migrate"
            }
            Some(code) if *code == SqlState::DUPLICATE_TABLE => {
                "a table in schema realtime has the name of a day's partition: rename it or drop it"
            }
            Some(code) if *code == SqlState::READ_ONLY_SQL_TRANSACTION => {
                "the database is read-only: the primary's server does it"
            }
            _ => "none needed: it is tried again every minute",
        }
    }
}

#[cfg(test)]
mod tests {
    use walcast_harness::Postgres;

    use super::*;

    /// The partitions of days, in their order.
    async fn days(admin: &Client) -> String {
        let days = "SELECT string_agg(c.relname, ' ' ORDER BY c.relname) FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                     WHERE i.inhparent = 'realtime.messages'::regclass AND c.relname LIKE 'messages\\_%'";
        admin.query_one(days, &[]).await.unwrap().get(0)
    }

    async fn drop_last_day(admin: &Client) {
        let days = days(admin).await;
        let last = days.split(' ').next_back().unwrap();
        let drop = format!("DROP TABLE realtime.{last}");
        admin.batch_execute(&drop).await.unwrap();
    }

    #[tokio::test]
    async fn a_round_makes_what_is_missing_and_removes_what_is_old() {
        let postgres = Postgres::shared().await;
        let database = postgres.create_database().await.unwrap();
        let mut admin = postgres.connect("postgres", &database).await.unwrap();
        let url = postgres.url("postgres", &database);
        let hour = Duration::from_secs(3600);

        let early = keep(&url, hour).await.expect_err("nothing is migrated");
        assert_eq!(early.remedy(), "run walcast migrate", "{early}");
        crate::migrate::migrate(&mut admin).await.unwrap();
        let before = days(&admin).await;
        admin
            .batch_execute(
                "SELECT realtime.walcast_messages_add_day('2001-02-03');
                 INSERT INTO realtime.messages (topic, inserted_at) VALUES ('old', '2001-02-03 10:00'), ('older', '2001-01-01')",
            )
            .await
            .unwrap();
        drop_last_day(&admin).await;
        assert!(matches!(keep(&url, 100 * hour).await, Ok(Round::Complete)));
        let after = days(&admin).await;
        // Midnight may have come meanwhile.
        assert!(after.starts_with(&before), "{before}, then {after}");
        let left = admin
            .query_one("SELECT count(*) FROM realtime.messages", &[])
            .await;
        assert_eq!(left.unwrap().get::<_, i64>(0), 0);
    }

    #[tokio::test]
    async fn a_login_without_the_grant_is_told_which() {
        let postgres = Postgres::shared().await;
        let database = postgres.create_database().await.unwrap();
        let mut admin = postgres.connect("postgres", &database).await.unwrap();
        crate::migrate::migrate(&mut admin).await.unwrap();
        admin
            .batch_execute("CREATE ROLE without_grants LOGIN; GRANT USAGE ON SCHEMA realtime TO without_grants")
            .await
            .unwrap();
        let url = postgres.url("without_grants", &database);
        let refused = keep(&url, RETRY).await.expect_err("it may not");
        assert!(refused.remedy().contains("EXECUTE"), "{refused}");
        admin
            .batch_execute("GRANT EXECUTE ON FUNCTION realtime.walcast_messages_add_day, realtime.walcast_messages_expire TO without_grants")
            .await
            .unwrap();
        assert!(matches!(keep(&url, RETRY).await, Ok(Round::Complete)));
    }

    #[tokio::test]
    async fn a_transaction_in_the_way_is_busy_and_no_error() {
        let postgres = Postgres::shared().await;
        let database = postgres.create_database().await.unwrap();
        let mut admin = postgres.connect("postgres", &database).await.unwrap();
        crate::migrate::migrate(&mut admin).await.unwrap();
        let url = postgres.url("postgres", &database);
        drop_last_day(&admin).await;
        admin
            .batch_execute("BEGIN; INSERT INTO realtime.messages (topic, inserted_at) VALUES ('far', '2090-01-01')")
            .await
            .unwrap();
        let busy = keep(&url, 100 * RETRY).await.unwrap();
        assert_eq!(busy, Round::Busy, "the default partition is held");
        admin
            .batch_execute("COMMIT; BEGIN; LOCK TABLE realtime.messages")
            .await
            .unwrap();
        let busy = keep(&url, 100 * RETRY).await.unwrap();
        assert_eq!(busy, Round::Busy, "all of it is held");
        admin.batch_execute("COMMIT").await.unwrap();
        assert_eq!(keep(&url, 100 * RETRY).await.unwrap(), Round::Complete);
    }
}
