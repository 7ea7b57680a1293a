//! The policies of `realtime.messages`, run over messages that are in no table.

use std::collections::VecDeque;

use serde_json::{Map, Value};
use tokio_postgres::Row;
use tokio_postgres::error::SqlState;

use super::WINDOW;
use super::ask::{Answer, ChannelAction, ChannelAsk, ChannelDenial, ChannelFailure, ChannelViewer};
use super::facts::{Facts, Standing};
use super::seat::{Prepared, Session};
use crate::CheckConfig;
use crate::lane::{Failure, Started};

/// Questions about one topic and action: one transaction.
struct Unit<'a> {
    topic: &'a str,
    action: ChannelAction,
    /// Places among the questions.
    asks: Vec<usize>,
}

/// `Err`: nothing is known, the session is not to be used again.
pub(crate) async fn judge(
    session: &mut Session<'_>,
    config: &CheckConfig,
    viewer: &ChannelViewer,
    facts: Option<&Facts>,
    asks: &[ChannelAsk],
) -> Result<Vec<Answer>, Failure> {
    let mut answers: Vec<Answer> = vec![Err(ChannelFailure::Unavailable.into()); asks.len()];
    let mut statements = [None, None];
    let mut units: VecDeque<Unit<'_>> = VecDeque::new();
    for (at, (ask, answer)) in asks.iter().zip(&mut answers).enumerate() {
        if [&ask.topic, &ask.extension]
            .iter()
            .any(|text| text.contains('\0'))
        {
            *answer = Err(ChannelDenial::Topic.into());
            continue;
        }
        match Facts::standing(facts, &viewer.viewer.role, ask.action, config) {
            Err(refusal) => *answer = Err(refusal),
            Ok(Standing::Allowed) => *answer = Ok(()),
            Ok(Standing::Policies(expression)) => {
                let statement = &mut statements[place(ask.action)];
                if statement.is_none() {
                    *statement = Some(prepare(session, viewer, &expression).await?);
                }
                enqueue(&mut units, ask, at);
            }
        }
    }
    let run = Run {
        session,
        viewer,
        statements: &statements,
        plans: facts.map_or("force_custom_plan", Facts::plans),
        asks,
    };
    run.through(units, &mut answers).await?;
    Ok(answers)
}

/// Of one call, where statements of both actions are kept.
fn place(action: ChannelAction) -> usize {
    match action {
        ChannelAction::Read => 0,
        ChannelAction::Write => 1,
    }
}

/// `Ok(Err(…))`: Postgres does not take the policies, which is the same for every question.
async fn prepare(
    session: &mut Session<'_>,
    viewer: &ChannelViewer,
    expression: &str,
) -> Result<Result<Prepared, Failure>, Failure> {
    let text = |shadowed: bool| probe_sql(expression, shadowed);
    match session
        .prepare(&viewer.viewer, Some(expression), text)
        .await
    {
        Err(Failure::Disconnected) => Err(Failure::Disconnected),
        other => Ok(other),
    }
}

fn enqueue<'a>(units: &mut VecDeque<Unit<'a>>, ask: &'a ChannelAsk, at: usize) {
    let same = |unit: &&mut Unit<'_>| unit.topic == &*ask.topic && unit.action == ask.action;
    match units.iter_mut().find(same) {
        Some(unit) => unit.asks.push(at),
        None => units.push_back(Unit {
            topic: &ask.topic,
            action: ask.action,
            asks: vec![at],
        }),
    }
}

/// Numbers those of the messages `$1 :: text[]` (JSON objects) that the policies let through.
///
/// As `policy`'s images: the policies see the message under the table's own name, and nothing else. What an
/// object leaves out is what an INSERT would make of it. `jsonb_populate_record` reads names, so the table may
/// be another product's; that it can't tell a JSON null from none does no harm to a message's columns.
fn probe_sql(expression: &str, shadowed: bool) -> String {
    let texts = match shadowed {
        false => "$1::pg_catalog.text[]",
        true => {
            "CASE WHEN pg_catalog.set_config('search_path', $2::pg_catalog.text, true) IS NOT NULL \
             THEN $1::pg_catalog.text[] END"
        }
    };
    format!(
        "SELECT walcast_probe.n::pg_catalog.int4 FROM (SELECT {texts} AS texts OFFSET 0) AS walcast_probes \
         CROSS JOIN LATERAL pg_catalog.unnest(walcast_probes.texts) WITH ORDINALITY AS walcast_probe(t, n) \
         WHERE (SELECT {expression} FROM pg_catalog.unnest(ARRAY[pg_catalog.jsonb_populate_record(NULL::realtime.messages, \
         pg_catalog.jsonb_build_object('id', pg_catalog.gen_random_uuid(), 'private', true, 'sender_type', 'system', \
         'inserted_at', pg_catalog.timezone('UTC', pg_catalog.now()), 'updated_at', pg_catalog.timezone('UTC', pg_catalog.now()), \
         'created_at', pg_catalog.now(), 'ws_audience_count', 0, 'wh_audience_count', 0, 'wh_delivered_count', 0) \
         OPERATOR(pg_catalog.||) walcast_probe.t::pg_catalog.jsonb)]) AS messages)"
    )
}

