//! The quoted parts of array and composite texts.

use std::borrow::Cow;

/// How a `"` stands inside quotes; a backslash always takes the next byte as it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Quote {
    /// `\"`, in arrays: a bare `"` ends the quotes.
    Escaped,
    /// `""` as well, in composites.
    Doubled,
}

/// Reads up to the closing quote, `text` being what follows the opening one: the content and what
/// comes after it. `None` if the quotes are never closed.
pub(super) fn read(text: &[u8], quote: Quote) -> Option<(Cow<'_, [u8]>, &[u8])> {
    let mut unescaped = Vec::new();
    let mut left = text;
    loop {
        let stop = memchr::memchr2(b'"', b'\\', left)?;
        let (plain, rest) = left.split_at(stop);
        let (kept, after) = match rest {
            [b'\\', byte, after @ ..] => (*byte, after),
            [b'"', b'"', after @ ..] if quote == Quote::Doubled => (b'"', after),
            [b'"', after @ ..] if unescaped.is_empty() => {
                return Some((Cow::Borrowed(plain), after));
            }
            [b'"', after @ ..] => {
                unescaped.extend_from_slice(plain);
                return Some((Cow::Owned(unescaped), after));
            }
            _ => return None,
        };
        unescaped.extend_from_slice(plain);
        unescaped.push(kept);
        left = after;
    }
}
