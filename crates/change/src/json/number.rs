//! Numbers: every digit as Postgres printed it.

/// Appends `text` if it is a JSON number. `NaN` and the infinities are none.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    (length(text)? == text.len()).then(|| out.extend_from_slice(text))
}

/// The length of the JSON number at the start of `text`; at least 1.
pub(super) fn length(text: &[u8]) -> Option<usize> {
    let unsigned = text.strip_prefix(b"-").unwrap_or(text);
    let (whole, mut rest) = digits(unsigned)?;
    if whole.len() > 1 && whole.starts_with(b"0") {
        return None;
    }
    if let Some(fraction) = rest.strip_prefix(b".") {
        rest = digits(fraction)?.1;
    }
    if let [b'e' | b'E', exponent @ ..] = rest {
        rest = match exponent {
            [b'+' | b'-', exponent @ ..] => digits(exponent)?.1,
            _ => digits(exponent)?.1,
        };
    }
    Some(text.len() - rest.len())
}

/// Splits off the digits at the start, of which there must be one.
fn digits(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let count = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    (count > 0).then(|| text.split_at(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        for good in [
            "0",
            "-0",
            "7",
            "-12",
            "9007199254740993",
            "1.500",
            "0.1",
            "1e+20",
            "1e-45",
            "-1.5E7",
            "12345678901234567890123456789012345678901234567890.12345678901234567890",
        ] {
            let mut out = Vec::new();
            assert_eq!(write(good.as_bytes(), &mut out), Some(()), "{good}");
            assert_eq!(out, good.as_bytes());
        }
        for bad in [
            "",
            "-",
            "+1",
            "01",
            "-01",
            "1.",
            ".1",
            "1e",
            "1e+",
            "1.e1",
            "NaN",
            "Infinity",
            "-Infinity",
            "0x10",
            "1 ",
            " 1",
            "1,2",
            "1_000",
            "--1",
            "1e1.5",
            "१",
        ] {
            let mut out = Vec::new();
            assert_eq!(write(bad.as_bytes(), &mut out), None, "{bad:?}");
        }
    }
}
