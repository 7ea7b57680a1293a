//! `numeric` without loss.

use std::cmp::Ordering;

/// The digits before and after the point, without zeros that mean nothing. Variants in Postgres's
/// order.
#[derive(PartialEq, Eq)]
pub(super) enum Decimal<'a> {
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
    /// Exponents are not understood: Postgres prints none.
    pub(super) fn parse(text: &'a str) -> Option<Decimal<'a>> {
        let text = text.trim_ascii();
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
