use super::condition::Condition;
use super::truth::Truth;
use super::*;

const INT: u32 = 23;
const TEXT: u32 = 25;
const BOOL: u32 = 16;
const POINT: u32 = 600;
const ENUM: u32 = 20_000;

/// What a filter on one column says of a value.
fn selects(condition: &Condition, oid: u32, value: Option<&str>) -> Option<bool> {
    fn truth(condition: &Condition, oid: u32, value: Option<&str>) -> Truth {
        let all = |parts: &[Condition]| parts.iter().map(|part| truth(part, oid, value)).collect();
        match condition {
            Condition::All(parts) => {
                let truths: Vec<_> = all(parts);
                truths.into_iter().fold(Truth::TRUE, Truth::and)
            }
            Condition::Any(parts) => {
                let truths: Vec<_> = all(parts);
                truths.into_iter().fold(Truth::FALSE, Truth::or)
            }
            Condition::Not(part) => !truth(part, oid, value),
            Condition::One(predicate) => match value {
                Some(value) => predicate.truth_of(oid, value),
                None => predicate.truth_of_null(),
            },
        }
    }
    truth(condition, oid, value).selects()
}

#[test]
fn conditions() {
    for (filter, oid, value, expected) in [
        ("id=eq.1", INT, Some("1"), true),
        ("id=eq.1", INT, Some("10"), false),
        ("id=gt.9", INT, Some("10"), true),
        ("id=lte.9", INT, Some("10"), false),
        ("id=neq.1", INT, None, false),
        ("id=not.eq.1", INT, Some("2"), true),
        ("id=not.eq.1", INT, None, false),
        ("id=in.(1,2)", INT, Some("2"), true),
        ("id=not.in.(1,2)", INT, Some("3"), true),
        ("id=not.in.(1,null)", INT, Some("3"), false),
        ("id=not.in.(1,2)", INT, None, false),
        ("id=not.in.()", INT, None, true),
        ("id=isdistinct.1", INT, None, true),
        ("id=not.isdistinct.1", INT, Some("1"), true),
        ("id=gt.1,id=lt.5", INT, Some("3"), true),
        ("id=gt.1, id=lt.5", INT, Some("7"), false),
        ("or=(id.lt.1,id.gt.5)", INT, Some("7"), true),
        ("or=(id.lt.1,id.gt.5)", INT, Some("3"), false),
        ("not.or=(id.lt.1,id.gt.5)", INT, Some("3"), true),
        ("not.or=(id.lt.1,id.gt.5)", INT, None, false),
        ("or=(id.is.null,and(id.gt.1,id.not.eq.3))", INT, None, true),
        (
            "or=(id.is.null,and=(id.gt.1,id.not.eq.3))",
            INT,
            Some("3"),
            false,
        ),
        (
            "or=(id.eq.9,not.and(id.gt.1,id.lt.5))",
            INT,
            Some("3"),
            false,
        ),
        ("or=(\"id\".in.(1,2),id.eq.5)", INT, Some("5"), true),
        ("or=eq.x", TEXT, Some("x"), true),
        ("a=in.(\"x,y\",z)", TEXT, Some("x,y"), true),
        ("a=in.( x , \"q\\\"\")", TEXT, Some("q\""), true),
        ("a=eq.", TEXT, Some(""), true),
        ("a=eq.x=y.z", TEXT, Some("x=y.z"), true),
        ("a=eq.\"x,y\"", TEXT, Some("x,y"), true),
        ("a=eq.\"x\\\"y\\\\\"", TEXT, Some("x\"y\\"), true),
        ("a=eq.\"x\"y", TEXT, Some("\"x\"y"), true),
        ("a=eq.(x,y)", TEXT, Some("(x,y)"), true),
        ("\"My \"\"Col\"=eq.x", TEXT, Some("x"), true),
        ("a=like.h%o", TEXT, Some("hello"), true),
        ("a=like.h*o", TEXT, Some("hello"), true),
        ("a=like.h_o", TEXT, Some("hello"), false),
        ("a=like.100\\%", TEXT, Some("1000"), false),
        ("a=ilike.HÉL%", TEXT, Some("héllo"), true),
        ("a=match.^h.l+o$", TEXT, Some("hello"), true),
        ("a=match.\"^(a,b)$\"", TEXT, Some("a,b"), true),
        ("a=imatch.^É", TEXT, Some("école"), true),
        ("a=not.match.x", TEXT, None, false),
        ("a=is.null", TEXT, None, true),
        ("a=is.null", TEXT, Some("null"), false),
        ("a=not.is.null", TEXT, Some("x"), true),
        ("a=not.is.null", TEXT, None, false),
        ("a=is.not null", TEXT, Some("x"), true),
        ("a=is.true", BOOL, Some("t"), true),
        ("a=is.false", BOOL, None, false),
        ("a=not.is.true", BOOL, None, true),
        ("a=is.unknown", BOOL, None, true),
        ("a=eq.true", BOOL, Some("t"), true),
        ("a=is.null", POINT, None, true),
        ("a=eq.open", ENUM, Some("open"), true),
        ("a=neq.open", ENUM, Some("done"), true),
    ] {
        let parsed = Filter::parse(filter).expect(filter);
        assert_eq!(parsed.check(&[oid]), Ok(()), "{filter}");
        let selected = selects(&parsed.condition, oid, value);
        assert_eq!(selected, Some(expected), "{filter} on {value:?}");
    }
}

