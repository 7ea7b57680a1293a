//! Runs of characters that a JSON string holds as they are, found eight bytes at a time.

const ONES: u64 = 0x0101_0101_0101_0101;
const HIGHS: u64 = 0x8080_8080_8080_8080;

/// The length of the run at the start of `text` without control characters, `"` and `\`;
/// with `ASCII_ONLY`, without bytes above 0x7F as well.
pub(super) fn plain_run<const ASCII_ONLY: bool>(text: &[u8]) -> usize {
    let (words, tail) = text.as_chunks::<8>();
    for (at, word) in words.iter().enumerate() {
        let stops = stops::<ASCII_ONLY>(u64::from_le_bytes(*word));
        if stops != 0 {
            return at * 8 + stops.trailing_zeros() as usize / 8;
        }
    }
    let in_tail = tail.iter().position(|&byte| is_stop::<ASCII_ONLY>(byte));
    text.len() - tail.len() + in_tail.unwrap_or(tail.len())
}

/// The high bit of each byte that ends a run. A borrow may mark bytes after the first such byte
/// wrongly, never one before it, and only the first counts.
fn stops<const ASCII_ONLY: bool>(word: u64) -> u64 {
    let controls = word.wrapping_sub(ONES * 0x20) & !word;
    let quotes = zeros(word ^ (ONES * b'"' as u64));
    let backslashes = zeros(word ^ (ONES * b'\\' as u64));
    let highs = if ASCII_ONLY { word } else { 0 };
    (controls | quotes | backslashes | highs) & HIGHS
}

fn zeros(word: u64) -> u64 {
    word.wrapping_sub(ONES) & !word
}

fn is_stop<const ASCII_ONLY: bool>(byte: u8) -> bool {
    byte < 0x20 || byte == b'"' || byte == b'\\' || (ASCII_ONLY && byte >= 0x80)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every byte at every place of a word, before and after another stop.
    #[test]
    fn words_agree_with_bytes() {
        for byte in 0..=255_u8 {
            for at in 0..20 {
                for other in [b'a', b'"', b'\\', 0, 0x1F, 0x20, 0x7F, 0x80, 0xFF] {
                    let mut text = [b'x'; 20];
                    text[19 - at] = other;
                    text[at] = byte;
                    check::<true>(&text);
                    check::<false>(&text);
                }
            }
        }
    }

    fn check<const ASCII_ONLY: bool>(text: &[u8]) {
        let slow = text.iter().position(|&byte| is_stop::<ASCII_ONLY>(byte));
        let expected = slow.unwrap_or(text.len());
        assert_eq!(plain_run::<ASCII_ONLY>(text), expected, "{text:?}");
    }
}
