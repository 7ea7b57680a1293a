//! One entry of a join's `postgres_changes`.

use std::collections::HashSet;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use walcast_change::write_string;
use walcast_hub::Events;

use super::json::{object, string};

/// Changes that a client asks for, and the number under which it will know them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// From 1 to 2^27 − 1. The same wishes have the same id, in every join; different wishes of one
    /// join have different ids. A client counts a change once per id that a message names, so a
    /// binding that stands twice is subscribed once.
    pub id: u32,
    pub wanted: Result<Wanted, BindingError>,
    /// The entry as it was written: an object.
    request: Box<str>,
}

/// What a [`Binding`] asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Without TRUNCATE, which these clients don't know.
    pub events: Events,
    /// `None` is every schema. `public` if only a table was named.
    pub schema: Option<String>,
    /// `None` is every table.
    pub table: Option<String>,
    /// Not blank.
    pub filter: Option<String>,
    /// Not empty.
    pub select: Option<Vec<String>>,
}

/// Why changes can't be subscribed to. Told in a `system` message with status `error`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum BindingError {
    #[error(
        "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: {request}"
    )]
    NoParams { request: String },
    #[error(
        "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]"
    )]
    Select,
    #[error(
        "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name."
    )]
    SelectOnWildcard,
    /// The filter's own error.
    #[error("Error parsing `filter` params: {reason}")]
    Filter { reason: String },
}

/// More of one join are not taken in.
pub(super) const BINDINGS_MAX: usize = 1000;

/// The ids fit into 27 bits, as Erlang's `phash2` makes them.
const ID_BITS: u32 = 27;

#[derive(Deserialize)]
struct Fields<'a> {
    #[serde(borrow)]
    event: Option<&'a RawValue>,
    #[serde(borrow)]
    schema: Option<&'a RawValue>,
    #[serde(borrow)]
    table: Option<&'a RawValue>,
    #[serde(borrow)]
    filter: Option<&'a RawValue>,
    #[serde(borrow)]
    select: Option<&'a RawValue>,
    #[serde(borrow)]
    user_token: Option<&'a RawValue>,
    #[serde(borrow)]
    auth_token: Option<&'a RawValue>,
}

impl Binding {
    /// Reads one entry; `None` if it is no object. The id is settled by [`settle`].
    pub(super) fn read(request: &str) -> Option<Binding> {
        let fields: Fields<'_> = object(request)?;
        Some(Binding {
            id: hash(&fields),
            wanted: wanted(&fields, request),
            request: request.into(),
        })
    }

    /// What a topic means that is joined without `config`: `schema[:table[:filter]]`.
    pub(super) fn of_topic(subtopic: &str) -> Binding {
        let mut request = Vec::new();
        for (name, value) in ["schema", "table", "filter"]
            .iter()
            .zip(subtopic.splitn(3, ':'))
        {
            request.push(if request.is_empty() { b'{' } else { b',' });
            write_string(name.as_bytes(), &mut request);
            request.push(b':');
            write_string(value.as_bytes(), &mut request);
        }
        request.push(b'}');
        let request = String::from_utf8(request).expect("made of texts");
        Binding::read(&request).expect("it is an object")
    }

