//! Postgres values compared as Postgres compares them, from their text.

mod decimal;
mod moment;

use std::cmp::Ordering;
use std::str::FromStr;

use decimal::Decimal;
pub(crate) use moment::with_zone;

/// How values of a type compare.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    Numeric,
    Bool,
    Uuid,
    /// By bytes, that is by code point: the order of collation "C". Equality is Postgres's own
    /// under every deterministic collation.
    Text,
    /// `"char"`: one byte.
    Byte,
    /// `char(n)`: blanks at the end do not count.
    Blank,
    Bytea,
    Date,
    Timestamp,
    TimestampTz,
    Time,
    /// Types made in the database: equality of the text. That is right for enums.
    Label,
    /// Values whose equality their text does not show.
    Not,
}

/// The first OID of what is made in a database, not by it.
const FIRST_OWN_OID: u32 = 16_384;

impl Comparison {
    /// How values of the type `oid` compare.
    pub(crate) fn of(oid: u32) -> Comparison {
        match oid {
            21 => Comparison::Int2,
            23 => Comparison::Int4,
            20 => Comparison::Int8,
            26 => Comparison::Oid,
            700 => Comparison::Float4,
            701 => Comparison::Float8,
            1700 => Comparison::Numeric,
            16 => Comparison::Bool,
            2950 => Comparison::Uuid,
            19 | 25 | 1043 => Comparison::Text,
            18 => Comparison::Byte,
            1042 => Comparison::Blank,
            17 => Comparison::Bytea,
            1082 => Comparison::Date,
            1083 => Comparison::Time,
            1114 => Comparison::Timestamp,
            1184 => Comparison::TimestampTz,
            FIRST_OWN_OID.. => Comparison::Label,
            _ => Comparison::Not,
        }
    }

    pub(crate) fn has_order(self) -> bool {
        !matches!(self, Comparison::Label | Comparison::Not)
    }

    /// Whether patterns are for this type.
    pub(crate) fn is_text(self) -> bool {
        matches!(self, Comparison::Text | Comparison::Blank)
    }

    /// Whether `text` is a value of the type at all.
    pub(crate) fn accepts(self, text: &str) -> bool {
        self.compare(text, text).is_some()
    }

    /// The order of two values; `None` if one of them is no value of the type, or not known to be.
    pub(crate) fn compare(self, left: &str, right: &str) -> Option<Ordering> {
        Some(match self {
            Comparison::Int2 => integer::<i16>(left)?.cmp(&integer(right)?),
            Comparison::Int4 => integer::<i32>(left)?.cmp(&integer(right)?),
            Comparison::Int8 => integer::<i64>(left)?.cmp(&integer(right)?),
            Comparison::Oid => integer::<u32>(left)?.cmp(&integer(right)?),
            Comparison::Float4 => float_order(float4(left)?, float4(right)?),
            Comparison::Float8 => float_order(float8(left)?, float8(right)?),
            Comparison::Numeric => Decimal::parse(left)?.cmp(&Decimal::parse(right)?),
            Comparison::Bool => boolean(left)?.cmp(&boolean(right)?),
            Comparison::Uuid => uuid(left)?.cmp(&uuid(right)?),
            Comparison::Text | Comparison::Label => left.cmp(right),
            Comparison::Byte => byte(left)?.cmp(byte(right)?),
            Comparison::Blank => without_blanks(left).cmp(without_blanks(right)),
            Comparison::Bytea => hex(left)?.cmp(&hex(right)?),
            Comparison::Date => moment::date(left)?.cmp(&moment::date(right)?),
            Comparison::Timestamp => moment::timestamp(left)?.cmp(&moment::timestamp(right)?),
            Comparison::TimestampTz => {
                moment::timestamp_with_zone(left)?.cmp(&moment::timestamp_with_zone(right)?)
            }
            Comparison::Time => moment::time(left)?.cmp(&moment::time(right)?),
            Comparison::Not => return None,
        })
    }
}

/// The texts by which values of any type that equal `text` can be found, if Postgres prints each of
/// these values in one way only. Some may belong to other types: this is for narrowing a search.
pub(crate) fn keys(text: &str) -> Vec<Box<str>> {
    let mut keys: Vec<Box<str>> = vec![text.into()];
    let mut add = |key: String| {
        if !keys.iter().any(|known| **known == *key) {
            keys.push(key.into());
        }
    };
    add(without_blanks(text).to_owned());
    if let Some(integer) = integer::<i64>(text) {
        add(integer.to_string());
    }
    if let Some(boolean) = boolean(text) {
        add(if boolean { "t" } else { "f" }.to_owned());
    }
    if let Some(uuid) = uuid(text) {
        let digits = format!("{uuid:032x}");
        let parts = [0..8, 8..12, 12..16, 16..20, 20..32].map(|part| &digits[part]);
        add(parts.join("-"));
    }
    keys
}

