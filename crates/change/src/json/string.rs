//! Text → JSON string.

use super::plain::plain_run;

/// Appends `text` as a JSON string. What is no UTF-8 becomes U+FFFD (Postgres sends UTF-8 unless
/// the database is SQL_ASCII).
pub fn write_string(text: &[u8], out: &mut Vec<u8>) {
    out.reserve(text.len() + 2);
    out.push(b'"');
    let (plain, rest) = text.split_at(plain_run::<true>(text));
    out.extend_from_slice(plain);
    for chunk in rest.utf8_chunks() {
        escape(chunk.valid().as_bytes(), out);
        if !chunk.invalid().is_empty() {
            out.extend_from_slice("\u{FFFD}".as_bytes());
        }
    }
    out.push(b'"');
}

fn escape(valid: &[u8], out: &mut Vec<u8>) {
    let mut left = valid;
    loop {
        let (plain, rest) = left.split_at(plain_run::<false>(left));
        out.extend_from_slice(plain);
        let Some((&byte, rest)) = rest.split_first() else {
            return;
        };
        left = rest;
        let letter = match byte {
            b'"' | b'\\' => byte,
            b'\n' => b'n',
            b'\r' => b'r',
            b'\t' => b't',
            0x08 => b'b',
            0x0C => b'f',
            control => {
                let digit = b"0123456789abcdef"[usize::from(control & 0xF)];
                out.extend_from_slice(&[b'\\', b'u', b'0', b'0', b'0' + (control >> 4), digit]);
                continue;
            }
        };
        out.extend_from_slice(&[b'\\', letter]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings() {
        for (text, json) in [
            (&b""[..], r#""""#),
            (
                b"plain text, longer than a word",
                r#""plain text, longer than a word""#,
            ),
            (b"\"", r#""\"""#),
            (b"a\\b", r#""a\\b""#),
            (b"\x00\x01\x1f\x7f", "\"\\u0000\\u0001\\u001f\x7f\""),
            (b"\x08\t\n\x0c\r", r#""\b\t\n\f\r""#),
            ("größer 日本 🎈\n".as_bytes(), "\"größer 日本 🎈\\n\""),
            ("\u{2028}\u{feff}".as_bytes(), "\"\u{2028}\u{feff}\""),
            (b"a\xff\"b", "\"a\u{fffd}\\\"b\""),
            (b"\xe2\x82", "\"\u{fffd}\""),
            (b"\xed\xa0\x80", "\"\u{fffd}\u{fffd}\u{fffd}\""),
        ] {
            let mut out = Vec::new();
            write_string(text, &mut out);
            assert_eq!(String::from_utf8(out).unwrap(), json, "{text:?}");
        }
    }
}
