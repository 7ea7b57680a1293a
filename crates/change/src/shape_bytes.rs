//! A shape as bytes, for what outlives the stream that described it.
//!
//! Numbers are big-endian; a text is its size (`u32`) and its bytes:
//! `version u8, id u32, identity u8, schema, table, types (u32 count, each below), columns (u16
//! count, each: name, type_oid u32, type_modifier i32, type_name, identity u8, type u32), key (u16
//! count, u16s)`.
//! A type within types is written once and named by its number, as it is shared in memory: a
//! composite of composites would else grow without bound.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::{Buf, BufMut};
use walcast_pgoutput::{RelationId, ReplicaIdentity};

use crate::types::json_key;
use crate::{Column, JsonType, Shape, builtin};

const VERSION: u8 = 2;
/// Did not tell `int8` and `numeric` from the other numbers. Logs of that time are still read.
const VERSION_OF_ONE_NUMBER: u8 = 1;

/// Deeper than [`Types`](crate::Types) resolves; what claims more was not written here.
const DEPTH_MAX: usize = 32;

impl Shape {
    /// Appends all that [`Shape::from_bytes`] needs.
    pub fn write_bytes(&self, out: &mut Vec<u8>) {
        out.put_u8(VERSION);
        out.put_u32(self.id.0);
        out.put_u8(match self.identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Nothing => b'n',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Index => b'i',
        });
        put_text(self.schema.as_bytes(), out);
        put_text(self.table.as_bytes(), out);
        let mut types = TypeWriter::default();
        let numbers: Vec<u32> = self.columns.iter().map(|c| types.number(&c.json)).collect();
        out.put_u32(types.count);
        out.put_slice(&types.bytes);
        out.put_u16(count(self.columns.len()));
        for (column, number) in self.columns.iter().zip(numbers) {
            put_text(column.name.as_bytes(), out);
            out.put_u32(column.type_oid);
            out.put_i32(column.type_modifier);
            put_text(column.type_name.as_bytes(), out);
            out.put_u8(u8::from(column.identity));
            out.put_u32(number);
        }
        out.put_u16(count(self.key.len()));
        for index in self.key.iter() {
            out.put_u16(count(index));
        }
    }

    /// The shape that [`Shape::write_bytes`] wrote; `None` if `bytes` are anything else.
    pub fn from_bytes(mut bytes: &[u8]) -> Option<Shape> {
        let from = &mut bytes;
        let version = from.try_get_u8().ok()?;
        if version != VERSION && version != VERSION_OF_ONE_NUMBER {
            return None;
        }
        let id = RelationId(from.try_get_u32().ok()?);
        let identity = match from.try_get_u8().ok()? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            _ => return None,
        };
        let schema = text(from)?.into();
        let table = text(from)?.into();
        let types = types(from, version)?;
        let columns = from.try_get_u16().ok()?;
        let columns: Box<[Column]> = (0..columns)
            .map(|_| column(from, &types, version))
            .collect::<Option<_>>()?;
        let keys = from.try_get_u16().ok()?;
        let index = |_| Some(usize::from(from.try_get_u16().ok()?)).filter(|&i| i < columns.len());
        let key = (0..keys).map(index).collect::<Option<_>>()?;
        bytes.is_empty().then_some(Shape {
            id,
            schema,
            table,
            identity,
            columns,
            key,
        })
    }
}

#[derive(Default)]
struct TypeWriter {
    bytes: Vec<u8>,
    count: u32,
    /// Kind, delimiter and place in memory of what was written.
    numbers: HashMap<(u8, u8, usize), u32>,
}

