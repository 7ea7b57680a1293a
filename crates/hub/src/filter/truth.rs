//! SQL's three truth values, and not knowing which of them it is.

use std::ops::Not;

/// The truth values that a condition may have: one, or several where Postgres did not send all that
/// it reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Truth(u8);

impl Truth {
    pub(crate) const TRUE: Truth = Truth(1);
    pub(crate) const FALSE: Truth = Truth(2);
    pub(crate) const NULL: Truth = Truth(4);
    pub(crate) const TRUE_OR_FALSE: Truth = Truth(3);
    pub(crate) const ANY: Truth = Truth(7);

    /// Whether it selects a row: only what is true does. `None`: it may or may not be.
    pub(crate) fn selects(self) -> Option<bool> {
        match self {
            Truth::TRUE => Some(true),
            _ if self.has(Truth::TRUE) => None,
            _ => Some(false),
        }
    }

    pub(crate) fn and(self, other: Truth) -> Truth {
        !(!self).or(!other)
    }

    pub(crate) fn or(self, other: Truth) -> Truth {
        let mut result = 0;
        for left in self.each() {
            for right in other.each() {
                result |= match (left, right) {
                    (Truth::TRUE, _) | (_, Truth::TRUE) => Truth::TRUE.0,
                    (Truth::NULL, _) | (_, Truth::NULL) => Truth::NULL.0,
                    _ => Truth::FALSE.0,
                };
            }
        }
        Truth(result)
    }

    fn has(self, one: Truth) -> bool {
        self.0 & one.0 != 0
    }

    fn each(self) -> impl Iterator<Item = Truth> {
        let all = [Truth::TRUE, Truth::FALSE, Truth::NULL];
        all.into_iter().filter(move |one| self.has(*one))
    }
}

impl Not for Truth {
    type Output = Truth;

    fn not(self) -> Truth {
        let Truth(bits) = self;
        Truth(bits & Truth::NULL.0 | (bits & Truth::TRUE.0) << 1 | (bits & Truth::FALSE.0) >> 1)
    }
}

impl From<Option<bool>> for Truth {
    /// `None` is NULL.
    fn from(value: Option<bool>) -> Truth {
        match value {
            Some(true) => Truth::TRUE,
            Some(false) => Truth::FALSE,
            None => Truth::NULL,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        let (t, f, n, any) = (Truth::TRUE, Truth::FALSE, Truth::NULL, Truth::ANY);
        for (left, right, and, or) in [
            (t, t, t, t),
            (t, f, f, t),
            (t, n, n, t),
            (f, f, f, f),
            (f, n, f, n),
            (n, n, n, n),
            (any, f, f, any),
            (any, t, any, t),
            (any, n, Truth(6), Truth(5)),
        ] {
            assert_eq!((left.and(right), right.and(left)), (and, and));
            assert_eq!((left.or(right), right.or(left)), (or, or));
        }
        for (value, negated, selects) in [
            (t, f, Some(true)),
            (f, t, Some(false)),
            (n, n, Some(false)),
            (any, any, None),
            (Truth(6), Truth(5), Some(false)),
        ] {
            assert_eq!((!value, value.selects()), (negated, selects));
        }
    }
}
