//! Whether two JSON texts mean the same, numbers compared digit by digit.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

/// Whether `ours` means what `theirs` does, which is `jsonb`. Only this may differ, since `jsonb`
/// does not keep it: blanks, the order of keys, all but the last of equal keys, the form of
/// strings' escapes, a number's exponent (`1e+20`), the sign of zero.
pub(crate) fn same(ours: &str, theirs: &str) -> Result<(), String> {
    match (Json::parse(ours)?, Json::parse(theirs)?) {
        (Json::Object(ours), Json::Object(theirs)) => {
            if !ours.keys().eq(theirs.keys()) {
                return Err(format!("keys {:?} / {:?}", ours.keys(), theirs.keys()));
            }
            let pairs = ours.iter().zip(theirs.values());
            pairs.into_iter().try_for_each(|((key, ours), theirs)| {
                same(ours.get(), theirs.get()).map_err(|inner| format!(".{key}{inner}"))
            })
        }
        (Json::Array(ours), Json::Array(theirs)) if ours.len() == theirs.len() => {
            let mut pairs = ours.iter().zip(&theirs).enumerate();
            pairs.try_for_each(|(nth, (ours, theirs))| {
                same(ours.get(), theirs.get()).map_err(|inner| format!("[{nth}]{inner}"))
            })
        }
        (Json::String(ours), Json::String(theirs)) if ours == theirs => Ok(()),
        (Json::Word(ours), Json::Word(theirs)) if ours == theirs => Ok(()),
        (Json::Number(ours), Json::Number(theirs)) if same_number(ours, theirs) => Ok(()),
        _ => Err(format!(": {ours} / {theirs}")),
    }
}

enum Json<'a> {
    Object(BTreeMap<String, &'a RawValue>),
    Array(Vec<&'a RawValue>),
    String(String),
    Number(&'a str),
    Word(&'a str),
}

impl<'a> Json<'a> {
    fn parse(text: &'a str) -> Result<Json<'a>, String> {
        let text = text.trim();
        let json = match text.bytes().next() {
            Some(b'{') => serde_json::from_str(text).map(Json::Object),
            Some(b'[') => serde_json::from_str(text).map(Json::Array),
            Some(b'"') => serde_json::from_str(text).map(Json::String),
            Some(b'-' | b'0'..=b'9') => {
                serde_json::from_str::<&RawValue>(text).map(|raw| Json::Number(raw.get()))
            }
            _ => serde_json::from_str::<&RawValue>(text).map(|raw| Json::Word(raw.get())),
        };
        json.map_err(|error| format!(" is no JSON ({error}): {text}"))
    }
}

fn same_number(ours: &str, theirs: &str) -> bool {
    let normalized = ours.contains(['e', 'E']) || ours.starts_with("-0");
    ours == theirs || (normalized && Decimal::parse(ours) == Decimal::parse(theirs))
}

/// `digits` × 10^`exponent`, digits without zeros at either end.
#[derive(PartialEq, Eq)]
struct Decimal {
    negative: bool,
    digits: String,
    exponent: i64,
}

impl Decimal {
    fn parse(text: &str) -> Decimal {
        let (negative, text) = match text.strip_prefix('-') {
            Some(text) => (true, text),
            None => (false, text),
        };
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let all = format!("{whole}{fraction}");
        let digits = all.trim_end_matches('0');
        let exponent: i64 = exponent.parse().expect("an exponent is a number");
        let exponent = exponent - fraction.len() as i64 + (all.len() - digits.len()) as i64;
        let digits = digits.trim_start_matches('0').to_owned();
        match digits.is_empty() {
            true => Decimal {
                negative: false,
                digits,
                exponent: 0,
            },
            false => Decimal {
                negative,
                digits,
                exponent,
            },
        }
    }
}

#[test]
fn what_is_the_same() {
    for (ours, theirs) in [
        (
            r#"{"b":1,"a":[1,null,"é"]}"#,
            r#"{"a": [1, null, "\u00e9"], "b": 1}"#,
        ),
        (r#"{"a":1,"a":2}"#, r#"{"a": 2}"#),
        ("1e+20", "100000000000000000000"),
        ("1.5E-3", "0.0015"),
        ("-0", "0"),
        ("1.50", "1.50"),
    ] {
        assert_eq!(same(ours, theirs), Ok(()), "{ours} {theirs}");
    }
    for (ours, theirs) in [
        ("1.5", "1.50"),
        ("9007199254740993", "9007199254740992"),
        ("1e+20", "100000000000000000001"),
        ("-1", "1"),
        ("1", "\"1\""),
        ("null", "\"null\""),
        ("true", "false"),
        ("[1]", "[1,2]"),
        (r#"{"a":1}"#, r#"{"b":1}"#),
        (r#"{"a":1}"#, r#"{"a":1,"b":null}"#),
        ("nul", "nul"),
    ] {
        assert!(same(ours, theirs).is_err(), "{ours} {theirs}");
    }
}
