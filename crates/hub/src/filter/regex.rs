//! Postgres's regular expressions (`~` and `~*`), as far as they mean the same to an automaton.
//!
//! What Postgres reads differently from the `regex` crate is written anew for it, and what can't be
//! is refused: back-references, look-around, embedded options and directors, escapes for characters
//! by their number, collating elements. A match takes time linear in the value.
//!
//! Source: the manual's section 9.7.3, "POSIX Regular Expressions", the flavour "advanced".

use std::iter::Peekable;
use std::str::Chars;

use regex::{Regex, RegexBuilder};

use super::FilterError;
use crate::pattern::lower_char;

/// In bytes.
const PATTERN_MAX: usize = 1000;
/// Of the compiled program, and of what a search remembers, in bytes: each subscription may have a few.
const PROGRAM_MAX: usize = 128 << 10;
const MEMORY_MAX: usize = 64 << 10;
/// Groups within groups.
const GROUPS_MAX: usize = 50;
/// Postgres's own.
const REPEAT_MAX: u32 = 255;
/// Characters of a range whose cases are looked up.
const RANGE_MAX: u32 = 1000;

/// `\w` in Postgres, where the locale knows Unicode.
const WORD: &str = r"\p{Alphabetic}\p{Nd}_";

#[derive(Clone, Debug)]
pub(super) struct Posix {
    regex: Regex,
    /// It means the same under every collation.
    pub(super) everywhere: bool,
}

impl Posix {
    /// `fold`: upper and lower case are the same.
    pub(super) fn new(pattern: &str, fold: bool) -> Result<Posix, FilterError> {
        if pattern.len() > PATTERN_MAX {
            return Err(FilterError::Regex("it is longer than 1000 bytes"));
        }
        let mut translation = Translation {
            rest: pattern.chars().peekable(),
            out: String::new(),
            fold,
            everywhere: !fold,
            repeatable: false,
            groups: 0,
        };
        translation.all().map_err(FilterError::Regex)?;
        let regex = RegexBuilder::new(&translation.out)
            .dot_matches_new_line(true)
            .size_limit(PROGRAM_MAX)
            .dfa_size_limit(MEMORY_MAX)
            .build()
            .map_err(|error| FilterError::Regex(reason(&error)))?;
        Ok(Posix {
            regex,
            everywhere: translation.everywhere,
        })
    }

    pub(super) fn matches(&self, value: &str) -> bool {
        self.regex.is_match(value)
    }
}

fn reason(error: &regex::Error) -> &'static str {
    match error {
        regex::Error::CompiledTooBig(_) => "it is too large",
        _ => "it is not valid",
    }
}

struct Translation<'a> {
    rest: Peekable<Chars<'a>>,
    out: String,
    fold: bool,
    everywhere: bool,
    /// What was written last may be repeated.
    repeatable: bool,
    /// How many are open.
    groups: usize,
}

type Done = Result<(), &'static str>;