/// The one of its [`keys`] by which a value that Postgres printed is found; `None`: its type prints
/// equal values in several ways.
pub(crate) fn key(oid: u32, printed: &str) -> Option<&str> {
    match Comparison::of(oid) {
        Comparison::Blank => Some(without_blanks(printed)),
        Comparison::Int2
        | Comparison::Int4
        | Comparison::Int8
        | Comparison::Oid
        | Comparison::Bool
        | Comparison::Uuid
        | Comparison::Text
        | Comparison::Byte
        | Comparison::Label => Some(printed),
        _ => None,
    }
}

fn integer<T: FromStr>(text: &str) -> Option<T> {
    text.trim_ascii().parse().ok()
}

fn float8(text: &str) -> Option<f64> {
    let value: f64 = text.trim_ascii().parse().ok()?;
    is_exact(text, value.is_infinite(), value == 0.0).then_some(value)
}

fn float4(text: &str) -> Option<f64> {
    let value: f32 = text.trim_ascii().parse().ok()?;
    is_exact(text, value.is_infinite(), value == 0.0).then_some(value.into())
}

/// Whether a number was neither too large nor too small for its type.
fn is_exact(text: &str, infinite: bool, zero: bool) -> bool {
    let mantissa = text.split(['e', 'E']).next().unwrap_or(text);
    let digits = mantissa.bytes().any(|byte| byte.is_ascii_digit());
    let not_zero = mantissa.bytes().any(|byte| matches!(byte, b'1'..=b'9'));
    !(infinite && digits || zero && not_zero)
}

/// Postgres's order: NaN equals itself and is above everything; −0 equals 0.
fn float_order(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim_ascii().to_ascii_lowercase().as_str() {
        "t" | "true" | "yes" | "on" | "1" | "y" => Some(true),
        "f" | "false" | "no" | "off" | "0" | "n" => Some(false),
        _ => None,
    }
}

/// 32 hexadecimal digits, a hyphen after any four of them, braces around all.
fn uuid(text: &str) -> Option<u128> {
    let text = match text.strip_prefix('{') {
        Some(inner) => inner.strip_suffix('}')?,
        None => text,
    };
    let (mut value, mut digits, mut hyphen) = (0, 0, true);
    for char in text.chars() {
        if char == '-' && !hyphen && digits % 4 == 0 && digits < 32 {
            hyphen = true;
            continue;
        }
        value = value << 4 | u128::from(char.to_digit(16)?);
        digits += 1;
        hyphen = false;
    }
    (digits == 32 && !hyphen).then_some(value)
}

fn byte(text: &str) -> Option<&[u8]> {
    (text.len() <= 1).then_some(text.as_bytes())
}

pub(crate) fn without_blanks(text: &str) -> &str {
    text.trim_end_matches(' ')
}