impl TypeWriter {
    fn number(&mut self, json: &JsonType) -> u32 {
        let key = match json {
            JsonType::String => (b's', 0, 0),
            JsonType::Number => (b'n', 0, 0),
            JsonType::LongNumber => (b'l', 0, 0),
            JsonType::Bool => (b'b', 0, 0),
            JsonType::Json => (b'j', 0, 0),
            JsonType::Timestamp => (b't', 0, 0),
            JsonType::Vector { element } => (b'v', 0, Arc::as_ptr(element).addr()),
            JsonType::Array { element, delimiter } => {
                (b'a', *delimiter, Arc::as_ptr(element).addr())
            }
            JsonType::Composite { fields } => (b'c', 0, fields.as_ptr().addr()),
        };
        if let Some(&number) = self.numbers.get(&key) {
            return number;
        }
        let mut own = vec![key.0];
        match json {
            JsonType::Vector { element } => own.put_u32(self.number(element)),
            JsonType::Array { element, delimiter } => {
                own.put_u8(*delimiter);
                own.put_u32(self.number(element));
            }
            JsonType::Composite { fields } => {
                own.put_u16(count(fields.len()));
                for (key, json) in fields.iter() {
                    put_text(key, &mut own);
                    own.put_u32(self.number(json));
                }
            }
            _ => {}
        }
        self.bytes.put_slice(&own);
        let number = self.count;
        self.count += 1;
        self.numbers.insert(key, number);
        number
    }
}

/// Each type names only types before it.
fn types(from: &mut &[u8], version: u8) -> Option<Vec<(JsonType, usize)>> {
    let mut types: Vec<(JsonType, usize)> = Vec::new();
    for _ in 0..from.try_get_u32().ok()? {
        let (json, depth) = json_type(from, &types, version)?;
        if depth > DEPTH_MAX {
            return None;
        }
        types.push((json, depth));
    }
    Some(types)
}

fn json_type(
    from: &mut &[u8],
    types: &[(JsonType, usize)],
    version: u8,
) -> Option<(JsonType, usize)> {
    let simple = |json| Some((json, 0));
    match from.try_get_u8().ok()? {
        b's' => simple(JsonType::String),
        // Rather a short number as a string than a long one that loses digits.
        b'n' if version == VERSION_OF_ONE_NUMBER => simple(JsonType::LongNumber),
        b'n' => simple(JsonType::Number),
        b'l' => simple(JsonType::LongNumber),
        b'b' => simple(JsonType::Bool),
        b'j' => simple(JsonType::Json),
        b't' => simple(JsonType::Timestamp),
        b'v' => {
            let (element, depth) = named(from, types)?;
            let element = Arc::new(element.clone());
            Some((JsonType::Vector { element }, depth + 1))
        }
        b'a' => {
            let delimiter = from.try_get_u8().ok()?;
            let (element, depth) = named(from, types)?;
            let element = Arc::new(element.clone());
            Some((JsonType::Array { element, delimiter }, depth + 1))
        }
        b'c' => {
            let mut deepest = 0;
            let fields = (0..from.try_get_u16().ok()?).map(|_| {
                let key = sized(from)?.into();
                let (json, depth) = named(from, types)?;
                deepest = deepest.max(*depth);
                Some((key, json.clone()))
            });
            let fields = fields.collect::<Option<_>>()?;
            Some((JsonType::Composite { fields }, deepest + 1))
        }
        _ => None,
    }
}

fn named<'a>(from: &mut &[u8], types: &'a [(JsonType, usize)]) -> Option<&'a (JsonType, usize)> {
    types.get(from.try_get_u32().ok()? as usize)
}

fn column(from: &mut &[u8], types: &[(JsonType, usize)], version: u8) -> Option<Column> {
    let name = text(from)?;
    let mut column = Column {
        json_key: json_key(name),
        name: name.into(),
        type_oid: from.try_get_u32().ok()?,
        type_modifier: from.try_get_i32().ok()?,
        type_name: text(from)?.into(),
        identity: match from.try_get_u8().ok()? {
            0 => false,
            1 => true,
            _ => return None,
        },
        json: named(from, types)?.0.clone(),
    };
    if version == VERSION_OF_ONE_NUMBER
        && let Some(json) = builtin::json_type(column.type_oid)
    {
        column.json = json;
    }
    Some(column)
}

fn text<'a>(from: &mut &'a [u8]) -> Option<&'a str> {
    std::str::from_utf8(sized(from)?).ok()
}

fn sized<'a>(from: &mut &'a [u8]) -> Option<&'a [u8]> {
    let size = from.try_get_u32().ok()? as usize;
    let (head, rest) = from.split_at_checked(size)?;
    *from = rest;
    Some(head)
}