#[test]
fn bad_filters() {
    let operands = format!("id=in.({}1)", "1,".repeat(OPERANDS_MAX));
    let conditions = format!("{}id=eq.1", "id=eq.1,".repeat(CONDITIONS_MAX));
    let regexes = format!("{}id=eq.1", "id=match.x,".repeat(REGEXES_MAX + 1));
    let deep = format!(
        "or=({}a.eq.1{}",
        "or(".repeat(DEPTH_MAX),
        ")".repeat(DEPTH_MAX + 1)
    );
    let long = format!("a=like.{}", "x".repeat(1001));
    let longer = format!("a=eq.{}", "x".repeat(BYTES_MAX));
    let format = |parts: &[&str]| FilterError::format(parts);
    let operator = |name: &str, value: &str| FilterError::Operator {
        parts: [name.into(), value.into()].into(),
    };
    for (filter, expected) in [
        ("", FilterError::Empty),
        (" ", FilterError::Empty),
        ("a=eq.1,", FilterError::Empty),
        ("a=eq.1,,b=eq.2", FilterError::Empty),
        ("or=()", FilterError::Empty),
        ("undefined", format(&["undefined"])),
        ("=eq.1", format(&["=eq.1"])),
        ("id=eq", format(&["eq"])),
        ("a=eq.x,y", format(&["y"])),
        ("\"id=eq.1", format(&["\"id=eq.1"])),
        ("or=(a.eq.1)b(c.eq.2)", format(&["a.eq.1)b(c.eq.2"])),
        ("or=(a)", format(&["a"])),
        ("a=eq.\0", format(&[])),
        ("subject=foo.hey", operator("foo", "hey")),
        ("id=not.not.eq.1", operator("not", "eq.1")),
        ("id=in.1", FilterError::List),
        ("id=in.(\"1)", FilterError::Items),
        ("id=is.maybe", FilterError::Is),
        (
            "id=match.(?i)a",
            FilterError::Regex("look-around and options in it are not supported"),
        ),
        ("id=like.a\\", FilterError::Escape),
        (&operands, FilterError::TooManyOperands),
        (&conditions, FilterError::TooManyConditions),
        (&regexes, FilterError::TooManyRegexes),
        (&deep, FilterError::TooDeep),
        (&long, FilterError::Pattern),
        (&longer, FilterError::TooLong),
    ] {
        assert_eq!(Filter::parse(filter), Err(expected), "{filter:.40}");
    }
    for (filter, oid, expected) in [
        ("id=eq.x", INT, FilterError::Value),
        ("id=eq.2147483648", INT, FilterError::Value),
        ("or=(id.eq.1,id.in.(1,x))", INT, FilterError::Value),
        ("a=gt.x", ENUM, FilterError::NoOrder),
        ("a=eq.(1,2)", POINT, FilterError::NotComparable),
        ("id=like.1%", INT, FilterError::NotText),
        ("id=match.1", INT, FilterError::NotText),
        ("id=is.true", INT, FilterError::NotBool),
        ("id=is.unknown", TEXT, FilterError::NotBool),
    ] {
        let parsed = Filter::parse(filter).expect("a filter");
        assert_eq!(parsed.check(&[oid]), Err(expected), "{filter}");
    }
    let filter = Filter::parse("b=eq.1,a=eq.2,b=lt.3").expect("a filter");
    let columns: Vec<_> = filter.columns().map(|column| &**column).collect();
    assert_eq!(columns, ["b", "a"]);
    assert_eq!(filter.check(&[INT]), Err(FilterError::NoColumn));
}

