//! Whatever the bytes, valid JSON; and what the reference encoder wrote comes back.

use std::sync::Arc;

use proptest::prelude::*;
use serde_json::Value;
use serde_json::value::RawValue;
use walcast_change::{JsonType, Numbers, write_cell, write_string};

use crate::postgres_text::{array, braces, record};

fn written(json: &JsonType, text: &[u8]) -> String {
    written_with(json, text, Numbers::Number)
}

fn written_with(json: &JsonType, text: &[u8], numbers: Numbers) -> String {
    let mut out = b"before".to_vec();
    write_cell(json, text, numbers, &mut out);
    let text = String::from_utf8(out).expect("JSON is UTF-8");
    text.strip_prefix("before")
        .expect("what stood there stays")
        .to_owned()
}

/// The same type with `other` wherever it has numbers that a double may not hold.
fn with_long_as(json: &JsonType, other: &JsonType) -> JsonType {
    let inner = |element: &Arc<JsonType>| Arc::new(with_long_as(element, other));
    match json {
        JsonType::LongNumber => other.clone(),
        JsonType::Vector { element } => JsonType::Vector {
            element: inner(element),
        },
        JsonType::Array { element, delimiter } => JsonType::Array {
            element: inner(element),
            delimiter: *delimiter,
        },
        JsonType::Composite { fields } => {
            let field =
                |(key, json): &(Box<[u8]>, JsonType)| (key.clone(), with_long_as(json, other));
            JsonType::Composite {
                fields: fields.iter().map(field).collect(),
            }
        }
        json => json.clone(),
    }
}

fn any_type() -> impl Strategy<Value = JsonType> {
    let leaf = prop_oneof![
        Just(JsonType::String),
        Just(JsonType::Number),
        Just(JsonType::LongNumber),
        Just(JsonType::Bool),
        Just(JsonType::Json),
        Just(JsonType::Timestamp),
        Just(JsonType::Vector {
            element: Arc::new(JsonType::Number)
        }),
    ];
    leaf.prop_recursive(3, 8, 3, |inner| {
        let delimiter = prop_oneof![Just(b','), Just(b';')];
        prop_oneof![
            (inner.clone(), delimiter).prop_map(|(element, delimiter)| JsonType::Array {
                element: Arc::new(element),
                delimiter,
            }),
            prop::collection::vec(inner, 0..3).prop_map(composite),
        ]
    })
}

fn composite(fields: Vec<JsonType>) -> JsonType {
    let named = |(nth, json)| (format!("\"f{nth}\":").into_bytes().into_boxed_slice(), json);
    JsonType::Composite {
        fields: fields.into_iter().enumerate().map(named).collect(),
    }
}

fn strings() -> JsonType {
    JsonType::Array {
        element: Arc::new(JsonType::String),
        delimiter: b',',
    }
}

/// Texts made of what the parsers look at.
fn tricky() -> impl Strategy<Value = String> {
    r#"[{}\[\](),;"\\ NULtf0-9eE+.:=\-naury\n\t\x01]{0,24}"#
}

fn any_text() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        prop::collection::vec(any::<u8>(), 0..40),
        tricky().prop_map(String::into_bytes),
        any::<String>().prop_map(String::into_bytes),
    ]
}

fn values() -> impl Strategy<Value = Vec<Option<String>>> {
    let text = prop_oneof![any::<String>(), tricky(), Just("NULL".to_owned())];
    prop::collection::vec(prop::option::of(text), 0..6)
}

/// What stands where a number is expected: mostly one.
fn amounts() -> impl Strategy<Value = Vec<Option<String>>> {
    let digits = "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,20})?";
    let amount = prop_oneof![8 => digits, 1 => Just("NaN".to_owned()), 1 => tricky()];
    prop::collection::vec(prop::option::of(amount), 0..6)
}

fn json_of(values: &[Option<String>]) -> Value {
    values.iter().cloned().map(Value::from).collect()
}

