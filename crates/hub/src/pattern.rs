//! SQL's LIKE, in a time that no pattern can blow up: it runs inside the pipeline, over values and
//! patterns that strangers wrote.

/// A pattern may be this long, in bytes.
const PATTERN_BYTES_MAX: usize = 1000;
/// So many characters may stand between two `%` if there is a `_` among them: [`find_wild`] could
/// take twice as many.
const WILD_CHARS_MAX: usize = 64;

/// A character of a pattern; `None` stands for any one.
type One = Option<char>;

/// A pattern, taken apart.
///
/// `%` is any text, `_` one character, a backslash takes the next as it is.
/// `*` means `%`, as in the other systems' filters.
#[derive(Clone, Debug)]
pub(crate) struct Like {
    /// The texts between the `%`: one more than there are of these.
    parts: Vec<Vec<One>>,
}

impl Like {
    /// `None`: it is too long to be cheap.
    pub(crate) fn new(pattern: &str) -> Option<Like> {
        let parts = parts(pattern);
        let cheap = |part: &Vec<One>| !part.contains(&None) || part.len() <= WILD_CHARS_MAX;
        let short = pattern.len() <= PATTERN_BYTES_MAX && parts.iter().all(cheap);
        short.then_some(Like { parts })
    }

    /// Each part between two `%` is looked for behind the one before it, as early as it can be
    /// found: then there is most room for the others, and nothing is ever tried twice.
    pub(crate) fn matches(&self, value: &str) -> bool {
        let (Some(first), Some(last)) = (self.parts.first(), self.parts.last()) else {
            return false;
        };
        let Some(mut rest) = without_start(value, first) else {
            return false;
        };
        if self.parts.len() == 1 {
            return rest.is_empty();
        }
        for part in &self.parts[1..self.parts.len() - 1] {
            match find(rest, part) {
                Some(end) => rest = &rest[end..],
                None => return false,
            }
        }
        ends_with(rest, last)
    }
}

/// Whether nothing follows the last backslash. Postgres refuses such patterns.
pub(crate) fn ends_in_escape(pattern: &str) -> bool {
    let backslashes = pattern.bytes().rev().take_while(|byte| *byte == b'\\');
    backslashes.count() % 2 == 1
}

/// The pattern as Postgres writes it.
pub(crate) fn in_sql(pattern: &str) -> String {
    let mut sql = String::with_capacity(pattern.len());
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        match char {
            '*' => sql.push('%'),
            '\\' => {
                sql.push('\\');
                sql.extend(chars.next());
            }
            char => sql.push(char),
        }
    }
    sql
}

/// In lower case, character by character as `ILIKE` has it: never longer, no final sigma.
pub(crate) fn lower(text: &str) -> String {
    text.chars().map(lower_char).collect()
}

pub(crate) fn lower_char(char: char) -> char {
    let mut lower = char.to_lowercase();
    match (lower.next(), lower.next()) {
        (Some(one), None) => one,
        // Only İ becomes two characters; alone it is an i.
        (Some(one), Some(_)) => one,
        (None, _) => char,
    }
}

fn parts(pattern: &str) -> Vec<Vec<One>> {
    let mut parts = vec![Vec::new()];
    let mut chars = pattern.chars();
    while let Some(char) = chars.next() {
        let one = match char {
            '%' | '*' => {
                parts.push(Vec::new());
                continue;
            }
            '_' => None,
            '\\' => Some(chars.next().unwrap_or('\\')),
            char => Some(char),
        };
        parts.last_mut().expect("it begins with one").push(one);
    }
    parts
}

fn without_start<'a>(value: &'a str, part: &[One]) -> Option<&'a str> {
    let mut rest = value.chars();
    for one in part {
        let char = rest.next()?;
        if one.is_some_and(|expected| expected != char) {
            return None;
        }
    }
    Some(rest.as_str())
}

fn ends_with(value: &str, part: &[One]) -> bool {
    let mut rest = value.chars().rev();
    let mut expected = part.iter().rev();
    expected.all(|one| {
        rest.next()
            .is_some_and(|char| one.is_none_or(|expected| expected == char))
    })
}

/// Where the first occurrence of the part ends.
fn find(value: &str, part: &[One]) -> Option<usize> {
    match part.iter().copied().collect::<Option<String>>() {
        Some(literal) => value.find(&literal).map(|at| at + literal.len()),
        None => find_wild(value, part),
    }
}