impl Translation<'_> {
    fn all(&mut self) -> Done {
        while let Some(char) = self.rest.next() {
            match char {
                '(' => self.group()?,
                ')' if self.groups == 0 => return Err("its parentheses are not balanced"),
                ')' => {
                    self.groups -= 1;
                    self.atom(")");
                }
                '|' | '^' | '$' => {
                    self.out.push(char);
                    self.repeatable = false;
                }
                '.' => self.atom("."),
                '[' => self.bracket()?,
                '\\' => self.escape()?,
                '*' | '+' | '?' => self.repeat(&char.to_string())?,
                '{' if self.rest.peek().is_some_and(char::is_ascii_digit) => self.bound()?,
                char => self.literal(char),
            }
        }
        match self.groups {
            0 => Ok(()),
            _ => Err("its parentheses are not balanced"),
        }
    }

    fn atom(&mut self, text: &str) {
        self.out.push_str(text);
        self.repeatable = true;
    }

    /// What stands between characters, and can't be repeated.
    fn constraint(&mut self, text: &str) {
        self.out.push_str(text);
        self.repeatable = false;
        self.everywhere = false;
    }

    fn literal(&mut self, char: char) {
        match self.fold {
            true => {
                let [lower, upper] = cases(char);
                self.out.push('[');
                self.member(lower, lower);
                self.member(upper, upper);
                self.atom("]");
            }
            false => {
                self.member(char, char);
                self.repeatable = true;
            }
        }
    }

    fn group(&mut self) -> Done {
        if self.rest.next_if_eq(&'?').is_some() && self.rest.next() != Some(':') {
            return Err("look-around and options in it are not supported");
        }
        self.groups += 1;
        if self.groups > GROUPS_MAX {
            return Err("it is nested too deep");
        }
        self.out.push_str("(?:");
        self.repeatable = false;
        Ok(())
    }

    fn repeat(&mut self, how: &str) -> Done {
        if !self.repeatable {
            return Err("nothing stands before a *, +, ? or {");
        }
        self.out.push_str(how);
        self.repeatable = false;
        // The shortest match is as good as the longest: there is one or there is none.
        self.rest.next_if_eq(&'?');
        Ok(())
    }

    /// `{m}`, `{m,}` or `{m,n}`.
    fn bound(&mut self) -> Done {
        const WRONG: &str = "a repetition is not {m}, {m,} or {m,n} with numbers up to 255";
        let least = self.number().ok_or(WRONG)?;
        let mut how = format!("{{{least}");
        if self.rest.next_if_eq(&',').is_some() {
            how.push(',');
            if self.rest.peek().is_some_and(char::is_ascii_digit) {
                let most = self.number().filter(|most| *most >= least).ok_or(WRONG)?;
                how.push_str(&most.to_string());
            }
        }
        if self.rest.next() != Some('}') {
            return Err(WRONG);
        }
        how.push('}');
        self.repeat(&how)
    }

    fn number(&mut self) -> Option<u32> {
        let mut digits = String::new();
        while let Some(digit) = self.rest.next_if(char::is_ascii_digit) {
            digits.push(digit);
        }
        digits.parse().ok().filter(|number| *number <= REPEAT_MAX)
    }

    fn escape(&mut self) -> Done {
        let char = self.rest.next().ok_or("it ends with a backslash")?;
        match char {
            'd' => self.atom("[0-9]"),
            'D' => self.atom("[^0-9]"),
            'w' | 'W' | 's' | 'S' => {
                self.everywhere = false;
                match char {
                    'w' => self.atom(&format!("[{WORD}]")),
                    'W' => self.atom(&format!("[^{WORD}]")),
                    's' => self.atom(r"\s"),
                    _ => self.atom(r"\S"),
                }
            }
            'A' => self.constraint(r"\A"),
            'Z' => self.constraint(r"\z"),
            'm' => self.constraint(r"\b{start}"),
            'M' => self.constraint(r"\b{end}"),
            'y' => self.constraint(r"\b"),
            'Y' => self.constraint(r"\B"),
            char => {
                let char = escaped(char)?;
                self.literal(char);
            }
        }
        Ok(())
    }

    fn bracket(&mut self) -> Done {
        self.out.push('[');
        if self.rest.next_if_eq(&'^').is_some() {
            self.out.push('^');
        }
        let (mut first, mut ranged) = (true, false);
        loop {
            let char = self.rest.next().ok_or("a [ is not closed")?;
            match char {
                ']' if !first => break,
                '[' if matches!(self.rest.peek(), Some('.' | '=')) => {
                    return Err("collating elements are not supported");
                }
                '[' if self.rest.next_if_eq(&':').is_some() => {
                    self.class()?;
                    ranged = true;
                }
                '\\' if self
                    .rest
                    .peek()
                    .is_some_and(|next| matches!(next, 'd' | 'w' | 's')) =>
                {
                    let class = self.rest.next();
                    self.everywhere &= class == Some('d');
                    self.out.push_str(match class {
                        Some('d') => "0-9",
                        Some('w') => WORD,
                        _ => r"\s",
                    });
                    ranged = true;
                }
                '-' if !first && (ranged || self.rest.peek() != Some(&']')) => {
                    if self.rest.peek() != Some(&']') {
                        return Err("a - in [ ] stands neither first nor last nor in a range");
                    }
                    self.member('-', '-');
                }
                char => ranged = self.range(char)?,
            }
            first = false;
        }
        self.atom("]");
        Ok(())
    }

    /// One character, or a range that begins with it; true: a range.
    fn range(&mut self, char: char) -> Result<bool, &'static str> {
        let from = self.bracketed(char)?;
        let mut ahead = self.rest.clone();
        let ranged = ahead.next() == Some('-') && ahead.next().is_some_and(|next| next != ']');
        if !ranged {
            self.members(from, from)?;
            return Ok(false);
        }
        self.rest.next();
        let char = self.rest.next().ok_or("a [ is not closed")?;
        if matches!(char, '[' | '-') {
            return Err("a range in [ ] ends with neither a character nor an escape");
        }
        let to = self.bracketed(char)?;
        self.members(from, to)?;
        Ok(true)
    }

    /// A character in brackets, which may begin an escape.
    fn bracketed(&mut self, char: char) -> Result<char, &'static str> {
        match char {
            '\\' => escaped(self.rest.next().ok_or("it ends with a backslash")?),
            char => Ok(char),
        }
    }

    fn members(&mut self, from: char, to: char) -> Done {
        if from > to {
            return Err("a range in [ ] ends before it begins");
        }
        self.member(from, to);
        if self.fold {
            if u32::from(to) - u32::from(from) > RANGE_MAX {
                return Err("a range in [ ] is too long");
            }
            for char in from..=to {
                for case in cases(char) {
                    if !(from..=to).contains(&case) {
                        self.member(case, case);
                    }
                }
            }
        }
        Ok(())
    }

    /// By number, which means nothing but itself within and without brackets.
    fn member(&mut self, from: char, to: char) {
        let number = |char: char| format!(r"\x{{{:x}}}", u32::from(char));
        self.out.push_str(&number(from));
        if from != to {
            self.out.push('-');
            self.out.push_str(&number(to));
        }
    }

    /// Behind `[:`.
    fn class(&mut self) -> Done {
        let mut name = String::new();
        while let Some(char) = self.rest.next_if(char::is_ascii_alphabetic) {
            name.push(char);
        }
        if self.rest.next() != Some(':') || self.rest.next() != Some(']') {
            return Err("a class in [ ] is not closed");
        }
        let everywhere = matches!(name.as_str(), "digit" | "xdigit");
        self.everywhere &= everywhere;
        self.out.push_str(match (name.as_str(), self.fold) {
            ("digit", _) => "0-9",
            ("xdigit", _) => "0-9a-fA-F",
            ("alpha", _) | ("upper" | "lower", true) => r"\p{Alphabetic}",
            ("alnum", _) => r"\p{Alphabetic}\p{Nd}",
            ("upper", false) => r"\p{Uppercase}",
            ("lower", false) => r"\p{Lowercase}",
            ("space", _) => r"\s",
            ("word", _) => WORD,
            _ => {
                return Err(
                    "its classes may be alpha, digit, alnum, upper, lower, space, xdigit and word",
                );
            }
        });
        Ok(())
    }
}