fn borrowed(values: &[Option<String>]) -> impl Iterator<Item = Option<&str>> {
    values.iter().map(Option::as_deref)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn any_bytes_of_any_type_become_json(json in any_type(), text in any_text()) {
        let out = written(&json, &text);
        prop_assert!(serde_json::from_str::<&RawValue>(&out).is_ok(), "{out}");
        prop_assert!(!out.contains('\n'));
    }

    #[test]
    fn long_numbers_stand_as_asked_and_nothing_else_changes(json in any_type(), text in any_text()) {
        for (numbers, as_if) in [
            (Numbers::Number, JsonType::Number),
            (Numbers::String, JsonType::String),
        ] {
            let plain = with_long_as(&json, &as_if);
            prop_assert_eq!(written_with(&json, &text, numbers), written(&plain, &text));
        }
    }

    #[test]
    fn long_numbers_in_arrays_in_composites_come_back_as_strings(amounts in amounts()) {
        let long = JsonType::Array { element: Arc::new(JsonType::LongNumber), delimiter: b',' };
        let nested = JsonType::Array {
            element: Arc::new(composite(vec![JsonType::LongNumber, long])),
            delimiter: b',',
        };
        let list = array(borrowed(&amounts), ',');
        let pair = record([amounts.first().and_then(Option::as_deref), Some(list.as_str())]);
        let out = written_with(&nested, array([Some(pair.as_str())], ',').as_bytes(), Numbers::String);
        let first = amounts.first().cloned().flatten();
        let expected = serde_json::json!([{ "f0": first, "f1": json_of(&amounts) }]);
        prop_assert_eq!(serde_json::from_str::<Value>(&out).unwrap(), expected);
    }

    #[test]
    fn strings_come_back(text in any_text()) {
        let mut out = Vec::new();
        write_string(&text, &mut out);
        let back: String = serde_json::from_slice(&out).unwrap();
        prop_assert_eq!(back, String::from_utf8_lossy(&text));
    }

    #[test]
    fn a_document_is_one_for_serde_json_too(text in tricky()) {
        let is_document = serde_json::from_str::<&RawValue>(&text).is_ok();
        let spliced = written(&JsonType::Json, text.as_bytes());
        let quoted = serde_json::to_string(&text).unwrap();
        let same = serde_json::from_str::<Value>(&spliced).ok() == serde_json::from_str::<Value>(&quoted).ok();
        prop_assert_eq!(is_document, !same, "{} {}", text, spliced);
    }

    #[test]
    fn arrays_come_back(rows in prop::collection::vec(values(), 1..4)) {
        let flat = written(&strings(), array(borrowed(&rows[0]), ',').as_bytes());
        prop_assert_eq!(serde_json::from_str::<Value>(&flat).unwrap(), json_of(&rows[0]));

        let nested = braces(rows.iter().map(|row| array(borrowed(row), ',')), ',');
        let nested = written(&strings(), nested.as_bytes());
        let expected: Value = rows.iter().map(|row| json_of(row)).collect();
        prop_assert_eq!(serde_json::from_str::<Value>(&nested).unwrap(), expected);
    }

    #[test]
    fn composites_in_arrays_in_composites_come_back(rows in prop::collection::vec(values(), 1..4)) {
        // Zero fields and one NULL field print alike, so there is a last field that is neither.
        let pair = composite(vec![strings(), JsonType::String]);
        let pairs = JsonType::Array { element: Arc::new(pair), delimiter: b',' };
        let outer = composite(vec![pairs, strings()]);
        let texts: Vec<String> = rows
            .iter()
            .map(|row| record([Some(array(borrowed(row), ',').as_str()), row.first().and_then(Option::as_deref)]))
            .collect();
        let pairs = array(texts.iter().map(|text| Some(text.as_str())), ',');
        let text = record([Some(pairs.as_str()), None]);
        let out = written(&outer, text.as_bytes());
        let expected: Value = rows
            .iter()
            .map(|row| serde_json::json!({ "f0": json_of(row), "f1": row.first().cloned().flatten() }))
            .collect();
        let back: Value = serde_json::from_str(&out).unwrap();
        prop_assert_eq!(back, serde_json::json!({ "f0": expected, "f1": null }));
    }
}