    /// `{…as it was asked for…,"id":27199102}`. Of a key that stands twice, parsers take the last.
    pub(super) fn write_echo(&self, out: &mut Vec<u8>) {
        let open = self.request.strip_suffix('}').unwrap_or("{").trim_end();
        out.extend_from_slice(open.as_bytes());
        if !open.ends_with('{') {
            out.push(b',');
        }
        out.extend_from_slice(br#""id":"#);
        out.extend_from_slice(itoa::Buffer::new().format(self.id).as_bytes());
        out.push(b'}');
    }

    /// The entry as it was asked for, a JSON object.
    pub fn request(&self) -> &str {
        &self.request
    }
}

/// Gives different wishes of one join different ids.
pub(super) fn settle(bindings: &mut [Binding]) {
    let mut taken: HashSet<u32> = HashSet::new();
    for nth in 0..bindings.len() {
        let (before, rest) = bindings.split_at_mut(nth);
        let Some(binding) = rest.first_mut() else {
            return;
        };
        if !taken.contains(&binding.id) {
            taken.insert(binding.id);
        } else if let Some(same) = before.iter().find(|other| other.same_wish(binding)) {
            binding.id = same.id;
        } else {
            while !taken.insert(binding.id) {
                binding.id = in_range(binding.id + 1);
            }
        }
    }
}

impl Binding {
    fn same_wish(&self, other: &Binding) -> bool {
        self.request == other.request || (self.wanted.is_ok() && self.wanted == other.wanted)
    }
}

fn in_range(id: u32) -> u32 {
    (id & ((1 << ID_BITS) - 1)).max(1)
}

/// FNV-1a over the wishes as they were written.
fn hash(fields: &Fields<'_>) -> u32 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut byte = |byte: u8| hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    let wishes = [
        fields.event,
        fields.schema,
        fields.table,
        fields.filter,
        fields.select,
    ];
    for wish in wishes {
        wish.map_or("null", RawValue::get)
            .bytes()
            .for_each(&mut byte);
        byte(0);
    }
    in_range((hash ^ (hash >> 32)) as u32)
}

fn wanted(fields: &Fields<'_>, request: &str) -> Result<Wanted, BindingError> {
    let select = select(fields.select)?;
    let no_params = || BindingError::NoParams {
        request: match fields.user_token.or(fields.auth_token) {
            Some(_) => "<redacted>".to_owned(),
            None => request.to_owned(),
        },
    };
    let text = |field: Option<&RawValue>| match field {
        None => Ok(None),
        Some(raw) => string(raw).map(Some).ok_or_else(no_params),
    };
    let (schema, table) = (text(fields.schema)?, text(fields.table)?);
    if schema.is_none() && table.is_none() {
        return Err(no_params());
    }
    let filter = text(fields.filter)?;
    let named = |name: String| Some(name).filter(|name| name != "*");
    let schema = schema.map_or(Some("public".to_owned()), named);
    let table = table.and_then(named);
    if select.is_some() && (schema.is_none() || table.is_none()) {
        return Err(BindingError::SelectOnWildcard);
    }
    Ok(Wanted {
        events: events(fields.event),
        schema,
        table,
        filter: filter.filter(|filter| !filter.trim().is_empty()),
        select,
    })
}

/// What is no known event is all of them.
fn events(event: Option<&RawValue>) -> Events {
    let name = event.and_then(string).unwrap_or_default();
    match name.to_ascii_uppercase().as_str() {
        "INSERT" => Events::INSERT,
        "UPDATE" => Events::UPDATE,
        "DELETE" => Events::DELETE,
        _ => Events::INSERT.union(Events::UPDATE).union(Events::DELETE),
    }
}