/// The shift-and algorithm: bit n of `found` says that the part's first n + 1 characters end here.
fn find_wild(value: &str, part: &[One]) -> Option<usize> {
    let last = 1u128.checked_shl(u32::try_from(part.len()).ok()?.checked_sub(1)?)?;
    let mut any = 0u128;
    let mut places: Vec<(char, u128)> = Vec::new();
    for (nth, one) in part.iter().enumerate() {
        match one {
            None => any |= 1 << nth,
            Some(char) => match places.binary_search_by_key(char, |place| place.0) {
                Ok(at) => places[at].1 |= 1 << nth,
                Err(at) => places.insert(at, (*char, 1 << nth)),
            },
        }
    }
    let mut found = 0u128;
    for (at, char) in value.char_indices() {
        let place = places.binary_search_by_key(&char, |place| place.0);
        found = ((found << 1) | 1) & (any | place.map_or(0, |at| places[at].1));
        if found & last != 0 {
            return Some(at + char.len_utf8());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn like(value: &str, pattern: &str) -> bool {
        Like::new(pattern).is_some_and(|like| like.matches(value))
    }

    #[test]
    fn matches() {
        for (value, pattern, expected) in [
            ("", "", true),
            ("", "%", true),
            ("", "%%", true),
            ("", "_", false),
            ("a", "", false),
            ("hello", "hello", true),
            ("hello", "hell", false),
            ("hello", "h%o", true),
            ("hello", "h*o", true),
            ("hello", "h_o", false),
            ("hello", "_____", true),
            ("hello", "______", false),
            ("hello", "%_____%", true),
            ("hello", "%______%", false),
            ("aa", "a%a%a", false),
            ("aba", "ab%ba", false),
            ("xxaxxbxx", "%a%b%", true),
            ("xxbxxaxx", "%a%b%", false),
            ("abcabd", "%ab_abd", true),
            ("xabcxabdx", "%b_x", true),
            ("xabcxabdx", "%a_c%a_d%", true),
            ("xabcxabdx", "%a_d%a_c%", false),
            ("aaab", "%aa_", true),
            ("100%", "100\\%", true),
            ("1000", "100\\%", false),
            ("a_b", "a\\_b", true),
            ("axb", "a\\_b", false),
            ("a\\", "a\\", true),
            ("zürich", "z_rich", true),
            ("zürich", "%ü_i%", true),
            ("日本語", "__語", true),
            ("日本語", "%本_", true),
        ] {
            assert_eq!(like(value, pattern), expected, "{value:?} like {pattern:?}");
        }
    }

    /// Every text of up to six letters against every pattern of up to four, judged by trying all.
    #[test]
    fn agrees_with_trying_everything() {
        fn slow(value: &[u8], pattern: &[u8]) -> bool {
            match (pattern.first(), value.first()) {
                (None, _) => value.is_empty(),
                (Some(b'%'), _) => (0..=value.len()).any(|at| slow(&value[at..], &pattern[1..])),
                (Some(b'_'), Some(_)) => slow(&value[1..], &pattern[1..]),
                (Some(one), Some(other)) => one == other && slow(&value[1..], &pattern[1..]),
                (Some(_), None) => false,
            }
        }
        fn texts(letters: &[char], length: usize) -> Vec<String> {
            let mut all = vec![String::new()];
            let mut last = all.clone();
            for _ in 0..length {
                last = last
                    .iter()
                    .flat_map(|text| letters.iter().map(move |letter| format!("{text}{letter}")))
                    .collect();
                all.extend(last.iter().cloned());
            }
            all
        }
        for pattern in texts(&['a', 'b', '_', '%'], 4) {
            for value in texts(&['a', 'b'], 6) {
                let expected = slow(value.as_bytes(), pattern.as_bytes());
                assert_eq!(like(&value, &pattern), expected, "{value} like {pattern}");
            }
        }
    }

    #[test]
    fn hostile_patterns_are_refused_or_cheap() {
        for (pattern, expected) in [
            ("%".repeat(1000), true),
            ("x".repeat(1000), true),
            ("x".repeat(1001), false),
            (format!("%{}%", "_".repeat(64)), true),
            (format!("%{}%", "_".repeat(65)), false),
        ] {
            assert_eq!(Like::new(&pattern).is_some(), expected, "{pattern:.10}");
        }
        let value = "a".repeat(1_000_000);
        let begin = std::time::Instant::now();
        for pattern in [
            format!("%{}b%", "a".repeat(900)),
            format!("%{}_b%", "a".repeat(60)),
            format!("%{}b%", "a_%".repeat(300)),
        ] {
            assert!(
                Like::new(&pattern).is_some_and(|like| !like.matches(&value)),
                "{pattern:.10}"
            );
        }
        // Trying each place anew takes a minute.
        assert!(begin.elapsed() < std::time::Duration::from_secs(20));
    }

    #[test]
    fn what_postgres_is_told() {
        for (pattern, sql, open) in [
            ("a*b%", "a%b%", false),
            ("a\\*b", "a\\*b", false),
            ("a\\\\*", "a\\\\%", false),
            ("a\\", "a\\", true),
            ("a\\\\", "a\\\\", false),
        ] {
            assert_eq!(
                (in_sql(pattern).as_str(), ends_in_escape(pattern)),
                (sql, open)
            );
        }
        assert_eq!(lower("ÉΣİ"), "éσi");
    }
}
