//! Messages of a topic that were sent before.

use bytes::Bytes;
use tokio_postgres::{Error, Row};

use super::ask::{ChannelAction, ChannelFailure, ChannelRefusal, ChannelViewer};
use super::facts::Facts;
use super::seat::Session;
use crate::CheckConfig;
use crate::lane::{Failure, failure};

/// A message that was sent before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// As Postgres prints a uuid.
    pub id: String,
    pub event: String,
    pub payload: ReplayedPayload,
    /// Microseconds since 1970.
    pub inserted_at_us: i64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayedPayload {
    /// JSON text, as Postgres prints jsonb.
    Json(String),
    Binary(Bytes),
}

pub(crate) struct Request<'a> {
    pub(crate) topic: &'a str,
    pub(crate) since_ms: i64,
    pub(crate) limit: u32,
}

/// To the end of the year 9999.
const SINCE_MS_MAX: i64 = 253_402_300_799_000;

/// The messages in the table that the role finds there itself.
pub(crate) async fn read(
    session: &mut Session<'_>,
    config: &CheckConfig,
    viewer: &ChannelViewer,
    facts: Option<&Facts>,
    request: &Request<'_>,
) -> Result<Result<Vec<Replayed>, ChannelRefusal>, Failure> {
    let role = &viewer.viewer.role;
    if let Err(refusal) = Facts::standing(facts, role, ChannelAction::Read, config) {
        return Ok(Err(refusal));
    }
    let has = |name: &str| facts.is_some_and(|facts| facts.has_column(name));
    let sql = sql(has("walcast_seq"), has("binary_payload"));
    // Postgres applies the policies here, by their parsed form: no name in them can be hidden.
    let prepared = session.prepare(&viewer.viewer, None, |_| sql.clone()).await;
    let since = request.since_ms.clamp(0, SINCE_MS_MAX);
    let limit = i64::from(request.limit);
    let found = match prepared {
        Ok(prepared) => {
            let plans = facts.map_or("force_custom_plan", Facts::plans);
            session
                .transaction(
                    viewer,
                    request.topic,
                    &prepared,
                    &[&request.topic, &since, &limit],
                    plans,
                )
                .await
        }
        Err(failure) => Err(failure),
    };
    let rows = match found {
        Ok(rows) => rows,
        Err(failure) if super::is_of_the_session(&failure) => return Err(failure),
        Err(failure) => return Ok(Err(ChannelFailure::from(failure).into())),
    };
    // the newest came first
    let messages: Result<Vec<Replayed>, Error> = rows.iter().rev().map(replayed).collect();
    messages.map(Ok).map_err(|error| failure(&error))
}

/// By the sequence where the table has it: now() is the same for all messages of a transaction.
fn sql(has_sequence: bool, has_binary: bool) -> String {
    let order = match has_sequence {
        true => "m.walcast_seq",
        false => "m.inserted_at",
    };
    let binary = match has_binary {
        true => "m.binary_payload",
        false => "NULL::pg_catalog.bytea",
    };
    format!(
        "SELECT m.id::pg_catalog.text, m.event, m.payload::pg_catalog.text, {binary},
                (EXTRACT(epoch FROM m.inserted_at) OPERATOR(pg_catalog.*) 1000000)::pg_catalog.int8
           FROM realtime.messages m
          WHERE m.topic OPERATOR(pg_catalog.=) $1::pg_catalog.text
            AND m.extension OPERATOR(pg_catalog.=) 'broadcast' AND m.private
            AND m.inserted_at OPERATOR(pg_catalog.>=) pg_catalog.timezone('UTC', pg_catalog.to_timestamp(
                  $2::pg_catalog.int8 OPERATOR(pg_catalog./) 1000.0::pg_catalog.float8))
          ORDER BY {order} DESC LIMIT $3::pg_catalog.int8"
    )
}

fn replayed(row: &Row) -> Result<Replayed, Error> {
    let json: Option<String> = row.try_get(2)?;
    let binary: Option<Vec<u8>> = row.try_get(3)?;
    Ok(Replayed {
        id: row.try_get(0)?,
        event: row.try_get::<_, Option<String>>(1)?.unwrap_or_default(),
        payload: match (json, binary) {
            (_, Some(bytes)) => ReplayedPayload::Binary(bytes.into()),
            (Some(text), None) => ReplayedPayload::Json(text),
            (None, None) => ReplayedPayload::Json("{}".to_owned()),
        },
        inserted_at_us: row.try_get(4)?,
    })
}
