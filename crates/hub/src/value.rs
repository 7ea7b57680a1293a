//! Postgres values compared as Postgres compares them, from their text.

use std::cmp::Ordering;

/// How values of a type compare. Types outside this list compare for equality of text only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Integer,
    Float,
    Numeric,
    Bool,
    Uuid,
    /// By bytes, that is by code point: the order of collation "C". Equality is Postgres's own
    /// under every deterministic collation.
    Text,
    /// Blanks at the end do not count.
    Blank,
    /// `date`, `timestamp` and `timestamptz`, the latter two to the microsecond.
    Time,
    /// Equality of the canonical text.
    Opaque,
}

impl Comparison {
    /// How values of the built-in type `oid` compare.
    pub(crate) fn of(oid: u32) -> Comparison {
        match oid {
            20 | 21 | 23 | 26 => Comparison::Integer,
            700 | 701 => Comparison::Float,
            1700 => Comparison::Numeric,
            16 => Comparison::Bool,
            2950 => Comparison::Uuid,
            18 | 19 | 25 | 1043 => Comparison::Text,
            1042 => Comparison::Blank,
            1082 | 1114 | 1184 => Comparison::Time,
            _ => Comparison::Opaque,
        }
    }

    pub(crate) fn has_order(self) -> bool {
        self != Comparison::Opaque
    }

    /// Whether `text` is a value of the type at all.
    pub(crate) fn accepts(self, text: &str) -> bool {
        self.compare(text, text).is_some()
    }

    /// The order of two values; `None` if one of them is no value of the type.
    pub(crate) fn compare(self, left: &str, right: &str) -> Option<Ordering> {
        match self {
            Comparison::Integer => Some(integer(left)?.cmp(&integer(right)?)),
            Comparison::Float => Some(float_order(float(left)?, float(right)?)),
            Comparison::Numeric => Some(Decimal::parse(left)?.cmp(&Decimal::parse(right)?)),
            Comparison::Bool => Some(boolean(left)?.cmp(&boolean(right)?)),
            Comparison::Uuid => Some(uuid(left)?.cmp(&uuid(right)?)),
            Comparison::Text | Comparison::Opaque => Some(left.cmp(right)),
            Comparison::Blank => Some(left.trim_end_matches(' ').cmp(right.trim_end_matches(' '))),
            Comparison::Time => Some(moment(left)?.cmp(&moment(right)?)),
        }
    }
}

fn integer(text: &str) -> Option<i64> {
    text.trim().parse().ok()
}

fn float(text: &str) -> Option<f64> {
    text.trim().parse().ok()
}

/// Postgres's order: NaN equals itself and is above everything; −0 equals 0.
fn float_order(left: f64, right: f64) -> Ordering {
    left.partial_cmp(&right)
        .unwrap_or_else(|| left.is_nan().cmp(&right.is_nan()))
}

fn boolean(text: &str) -> Option<bool> {
    match text.trim().to_ascii_lowercase().as_str() {
        "t" | "true" | "yes" | "on" | "1" | "y" => Some(true),
        "f" | "false" | "no" | "off" | "0" | "n" => Some(false),
        _ => None,
    }
}

fn uuid(text: &str) -> Option<u128> {
    let text = text.trim().trim_matches(['{', '}']);
    let (mut value, mut digits) = (0, 0);
    for char in text.chars().filter(|char| *char != '-') {
        value = value << 4 | u128::from(char.to_digit(16)?);
        digits += 1;
    }
    (digits == 32).then_some(value)
}

/// A `numeric` without loss: sign, then the digits before and after the point.
#[derive(PartialEq, Eq)]
enum Decimal<'a> {
    NegativeInfinity,
    Finite {
        negative: bool,
        whole: &'a str,
        fraction: &'a str,
    },
    Infinity,
    NaN,
}

impl<'a> Decimal<'a> {
    fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let text = text.trim();
        match text.to_ascii_lowercase().as_str() {
            "nan" => return Some(Decimal::NaN),
            "infinity" | "inf" | "+infinity" => return Some(Decimal::Infinity),
            "-infinity" | "-inf" => return Some(Decimal::NegativeInfinity),
            _ => {}
        }
        let negative = text.starts_with('-');
        let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
        let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
        let all_digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
        if (whole.is_empty() && fraction.is_empty()) || !all_digits(whole) || !all_digits(fraction)
        {
            return None;
        }
        let whole = whole.trim_start_matches('0');
        let fraction = fraction.trim_end_matches('0');
        let zero = whole.is_empty() && fraction.is_empty();
        Some(Decimal::Finite {
            negative: negative && !zero,
            whole,
            fraction,
        })
    }

    fn rank(&self) -> u8 {
        match self {
            Decimal::NegativeInfinity => 0,
            Decimal::Finite { .. } => 1,
            Decimal::Infinity => 2,
            Decimal::NaN => 3,
        }
    }
}