/// `\x` and hexadecimal digits, which order as the bytes do.
fn hex(text: &str) -> Option<String> {
    let digits = text.strip_prefix("\\x")?;
    let whole = digits.len() % 2 == 0 && digits.bytes().all(|byte| byte.is_ascii_hexdigit());
    whole.then(|| digits.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        use Comparison::*;
        for (comparison, left, order, right) in [
            (Int4, "9", "<", "10"),
            (Int8, "-9223372036854775808", "<", "9223372036854775807"),
            (Float8, "1e2", "=", "100"),
            (Float8, "NaN", ">", "Infinity"),
            (Float8, "NaN", "=", "NaN"),
            (Float8, "-0", "=", "0"),
            (Numeric, "1.0", "=", "1.00"),
            (Numeric, "-0.0", "=", "0"),
            (Numeric, "007.5", "<", "10"),
            (Numeric, "-2", "<", "-1.5"),
            (Numeric, "0.09", "<", "0.1"),
            (
                Numeric,
                "123456789012345678901234567890.1",
                ">",
                "123456789012345678901234567890.01",
            ),
            (Numeric, "NaN", ">", "Infinity"),
            (Numeric, "-Infinity", "<", "-1"),
            (Bool, "t", "=", "true"),
            (Bool, "f", "<", "t"),
            (
                Uuid,
                "A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11",
                "=",
                "a0eebc999c0b4ef8bb6d6bb9bd380a11",
            ),
            (Text, "a", ">", "B"),
            (Blank, "a  ", "=", "a"),
            (Timestamp, "2024-05-01", "<", "2024-05-01 00:00:00.000001"),
            (
                TimestampTz,
                "2024-05-01 12:00:00+00",
                "=",
                "2024-05-01T14:00:00+02:00",
            ),
            (
                TimestampTz,
                "2024-05-01 12:00:00+00",
                "=",
                "2024-05-01T12:00:00Z",
            ),
            (Date, "0044-03-15 BC", "<", "0001-01-01"),
            (Date, "10000-01-01", ">", "9999-12-31"),
            (Timestamp, "infinity", ">", "294276-12-31"),
            (Date, "2000-02-29", "<", "2000-03-01"),
            (Date, "2024-05-01 23:59:59-10", "=", "2024-05-01"),
            (Timestamp, "2024-05-01 10:00:00+02", "=", "2024-05-01T10:00"),
            (TimestampTz, "2024-05-01", "=", "2024-05-01 02:00:00+0200"),
            (Timestamp, "2024-05-01 00:00:00.0000005", "=", "2024-05-01"),
            (Timestamp, "2024-04-30 23:59:59.9999999", "=", "2024-05-01"),
            (Time, "24:00:00", ">", "23:59:59.999999"),
            (Float4, "0.1", "=", "0.100000001"),
            (Float8, "0.1", "<", "0.100000001"),
            (Bytea, "\\xFF", "=", "\\xff"),
            (Bytea, "\\x01", "<", "\\x0100"),
            (Label, "B", "<", "a"),
        ] {
            let expected = match order {
                "<" => Ordering::Less,
                ">" => Ordering::Greater,
                _ => Ordering::Equal,
            };
            assert_eq!(
                comparison.compare(left, right),
                Some(expected),
                "{left} {order} {right}"
            );
            assert_eq!(
                comparison.compare(right, left),
                Some(expected.reverse()),
                "{right} {left}"
            );
        }
    }

    #[test]
    fn no_values_of_their_type() {
        use Comparison::*;
        for (comparison, text) in [
            (Int8, "1.5"),
            (Int8, ""),
            (Int8, "99999999999999999999"),
            (Float8, "x"),
            (Numeric, "1e5x"),
            (Numeric, "."),
            (Numeric, "--1"),
            (Bool, "maybe"),
            (Uuid, "123"),
            (Uuid, "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Timestamp, "yesterday"),
            (Timestamp, "2024-13-01"),
            (Timestamp, "2024-01-01 1:2:3:4"),
            (Timestamp, "2024-01-01 9223372036854775807"),
            (Timestamp, "2024-01-01 00:00:00+9223372036854775807"),
            (Uuid, "a0eebc999c0b4ef8bb6d6bb9bd380a111"),
            (Int2, "32768"),
            (Int4, "2147483648"),
            (Oid, "-1"),
            (Float4, "1e39"),
            (Float8, "1e400"),
            (Float8, "1e-400"),
            (Uuid, "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a1-1"),
            (Uuid, " a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Uuid, "{a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Date, "2023-02-29"),
            (Date, "0000-01-01"),
            (Date, "24-01-01"),
            (Date, "4714-11-23 BC"),
            (Timestamp, "294277-01-01"),
            (Timestamp, "2024-01-01 10"),
            (Timestamp, "2024-01-01 24:00:01"),
            (Timestamp, "2024-01-01 10:00:00+16"),
            (Timestamp, "2024-01-01 10:00:00."),
            (Time, "24:00:01"),
            (Bytea, "\\x0"),
            (Byte, "ab"),
            (Not, ""),
            (Timestamp, "é"),
            (Timestamp, "2024-01-01 éa"),
            (Timestamp, "2024-01-01 00:00:00.aéaéa"),
            (Timestamp, "2024-01-01 00:00:00+aéa"),
        ] {
            assert!(!comparison.accepts(text), "{comparison:?} {text:?}");
        }
    }

    #[test]
    fn equal_values_share_a_key() {
        const ID: &str = "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11";
        for (oid, printed, operand, expected) in [
            (23, "7", " +007", true),
            (23, "-7", "-7", true),
            (26, "4294967295", "4294967295", true),
            (23, "7", "70", false),
            (16, "t", "TRUE", true),
            (16, "f", "0", true),
            (2950, ID, "{A0EEBC999C0B4EF8BB6D6BB9BD380A11}", true),
            (25, "7", "7", true),
            (25, "a ", "a ", true),
            (1042, "a  ", "a ", true),
            (20_000, "open", "open", true),
        ] {
            let key = key(oid, printed).expect("one way to print it");
            let found = keys(operand).iter().any(|known| **known == *key);
            assert_eq!(found, expected, "{printed:?} {operand:?}");
            assert_eq!(
                Comparison::of(oid).compare(printed, operand) == Some(Ordering::Equal),
                expected
            );
        }
        assert_eq!(key(1700, "1.0"), None);
        assert_eq!(key(1184, "2024-05-01 00:00:00+00"), None);
    }

    #[test]
    fn zones_are_said() {
        for (text, expected) in [
            ("2024-05-01", "2024-05-01 00:00:00+00"),
            ("2024-05-01T10:00", "2024-05-01T10:00+00"),
            ("2024-05-01 10:00:00-05", "2024-05-01 10:00:00-05"),
            ("0044-03-15 10:00:00 BC", "0044-03-15 10:00:00+00 BC"),
            ("infinity", "infinity"),
        ] {
            assert_eq!(with_zone(text), expected);
        }
    }
}