/// The character that a backslash and `char` stand for.
fn escaped(char: char) -> Result<char, &'static str> {
    match char {
        'n' => Ok('\n'),
        't' => Ok('\t'),
        'r' => Ok('\r'),
        'f' => Ok('\x0c'),
        'v' => Ok('\x0b'),
        '1'..='9' => Err("back-references are not supported"),
        char if char.is_ascii_alphanumeric() || !char.is_ascii() => Err(
            "its escapes may be \\d \\w \\s \\D \\W \\S \\A \\Z \\m \\M \\y \\Y \\n \\t \\r \\f \\v and signs",
        ),
        char => Ok(char),
    }
}

/// What Postgres takes for the same character where case does not count.
fn cases(char: char) -> [char; 2] {
    let mut upper = char.to_uppercase();
    let upper = match (upper.next(), upper.next()) {
        (Some(one), None) => one,
        _ => char,
    };
    [lower_char(char), upper]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn matches() {
        for (pattern, fold, value, expected) in [
            ("", false, "x", true),
            ("b", false, "abc", true),
            ("^b", false, "abc", false),
            ("^a.c$", false, "a\nc", true),
            ("^a$", false, "a\n", false),
            ("^(a|b)+$", false, "abba", true),
            ("a{2,3}?b", false, "aab", true),
            ("a{,2}", false, "a{,2}", true),
            (r"^\d+\.\d$", false, "12.5", true),
            (r"^\w+$", false, "é_1", true),
            (r"\mab\M", false, "x ab.", true),
            (r"\yab\y", false, "xab", false),
            ("[]a]", false, "]", true),
            ("[a&&b]", false, "&", true),
            ("[^a-c-]", false, "-", false),
            (r"[\]\w]", false, "]", true),
            ("^[[:alpha:]]+$", false, "aé", true),
            ("École", true, "éCOLE", true),
            ("[à-é]", true, "É", true),
            ("k", true, "\u{212a}", false),
            ("[[:upper:]]", true, "a", true),
        ] {
            let posix = Posix::new(pattern, fold).expect(pattern);
            assert_eq!(posix.matches(value), expected, "{value:?} ~ {pattern:?}");
        }
    }

    #[test]
    fn refused() {
        let nested = "(".repeat(60) + &")".repeat(60);
        let long = "x".repeat(1001);
        for pattern in [
            "(?i)a",
            "a(?=b)",
            "(?<!a)b",
            r"(a)\1",
            "***=a",
            "*a",
            "a**",
            "^*",
            "a|*",
            "(",
            ")",
            "[a",
            "[[.a.]]",
            "[[=a=]]",
            "[[:punct:]]",
            "[b-a]",
            "[a-c-e]",
            "a{2,1}",
            "a{300}",
            r"\x41",
            r"\b",
            r"\u0041",
            "\\",
            r"[\W]",
            r"\w{200}\w{200}",
            "((a{200}){200}){200}",
            &nested,
            &long,
        ] {
            let refused = Posix::new(pattern, false);
            assert!(
                matches!(refused, Err(FilterError::Regex(_))),
                "{pattern:.20}"
            );
        }
    }
}