/// A list's strings; what else stands in it is passed over.
fn select(select: Option<&RawValue>) -> Result<Option<Vec<String>>, BindingError> {
    let Some(raw) = select else { return Ok(None) };
    match serde_json::from_str(raw.get()) {
        Ok(Value::Array(columns)) => {
            let names = columns.into_iter().filter_map(|column| match column {
                Value::String(name) => Some(name),
                _ => None,
            });
            Ok(Some(names.collect()).filter(|names: &Vec<String>| !names.is_empty()))
        }
        Ok(Value::String(_)) => Err(BindingError::Select),
        _ => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all() -> Events {
        Events::INSERT.union(Events::UPDATE).union(Events::DELETE)
    }

    fn read(request: &str) -> Result<Wanted, BindingError> {
        Binding::read(request).expect("an object").wanted
    }

    #[test]
    fn wishes() {
        let owned = |name: &str| Some(name.to_owned());
        for (request, events, schema, table, filter, select) in [
            (
                r#"{"event":"INSERT","schema":"public","table":"t","filter":"id=eq.1","select":["id","x"]}"#,
                Events::INSERT,
                owned("public"),
                owned("t"),
                owned("id=eq.1"),
                Some(vec!["id".to_owned(), "x".to_owned()]),
            ),
            (
                r#"{"event":"*","schema":"*"}"#,
                all(),
                None,
                None,
                None,
                None,
            ),
            (
                r#"{"schema":"app","table":"*"}"#,
                all(),
                owned("app"),
                None,
                None,
                None,
            ),
            (
                r#"{"schema":"app","table":null}"#,
                all(),
                owned("app"),
                None,
                None,
                None,
            ),
            (
                r#"{"event":"upDate","table":"t","filter":"  "}"#,
                Events::UPDATE,
                owned("public"),
                owned("t"),
                None,
                None,
            ),
            (
                r#"{"event":"TRUNCATE","table":"t","select":[]}"#,
                all(),
                owned("public"),
                owned("t"),
                None,
                None,
            ),
            (
                r#"{"event":7,"table":"t","select":[7,"a",null]}"#,
                all(),
                owned("public"),
                owned("t"),
                None,
                Some(vec!["a".to_owned()]),
            ),
        ] {
            let expected = Wanted {
                events,
                schema,
                table,
                filter,
                select,
            };
            assert_eq!(read(request), Ok(expected), "{request}");
        }
    }

    #[test]
    fn refused_wishes() {
        let no_params = "No subscription params provided. Please provide at least a `schema` or `table` to subscribe to: ";
        for (request, expected) in [
            ("{}", format!("{no_params}{{}}")),
            (r#"{"schema":5}"#, format!(r#"{no_params}{{"schema":5}}"#)),
            (
                r#"{"filter":"a=eq.1","user_token":"secret"}"#,
                format!("{no_params}<redacted>"),
            ),
            (
                r#"{"schema":"s","table":"t","filter":{}}"#,
                format!(r#"{no_params}{{"schema":"s","table":"t","filter":{{}}}}"#),
            ),
            (
                r#"{"table":"t","select":"a,b"}"#,
                "Error parsing `select` params: expected a list of column name strings, e.g. select: [\"col1\", \"col2\"]".to_owned(),
            ),
            (
                r#"{"schema":"s","table":"*","select":["a"]}"#,
                "Column selection is not supported for wildcard subscriptions. Provide an explicit schema and table name.".to_owned(),
            ),
        ] {
            let error = read(request).expect_err(request);
            assert_eq!(error.to_string(), expected, "{request}");
        }
        for no_object in ["[]", "7", "\"{}\"", r#"{"event":1,"event":2}"#] {
            assert_eq!(Binding::read(no_object), None, "{no_object}");
        }
    }

    #[test]
    fn topics_as_bindings() {
        for (subtopic, request) in [
            ("public", r#"{"schema":"public"}"#),
            ("*", r#"{"schema":"*"}"#),
            ("public:t", r#"{"schema":"public","table":"t"}"#),
            (
                "public:t:a=eq.x:y",
                r#"{"schema":"public","table":"t","filter":"a=eq.x:y"}"#,
            ),
        ] {
            assert_eq!(Binding::of_topic(subtopic).request(), request);
        }
    }

    #[test]
    fn ids_are_stable_and_tell_wishes_apart() {
        let (a, b) = (r#"{"table":"a"}"#, r#"{"table":"b"}"#);
        let read = |requests: [&str; 4]| {
            let mut bindings = requests.map(|request| Binding::read(request).expect("an object"));
            settle(&mut bindings);
            bindings.map(|binding| binding.id)
        };
        let ids = read([a, b, a, r#"{ "table" : "a" }"#]);
        assert_eq!([ids[0], ids[0]], [ids[2], ids[3]]);
        assert_ne!(ids[0], ids[1]);
        assert_eq!(ids, [111_558_722, 97_509_921, 111_558_722, 111_558_722]);

        let last = (1 << ID_BITS) - 1;
        let mut bindings = [a, b, a, b].map(|request| Binding::read(request).expect("an object"));
        for binding in &mut bindings {
            binding.id = last;
        }
        settle(&mut bindings);
        assert_eq!(bindings.map(|binding| binding.id), [last, 1, last, 1]);
    }

    #[test]
    fn echoes() {
        for (request, expected) in [
            ("{}", r#"{"id":7}"#),
            ("{ }", r#"{"id":7}"#),
            (
                r#"{"event":"*", "x":[{}] }"#,
                r#"{"event":"*", "x":[{}],"id":7}"#,
            ),
        ] {
            let mut binding = Binding::read(request).expect("an object");
            binding.id = 7;
            let mut out = Vec::new();
            binding.write_echo(&mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
        }
    }
}
