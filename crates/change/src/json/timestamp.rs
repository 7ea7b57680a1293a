//! `timestamp` and `timestamptz`: Postgres's ISO style → ISO 8601, as `to_jsonb` writes it.

/// `2020-01-01 00:00:00.5+02` → `"2020-01-01T00:00:00.5+02:00"`; ` BC` stays at the end.
/// `infinity` and what is of another style is not written.
pub(super) fn write(text: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let (moment, era) = match text.strip_suffix(b" BC") {
        Some(moment) => (moment, &b" BC"[..]),
        None => (text, &b""[..]),
    };
    let (date, rest) = moment.split_at(memchr::memchr(b' ', moment)?);
    let clock = rest.get(1..)?;
    let has = |text: &[u8], signs: &[u8]| {
        let ok = |byte: &u8| byte.is_ascii_digit() || signs.contains(byte);
        text.first().is_some_and(u8::is_ascii_digit) && text.iter().all(ok)
    };
    if !has(date, b"-") || !has(clock, b":.+-") {
        return None;
    }
    out.push(b'"');
    out.extend_from_slice(date);
    out.push(b'T');
    out.extend_from_slice(clock);
    if zone(clock).is_some_and(|zone| zone.len() == "+00".len()) {
        out.extend_from_slice(b":00");
    }
    out.extend_from_slice(era);
    out.push(b'"');
    Some(())
}

/// The offset with its sign; it may have minutes and, before standard time, seconds.
fn zone(clock: &[u8]) -> Option<&[u8]> {
    let sign = memchr::memrchr2(b'+', b'-', clock)?;
    clock.get(sign..)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamps() {
        for (text, json) in [
            ("2020-01-01 00:00:00", r#""2020-01-01T00:00:00""#),
            ("2020-01-01 00:00:00+00", r#""2020-01-01T00:00:00+00:00""#),
            (
                "2020-01-01 00:00:00.123456-08",
                r#""2020-01-01T00:00:00.123456-08:00""#,
            ),
            (
                "2020-01-01 00:00:00+05:30",
                r#""2020-01-01T00:00:00+05:30""#,
            ),
            (
                "1890-01-01 00:00:00+00:53:28",
                r#""1890-01-01T00:00:00+00:53:28""#,
            ),
            (
                "0044-03-15 00:00:00+00 BC",
                r#""0044-03-15T00:00:00+00:00 BC""#,
            ),
            ("4713-01-01 00:00:00 BC", r#""4713-01-01T00:00:00 BC""#),
            (
                "294276-12-31 23:59:59.999999+00",
                r#""294276-12-31T23:59:59.999999+00:00""#,
            ),
        ] {
            let mut out = Vec::new();
            assert_eq!(write(text.as_bytes(), &mut out), Some(()), "{text}");
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
        for other in [
            "",
            " ",
            "infinity",
            "-infinity",
            "2020-01-01",
            "2020-01-01 ",
            " 00:00:00",
            " BC",
            "Wed Jan 01 00:00:00 2020",
            "01/02/2020 00:00:00 UTC",
            "2020-01-01 00:00:00\"",
            "2020-01-01\" 00:00:00",
        ] {
            assert_eq!(write(other.as_bytes(), &mut Vec::new()), None, "{other:?}");
        }
    }
}