#[test]
fn sql() {
    for (filter, oid, expected) in [
        ("a=eq.1", INT, r#"("a" = '1'::pg_catalog.int4)"#),
        ("a\"=not.is.true", BOOL, r#"(NOT ("a""" IS TRUE))"#),
        ("a=eq.x'y", TEXT, r#"("a" = 'x''y'::pg_catalog.text)"#),
        (
            r"a=neq.x\y",
            TEXT,
            r#"("a" COLLATE "C" <>  E'x\\y'::pg_catalog.text)"#,
        ),
        (
            "a=not.eq.x",
            TEXT,
            r#"(NOT ("a" COLLATE "C" = 'x'::pg_catalog.text))"#,
        ),
        (
            "a=in.(1,null)",
            INT,
            r#"("a" = ANY (ARRAY['1'::pg_catalog.int4, NULL]::pg_catalog.int4[]))"#,
        ),
        ("a=ilike.x", TEXT, "true"),
        (
            "not.or=(a.imatch.x,a.is.null)",
            TEXT,
            r#"(NOT (false OR ("a" IS NULL)))"#,
        ),
        (
            "a=like.a*",
            TEXT,
            r#"("a" COLLATE "C" LIKE 'a%'::pg_catalog.text)"#,
        ),
        (
            "a=match.^a",
            TEXT,
            r#"("a" COLLATE "C" ~ '^a'::pg_catalog.text)"#,
        ),
        (r"a=match.\w", TEXT, "true"),
        (
            "a=eq.x",
            ENUM,
            r#"("a"::pg_catalog.text COLLATE "C" = 'x'::pg_catalog.text)"#,
        ),
    ] {
        let parsed = Filter::parse(filter).expect(filter);
        assert_eq!(parsed.to_sql(&[oid]), expected);
    }
}

#[test]
fn keys() {
    for (filter, expected) in [
        ("a=eq.1", Some(&[("a", "1")][..])),
        ("a=in.(1,2,null)", Some(&[("a", "1"), ("a", "2")])),
        ("a=in.(1,2),b=eq.3,c=gt.4", Some(&[("b", "3")])),
        (
            "or=(a.eq.1,b.in.(2,3))",
            Some(&[("a", "1"), ("b", "2"), ("b", "3")]),
        ),
        ("or=(a.eq.1,b.gt.2)", None),
        ("a=not.eq.1", None),
        ("not.and=(a.eq.1,b.eq.2)", None),
    ] {
        let parsed = Filter::parse(filter).expect(filter);
        let keys = parsed.keys();
        let keys: Option<Vec<_>> = keys.map(|keys| {
            keys.into_iter()
                .map(|(column, value)| (&**column, value))
                .collect()
        });
        assert_eq!(keys.as_deref(), expected, "{filter}");
    }
}
