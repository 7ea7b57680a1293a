//! `int2vector` and `oidvector`: elements with blanks between them.

use super::write_cell;
use crate::{JsonType, Numbers};

/// Appends `1 2 3` as an array; never fails, since every element can be written.
pub(super) fn write(
    element: &JsonType,
    text: &[u8],
    numbers: Numbers,
    out: &mut Vec<u8>,
) -> Option<()> {
    out.push(b'[');
    let elements = text.split(|&byte| byte == b' ');
    for (nth, value) in elements.filter(|value| !value.is_empty()).enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write_cell(element, value, numbers, out);
    }
    out.push(b']');
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors() {
        for (text, json) in [
            ("", "[]"),
            ("1", "[1]"),
            ("1 2 -3", "[1,2,-3]"),
            ("1 x", r#"[1,"x"]"#),
        ] {
            let mut out = Vec::new();
            write(
                &JsonType::Number,
                text.as_bytes(),
                Numbers::String,
                &mut out,
            );
            assert_eq!(String::from_utf8(out).unwrap(), json);
        }
    }
}
