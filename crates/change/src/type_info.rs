//! What the catalogue says of a type that is not built in.

use std::sync::Arc;

/// What `pg_type` says of a type that is not built in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TypeInfo {
    pub oid: u32,
    /// `typname`.
    pub name: Arc<str>,
    pub kind: TypeKind,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TypeKind {
    /// A base type of an extension or a user: its text as a string.
    Base,
    Enum,
    Domain {
        base: u32,
    },
    Array {
        element: u32,
        delimiter: u8,
    },
    Composite {
        fields: Vec<(String, u32)>,
    },
    Range,
    Multirange,
}

/// The types `$1` (`oid[]`) and all types inside them, one a row, for [`TypeInfo::from_row`]:
/// `oid oid, kind text, inner_type oid, delimiter text, field_names text[], field_types oid[],
/// name text`.
/// Types that are gone have no row. Postgres 12 and later; needs no privilege.
///
/// An array is what prints itself as one: other types may have elements, too, but a text of their
/// own. (A domain over an array prints with the same function.)
pub const TYPES_QUERY: &str = "
    with recursive wanted (oid) as (
        select pg_catalog.unnest($1::pg_catalog.oid[])
      union
        select inside.oid
        from wanted
        join pg_catalog.pg_type t on t.oid = wanted.oid
        cross join lateral (
            select t.typbasetype where t.typtype = 'd'
          union all
            select t.typelem
            where t.typtype = 'b' and t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc
          union all
            select a.atttypid from pg_catalog.pg_attribute a
            where t.typtype = 'c' and a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
        ) inside (oid)
    )
    select t.oid,
        case when t.typtype = 'b' and t.typoutput = 'pg_catalog.array_out'::pg_catalog.regproc
             then 'a' else t.typtype::pg_catalog.text end,
        case when t.typtype = 'd' then t.typbasetype else t.typelem end,
        coalesce(element.typdelim, ',')::pg_catalog.text,
        array(select a.attname::pg_catalog.text from pg_catalog.pg_attribute a
              where a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped
              order by a.attnum),
        array(select a.atttypid from pg_catalog.pg_attribute a
              where a.attrelid = t.typrelid and t.typtype = 'c' and a.attnum > 0 and not a.attisdropped
              order by a.attnum),
        t.typname::pg_catalog.text
    from wanted
    join pg_catalog.pg_type t on t.oid = wanted.oid
    left join pg_catalog.pg_type element on element.oid = t.typelem";

impl TypeInfo {
    /// A row of [`TYPES_QUERY`].
    pub fn from_row(
        oid: u32,
        kind: &str,
        inner_type: u32,
        delimiter: &str,
        field_names: Vec<String>,
        field_types: Vec<u32>,
        name: &str,
    ) -> TypeInfo {
        let kind = match kind {
            "a" => TypeKind::Array {
                element: inner_type,
                delimiter: delimiter.bytes().next().unwrap_or(b','),
            },
            "c" => TypeKind::Composite {
                fields: field_names.into_iter().zip(field_types).collect(),
            },
            "d" => TypeKind::Domain { base: inner_type },
            "e" => TypeKind::Enum,
            "m" => TypeKind::Multirange,
            "r" => TypeKind::Range,
            _ => TypeKind::Base,
        };
        let name = name.into();
        TypeInfo { oid, name, kind }
    }

    /// A type of which nothing can be found out (any more).
    pub fn unknown(oid: u32) -> TypeInfo {
        TypeInfo {
            oid,
            name: "unknown".into(),
            kind: TypeKind::Base,
        }
    }
}

impl TypeKind {
    /// The types right inside this one.
    pub(crate) fn inner(&self) -> impl Iterator<Item = u32> {
        let (one, fields) = match self {
            TypeKind::Domain { base } => (Some(*base), &[][..]),
            TypeKind::Array { element, .. } => (Some(*element), &[][..]),
            TypeKind::Composite { fields } => (None, &fields[..]),
            TypeKind::Base | TypeKind::Enum | TypeKind::Range | TypeKind::Multirange => {
                (None, &[][..])
            }
        };
        one.into_iter().chain(fields.iter().map(|(_, oid)| *oid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_of_the_catalogue() {
        let fields = TypeKind::Composite {
            fields: vec![("a".to_owned(), 23), ("b".to_owned(), 25)],
        };
        let element = 603;
        let semicolons = TypeKind::Array {
            element,
            delimiter: b';',
        };
        let commas = TypeKind::Array {
            element,
            delimiter: b',',
        };
        for (kind, delimiter, expected) in [
            ("a", ";", semicolons),
            ("a", "", commas),
            ("b", ",", TypeKind::Base),
            ("c", ",", fields),
            ("d", ",", TypeKind::Domain { base: 603 }),
            ("e", ",", TypeKind::Enum),
            ("r", ",", TypeKind::Range),
            ("m", ",", TypeKind::Multirange),
            ("p", ",", TypeKind::Base),
            ("", "", TypeKind::Base),
        ] {
            let names = vec!["a".to_owned(), "b".to_owned()];
            let info = TypeInfo::from_row(1, kind, 603, delimiter, names, vec![23, 25], "t");
            let name = "t".into();
            let kind = expected;
            assert_eq!(info, TypeInfo { oid: 1, name, kind });
        }
    }
}