fn put_text(bytes: &[u8], out: &mut Vec<u8>) {
    // Names are bounded by Postgres (63 bytes, 1,600 columns).
    out.put_u32(u32::try_from(bytes.len()).expect("a name is shorter than 4 GiB"));
    out.put_slice(bytes);
}

fn count(len: usize) -> u16 {
    u16::try_from(len).expect("pgoutput counts columns in 16 bits, Postgres fields to 1,600")
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use walcast_pgoutput::Relation;

    use super::*;
    use crate::{TypeInfo, TypeKind, Types};

    fn shape(oids: &[u32], types: &Types) -> Shape {
        let column = |(nth, &type_oid)| walcast_pgoutput::Column {
            key: nth % 2 == 0,
            name: Bytes::from(format!("c \"{nth}\" ü")),
            type_oid,
            type_modifier: nth as i32 - 1,
        };
        let relation = Relation {
            id: RelationId(77),
            schema: Bytes::from_static(b"public"),
            name: Bytes::from_static(b"t"),
            identity: ReplicaIdentity::Full,
            columns: oids.iter().enumerate().map(column).collect(),
        };
        Shape::new(&relation, Some(&["c \"1\" ü".to_owned()]), types)
    }

    fn nested() -> Types {
        let mut types = Types::default();
        let fields = |oid| {
            let names = ["a", "b", "c", "d"];
            names.map(|name| (name.to_owned(), oid)).to_vec()
        };
        types.insert(TypeInfo {
            oid: 20000,
            name: "_own".into(),
            kind: TypeKind::Array {
                element: 23,
                delimiter: b';',
            },
        });
        for oid in 20001..20100 {
            let kind = TypeKind::Composite {
                fields: fields(oid - 1),
            };
            let name = "own".into();
            types.insert(TypeInfo { oid, name, kind });
        }
        types
    }

    #[test]
    fn all_of_a_shape_comes_back() {
        let shape = shape(
            &[
                20, 23, 1700, 25, 16, 3802, 1184, 22, 1006, 1231, 1020, 20000, 20005,
            ],
            &nested(),
        );
        let mut bytes = Vec::new();
        shape.write_bytes(&mut bytes);
        let back = Shape::from_bytes(&bytes).expect("just written");
        assert_eq!(format!("{back:?}"), format!("{shape:?}"));
        for cut in 0..bytes.len() {
            assert!(Shape::from_bytes(&bytes[..cut]).is_none(), "{cut}");
        }
        bytes.push(0);
        assert!(Shape::from_bytes(&bytes).is_none());
    }

    /// `int8`, `int4`, an array of a domain, which the catalogue has to explain.
    #[test]
    fn a_shape_that_knew_one_kind_of_number_loses_no_digits() {
        let mut bytes = vec![1];
        bytes.put_u32(77);
        bytes.put_u8(b'f');
        put_text(b"public", &mut bytes);
        put_text(b"t", &mut bytes);
        bytes.put_u32(2);
        bytes.put_slice(b"na,");
        bytes.put_u32(0);
        bytes.put_u16(3);
        for (type_oid, number) in [(20, 0), (23, 0), (20000, 1)] {
            put_text(b"c", &mut bytes);
            bytes.put_u32(type_oid);
            bytes.put_i32(-1);
            put_text(b"type", &mut bytes);
            bytes.put_u8(0);
            bytes.put_u32(number);
        }
        bytes.put_u16(0);
        let shape = Shape::from_bytes(&bytes).expect("as it was written");
        let found: Vec<&JsonType> = shape.columns.iter().map(|column| &column.json).collect();
        let array = JsonType::Array {
            element: Arc::new(JsonType::LongNumber),
            delimiter: b',',
        };
        assert_eq!(found, [&JsonType::LongNumber, &JsonType::Number, &array]);
    }

    #[test]
    fn shared_types_are_written_once() {
        // 4^15 types if written as a tree.
        let shape = shape(&[20015], &nested());
        let mut bytes = Vec::new();
        shape.write_bytes(&mut bytes);
        assert!(bytes.len() < 4096, "{}", bytes.len());
        assert!(Shape::from_bytes(&bytes).is_some());
    }
}