/// The message that a question is about, under the names of both systems.
fn message(ask: &ChannelAsk) -> String {
    let mut fields = Map::new();
    for name in ["topic", "channel_name"] {
        fields.insert(name.to_owned(), Value::from(&*ask.topic));
    }
    fields.insert("extension".to_owned(), Value::from(&*ask.extension));
    for (name, value) in &ask.columns {
        let value = value.as_ref().map(|text| match *name {
            "payload" => serde_json::from_str(text).unwrap_or_else(|_| Value::from(&**text)),
            _ => Value::from(&**text),
        });
        fields.insert((*name).to_owned(), value.unwrap_or(Value::Null));
    }
    Value::Object(fields).to_string()
}

struct Run<'r, 's> {
    session: &'r Session<'s>,
    viewer: &'r ChannelViewer,
    statements: &'r [Option<Result<Prepared, Failure>>; 2],
    plans: &'static str,
    asks: &'r [ChannelAsk],
}

impl Run<'_, '_> {
    /// A question that fails is asked again alone, so that it costs no other its answer. After a timeout
    /// or an escape nothing more is asked for this viewer.
    async fn through(
        &self,
        mut units: VecDeque<Unit<'_>>,
        answers: &mut [Answer],
    ) -> Result<(), Failure> {
        let mut stopped: Option<ChannelFailure> = None;
        while !units.is_empty() {
            if let Some(failure) = &stopped {
                units
                    .drain(..)
                    .for_each(|unit| enter(&unit, answers, &Err(failure.clone().into())));
                break;
            }
            let window: Vec<Unit<'_>> = units.drain(..units.len().min(WINDOW)).collect();
            let mut started = Vec::with_capacity(window.len());
            for unit in &window {
                started.push(Started::new(self.unit(unit)).await);
            }
            for (unit, started) in window.iter().zip(started) {
                match started.finish().await.unwrap_or(Err(Failure::Disconnected)) {
                    Ok(rows) => found(unit, &rows, answers),
                    Err(failure) if super::is_of_the_session(&failure) => return Err(failure),
                    Err(Failure::Sql(code))
                        if code != SqlState::QUERY_CANCELED && unit.asks.len() > 1 =>
                    {
                        units.extend(unit.single());
                    }
                    Err(failure) => {
                        let failed = ChannelFailure::from(failure);
                        enter(unit, answers, &Err(failed.clone().into()));
                        if matches!(failed, ChannelFailure::Timeout | ChannelFailure::Escaped) {
                            stopped = Some(failed);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    async fn unit(&self, unit: &Unit<'_>) -> Result<Vec<Row>, Failure> {
        let prepared = match self.statements.get(place(unit.action)) {
            Some(Some(Ok(prepared))) => prepared,
            Some(Some(Err(failure))) => return Err(failure.clone()),
            _ => return Err(Failure::Sql(SqlState::INTERNAL_ERROR)),
        };
        let asks = unit.asks.iter().filter_map(|at| self.asks.get(*at));
        let messages: Vec<String> = asks.map(message).collect();
        let mut parameters: Vec<&(dyn postgres_types::ToSql + Sync)> = vec![&messages];
        let path = self.session.search_path();
        if prepared.shadowed {
            parameters.push(&path);
        }
        let (viewer, plans) = (self.viewer, self.plans);
        self.session
            .transaction(viewer, unit.topic, prepared, &parameters, plans)
            .await
    }
}

/// Numbers count from 1.
fn found(unit: &Unit<'_>, rows: &[Row], answers: &mut [Answer]) {
    enter(unit, answers, &Err(ChannelDenial::Policy.into()));
    for row in rows {
        let number = row.try_get::<_, i32>(0).ok();
        let nth = number.and_then(|number| usize::try_from(number).ok()?.checked_sub(1));
        let answer = nth
            .and_then(|nth| unit.asks.get(nth))
            .and_then(|at| answers.get_mut(*at));
        if let Some(answer) = answer {
            *answer = Ok(());
        }
    }
}

fn enter(unit: &Unit<'_>, answers: &mut [Answer], answer: &Answer) {
    for at in &unit.asks {
        if let Some(place) = answers.get_mut(*at) {
            place.clone_from(answer);
        }
    }
}

impl<'a> Unit<'a> {
    fn single(&self) -> impl Iterator<Item = Unit<'a>> {
        let (topic, action) = (self.topic, self.action);
        self.asks.iter().map(move |at| Unit {
            topic,
            action,
            asks: vec![*at],
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_have_the_names_of_both_systems() {
        let ask = ChannelAsk::new("ro\"om", ChannelAction::Write, "broadcast")
            .with("event_name", Some("e".into()))
            .with("payload", Some(r#"{"a":1}"#.into()))
            .with("sender_id", None);
        let made: Value = serde_json::from_str(&message(&ask)).unwrap();
        let expected = serde_json::json!({
            "topic": "ro\"om", "channel_name": "ro\"om", "extension": "broadcast",
            "event_name": "e", "payload": {"a": 1}, "sender_id": null,
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn questions_about_one_topic_and_action_share_a_transaction() {
        use ChannelAction::{Read, Write};
        let ask = |topic: &str, action| ChannelAsk::new(topic, action, "broadcast");
        let asks = [
            ask("a", Read),
            ask("b", Read),
            ask("a", Write),
            ask("a", Read),
        ];
        let mut units = VecDeque::new();
        for (at, ask) in asks.iter().enumerate() {
            enqueue(&mut units, ask, at);
        }
        let shared: Vec<Vec<usize>> = units.into_iter().map(|unit| unit.asks).collect();
        assert_eq!(shared, [vec![0, 3], vec![1], vec![2]]);
    }
}
