//! The body of `POST /api/broadcast`.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};
use walcast_change::write_string;
use walcast_hub::{Message, Namespace};
use walcast_protocol::phoenix::is_shallow;

use super::Posting;

#[derive(Deserialize)]
struct Batch<'a> {
    #[serde(borrow)]
    messages: Option<Vec<&'a RawValue>>,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Entry<'a> {
    topic: Option<Value>,
    event: Option<Value>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    private: Option<Value>,
    id: Option<Value>,
}

/// The messages, or what is wrong: `{"errors":{"messages":[{"payload":["can't be blank"]},{}]}}`,
/// an object for each message in their order. Payloads stay the bytes they came in.
pub(super) fn read(body: &Bytes, payload_bytes_max: usize) -> Result<Vec<Posting>, Value> {
    let batch: Result<Batch<'_>, _> = serde_json::from_slice(body);
    let entries = batch.ok().and_then(|batch| batch.messages);
    let entries = entries
        .filter(|entries| !entries.is_empty())
        .ok_or_else(|| json!({ "errors": { "messages": ["can't be blank"] } }))?;
    let mut postings = Vec::with_capacity(entries.len().min(1024));
    let mut errors = Vec::new();
    for (nth, entry) in entries.iter().enumerate() {
        match posting(body, entry, payload_bytes_max) {
            Ok(posting) => postings.push(posting),
            Err(wrong) => {
                errors.resize(nth, Value::Object(Map::new()));
                errors.push(Value::Object(wrong));
            }
        }
    }
    if errors.is_empty() {
        return Ok(postings);
    }
    errors.resize(entries.len(), Value::Object(Map::new()));
    Err(json!({ "errors": { "messages": errors } }))
}

fn posting(body: &Bytes, entry: &RawValue, max: usize) -> Result<Posting, Map<String, Value>> {
    let mut wrong = Map::new();
    let mut note = |field: &str, text: &str| {
        wrong.insert(field.to_owned(), json!([text]));
    };
    let entry: Entry<'_> = serde_json::from_str(entry.get()).unwrap_or_default();
    let mut text = |field: &str, value: &Option<Value>| match value {
        Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
        None | Some(Value::Null | Value::String(_)) => {
            note(field, "can't be blank");
            String::new()
        }
        Some(_) => {
            note(field, "is invalid");
            String::new()
        }
    };
    let (topic, event) = (text("topic", &entry.topic), text("event", &entry.event));
    let payload = entry.payload.map_or("null", RawValue::get);
    match payload {
        "null" => note("payload", "can't be blank"),
        json if !json.starts_with('{') || !is_shallow(json.as_bytes()) => {
            note("payload", "is invalid");
        }
        json if max != 0 && json.len() > max => {
            note("payload", "Payload size exceeds tenant limit");
        }
        _ => {}
    }
    let private = match &entry.private {
        None | Some(Value::Null) => false,
        Some(Value::Bool(private)) => *private,
        Some(Value::String(text)) if text == "true" || text == "false" => text == "true",
        Some(_) => {
            note("private", "is invalid");
            false
        }
    };
    if !wrong.is_empty() {
        return Err(wrong);
    }
    let mut message = Message::json(event, body.slice_ref(payload.as_bytes()));
    message.meta = entry.id.as_ref().and_then(Value::as_str).map(meta);
    Ok(Posting {
        topic,
        namespace: match private {
            true => Namespace::Private,
            false => Namespace::Public,
        },
        message,
    })
}

fn meta(id: &str) -> Bytes {
    let mut meta = br#"{"id":"#.to_vec();
    write_string(id.as_bytes(), &mut meta);
    meta.push(b'}');
    meta.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches() {
        let blank = "can't be blank";
        for (body, expected) in [
            (
                r#"{"messages":[{"topic":"t","event":"e","payload":{"n":1.10}},{"topic":"p","event":"e","payload":{},"private":true,"id":"i"}]}"#,
                Ok(vec!["t", "p"]),
            ),
            ("{}", Err(json!([blank]))),
            ("nonsense", Err(json!([blank]))),
            (r#"{"messages":[]}"#, Err(json!([blank]))),
            (
                r#"{"messages":[{"topic":"t","event":"e","payload":{}},{"topic":7,"event":" "},{"topic":"t","event":"e","payload":[],"private":1}]}"#,
                Err(json!([
                    {},
                    { "topic": ["is invalid"], "event": [blank], "payload": [blank] },
                    { "payload": ["is invalid"], "private": ["is invalid"] },
                ])),
            ),
            (
                r#"{"messages":[{"topic":"t","event":"e","payload":{"a":"0123456789"}},{"topic":"t","event":"e","payload":{}}]}"#,
                Err(json!([{ "payload": ["Payload size exceeds tenant limit"] }, {}])),
            ),
            (
                r#"{"messages":["x"]}"#,
                Err(json!([{ "topic": [blank], "event": [blank], "payload": [blank] }])),
            ),
        ] {
            let read = read(&Bytes::copy_from_slice(body.as_bytes()), 15);
            let topics = read.map(|postings| {
                let topics = postings.iter().map(|posting| posting.topic.clone());
                topics.collect::<Vec<_>>()
            });
            let expected = expected
                .map(|topics| topics.into_iter().map(str::to_owned).collect())
                .map_err(|errors| json!({ "errors": { "messages": errors } }));
            assert_eq!(topics, expected, "{body}");
        }
    }
}