impl PartialOrd for Decimal<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal<'_> {
    fn cmp(&self, other: &Self) -> Ordering {
        let (
            Decimal::Finite {
                negative,
                whole,
                fraction,
            },
            Decimal::Finite {
                negative: other_negative,
                whole: other_whole,
                fraction: other_fraction,
            },
        ) = (self, other)
        else {
            return self.rank().cmp(&other.rank());
        };
        let magnitude = whole
            .len()
            .cmp(&other_whole.len())
            .then_with(|| whole.cmp(other_whole))
            .then_with(|| fraction.cmp(other_fraction));
        match (negative, other_negative) {
            (false, true) => Ordering::Greater,
            (true, false) => Ordering::Less,
            (false, false) => magnitude,
            (true, true) => magnitude.reverse(),
        }
    }
}

/// Microseconds since 1970 (UTC where no zone is given) of `2024-05-01`, `2024-05-01 10:00:00.5+02`
/// or `2024-05-01T10:00:00Z`, also with ` BC`; the infinities are the extremes.
fn moment(text: &str) -> Option<i128> {
    let text = text.trim();
    match text.to_ascii_lowercase().as_str() {
        "infinity" => return Some(i128::MAX),
        "-infinity" => return Some(i128::MIN),
        _ => {}
    }
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, ""));
    let days = days(date, before_christ)?;
    Some(i128::from(days) * 86_400_000_000 + time_of_day(time)?)
}

fn days(date: &str, before_christ: bool) -> Option<i64> {
    let mut parts = date.splitn(3, '-').map(number);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year > 300_000 {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    // Howard Hinnant's days_from_civil: the year begins in March, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn time_of_day(time: &str) -> Option<i128> {
    if time.is_empty() {
        return Some(0);
    }
    let zone_at = time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len());
    let (clock, zone) = time.split_at(zone_at);
    let (clock, fraction) = clock.split_once('.').unwrap_or((clock, ""));
    let micros = fraction_micros(fraction)?;
    let seconds = sexagesimal(clock)?;
    let offset = match zone.split_at_checked(1) {
        Some(("+", offset)) => sexagesimal(offset)?,
        Some(("-", offset)) => -sexagesimal(offset)?,
        _ => 0,
    };
    Some(i128::from(seconds - offset) * 1_000_000 + i128::from(micros))
}

/// The digits after the point as microseconds; what is finer is cut off.
fn fraction_micros(digits: &str) -> Option<i64> {
    if digits.is_empty() {
        return Some(0);
    }
    number(digits)?;
    let padded = format!("{digits:0<6}");
    number(padded.get(..6)?)
}

/// Seconds of `hh`, `hh:mm` or `hh:mm:ss`; also `hhmm`.
fn sexagesimal(text: &str) -> Option<i64> {
    // Longer is no time, and would not fit once it is in seconds.
    if text.len() > 10 {
        return None;
    }
    if text.len() == 4 && !text.contains(':') {
        let hours_minutes = number(text)?;
        return Some(hours_minutes / 100 * 3600 + hours_minutes % 100 * 60);
    }
    let mut parts = text.split(':').map(number);
    let mut seconds = parts.next()?? * 3600;
    for unit in [60, 1] {
        seconds += parts.next().unwrap_or(Some(0))? * unit;
    }
    parts.next().is_none().then_some(seconds)
}

fn number(digits: &str) -> Option<i64> {
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders() {
        use Comparison::*;
        for (comparison, left, order, right) in [
            (Integer, "9", "<", "10"),
            (Integer, "-9223372036854775808", "<", "9223372036854775807"),
            (Float, "1e2", "=", "100"),
            (Float, "NaN", ">", "Infinity"),
            (Float, "NaN", "=", "NaN"),
            (Float, "-0", "=", "0"),
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
            (Time, "2024-05-01", "<", "2024-05-01 00:00:00.000001"),
            (
                Time,
                "2024-05-01 12:00:00+00",
                "=",
                "2024-05-01T14:00:00+02:00",
            ),
            (Time, "2024-05-01 12:00:00+00", "=", "2024-05-01T12:00:00Z"),
            (Time, "0044-03-15 BC", "<", "0001-01-01"),
            (Time, "10000-01-01", ">", "9999-12-31"),
            (Time, "infinity", ">", "294276-12-31"),
            (Time, "2000-02-29", "<", "2000-03-01"),
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
            (Integer, "1.5"),
            (Integer, ""),
            (Integer, "99999999999999999999"),
            (Float, "x"),
            (Numeric, "1e5x"),
            (Numeric, "."),
            (Numeric, "--1"),
            (Bool, "maybe"),
            (Uuid, "123"),
            (Uuid, "g0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
            (Time, "yesterday"),
            (Time, "2024-13-01"),
            (Time, "2024-01-01 1:2:3:4"),
            (Time, "2024-01-01 9223372036854775807"),
            (Time, "2024-01-01 00:00:00+9223372036854775807"),
            (Uuid, "a0eebc999c0b4ef8bb6d6bb9bd380a111"),
            (Time, "é"),
            (Time, "2024-01-01 éa"),
            (Time, "2024-01-01 00:00:00.aéaéa"),
            (Time, "2024-01-01 00:00:00+aéa"),
        ] {
            assert!(!comparison.accepts(text), "{comparison:?} {text:?}");
        }
    }
}
