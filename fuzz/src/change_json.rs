//! `walcast_change::write_cell`: whatever a value's bytes are and whatever its type promises, what
//! comes out is one line of valid JSON, and nothing before it is touched.
//!
//! The first bytes say the type (see [`json_type`]), and the highest bit of the first of them how
//! numbers stand; the rest is the value's text.

use std::sync::Arc;

use serde_json::value::RawValue;
use walcast_change::{JsonType, Numbers, write_cell, write_string};

const BEFORE: &[u8] = br#"{"a":1,"b":"#;
const DEPTH_MAX: usize = 5;

pub fn run(data: &[u8]) {
    let mut text = data;
    let numbers = match data.first().is_some_and(|byte| byte & 0x80 != 0) {
        true => Numbers::String,
        false => Numbers::Number,
    };
    let json = json_type(&mut text, 0);
    let mut out = BEFORE.to_vec();
    write_cell(&json, text, numbers, &mut out);
    let written = out.strip_prefix(BEFORE).expect("what stood there stays");
    let written = std::str::from_utf8(written).expect("JSON is UTF-8");
    let value = serde_json::from_str::<&RawValue>(written).expect("it is JSON");
    assert_eq!(
        value.get().len(),
        written.trim_ascii().len(),
        "it is one value"
    );
    assert!(!written.contains(['\n', '\r']), "it is one line");
    match json {
        JsonType::String => assert_eq!(string(written), String::from_utf8_lossy(text)),
        JsonType::Json => check_document(text, written),
        JsonType::LongNumber if numbers == Numbers::String => {
            assert_eq!(string(written), String::from_utf8_lossy(text));
        }
        JsonType::Number | JsonType::LongNumber if !written.starts_with('"') => {
            assert_eq!(written.as_bytes(), text);
        }
        _ => {}
    }
}

/// A document that is one for `serde_json` is spliced, but for line breaks and great depth; every
/// other is a string.
fn check_document(text: &[u8], written: &str) {
    let is_document = serde_json::from_slice::<&RawValue>(text).is_ok();
    let spliced: Vec<u8> = text
        .iter()
        .map(|byte| if b"\r\n".contains(byte) { b' ' } else { *byte })
        .collect();
    let mut quoted = Vec::new();
    write_string(text, &mut quoted);
    let brackets = text.iter().filter(|byte| b"[{".contains(byte)).count();
    match is_document {
        true if brackets <= 512 => assert_eq!(written.as_bytes(), spliced),
        true => assert!(written.as_bytes() == spliced || written.as_bytes() == quoted),
        false => assert_eq!(written.as_bytes(), quoted),
    }
}

fn string(json: &str) -> String {
    serde_json::from_str(json).expect("it is a JSON string")
}

/// One byte a type: its value modulo 8 is the kind, the higher bits the delimiter or the number of
/// fields; the types inside it follow.
fn json_type(data: &mut &[u8], depth: usize) -> JsonType {
    let Some((&byte, rest)) = data.split_first() else {
        return JsonType::String;
    };
    *data = rest;
    match byte % 8 {
        1 if byte & 8 == 0 => JsonType::Number,
        1 => JsonType::LongNumber,
        2 => JsonType::Bool,
        3 => JsonType::Json,
        4 => JsonType::Timestamp,
        5 => JsonType::Vector {
            element: Arc::new(JsonType::Number),
        },
        6 if depth < DEPTH_MAX => JsonType::Array {
            element: Arc::new(json_type(data, depth + 1)),
            delimiter: if byte & 8 == 0 { b',' } else { b';' },
        },
        7 if depth < DEPTH_MAX => {
            let fields = (0..byte >> 3 & 3).map(|nth| {
                let key = format!("\"{nth}\":").into_bytes().into_boxed_slice();
                (key, json_type(data, depth + 1))
            });
            JsonType::Composite {
                fields: fields.collect(),
            }
        }
        _ => JsonType::String,
    }
}

pub fn seeds() -> Vec<(&'static str, Vec<u8>)> {
    let array = 6;
    let boxes = 6 | 8;
    let pair = 7 | 2 << 3;
    let seeds: [(&str, &[u8], &str); 13] = [
        ("long", &[1 | 8], "9007199254740993"),
        ("long_as_string", &[array | 0x80, 1 | 8], "{1,NULL}"),
        ("string", &[0], "a \"quoted\" ü\n\u{1} text"),
        ("number", &[1], "-12345678901234567890.50e+20"),
        ("bool", &[2], "t"),
        (
            "json",
            &[3],
            "{\"a\": [1.5, null, \"\\u00e9\\n\"],\n \"b\": {}}",
        ),
        ("json_deep", &[3], "[[[{\"a\":[[[{\"b\":[]}]]]}]]]"),
        ("timestamp", &[4], "0044-03-15 00:00:00.5+00:53:28 BC"),
        ("vector", &[5], "1 -2 3"),
        (
            "array",
            &[array, 0],
            r#"[0:1][5:6]={{"a,b",NULL},{"q\"\\",x}}"#,
        ),
        ("boxes", &[boxes, 0], "{(3,4),(1,2);NULL}"),
        ("composite", &[pair, 1, 0], r#"(1,"x,""y\\")"#),
        (
            "nested",
            &[array, pair, array, 1, pair, 3, 4],
            r#"{"(\"{1,NULL}\",\"(\"\"[1,{}]\"\",\"\"2020-01-01 00:00:00+00\"\")\")",NULL}"#,
        ),
    ];
    seeds
        .into_iter()
        .map(|(name, json, text)| (name, [json, text.as_bytes()].concat()))
        .collect()
}
