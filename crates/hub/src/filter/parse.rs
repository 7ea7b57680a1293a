//! The grammar: Supabase's, with PostgREST's `or=(…)` and quoted column names added.
//!
//! ```text
//! filter    = segment *("," segment)                        all of them
//! segment   = [column "=" ["not."] operator "." value] / [["not."] ("or" / "and") "=" group]
//! group     = "(" item *("," item) ")"
//! item      = [column "." ["not."] operator "." value] / [["not."] ("or" / "and") ["="] group]
//! column    = name / <"> name, with "" for " <">
//! value     = text / <"> text, with a backslash before " and \ <">
//! ```
//!
//! A comma separates where it stands in no parentheses and no quotes; quotes open at the beginning
//! and behind one of `.(,` only.

use std::sync::Arc;

use super::condition::Condition;
use super::predicate::{Operator, Predicate};
use super::{BYTES_MAX, CONDITIONS_MAX, DEPTH_MAX, FilterError, REGEXES_MAX};

/// Reads a filter; also the columns that it names, each once.
pub(super) fn filter(text: &str) -> Result<(Condition, Vec<Arc<str>>), FilterError> {
    if text.len() > BYTES_MAX {
        return Err(FilterError::TooLong);
    }
    if text.contains('\0') {
        return Err(FilterError::format(&[]));
    }
    let mut parser = Parser::default();
    let mut parts = Vec::new();
    for segment in split(text).segments {
        parts.push(parser.segment(segment.trim())?);
    }
    Ok((all(parts), parser.columns))
}

#[derive(Default)]
struct Parser {
    columns: Vec<Arc<str>>,
    conditions: usize,
    regexes: usize,
    depth: usize,
}

impl Parser {
    fn segment(&mut self, text: &str) -> Result<Condition, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if let Some(group) = Group::of(text, true) {
            return self.group(&group);
        }
        let (column, condition) = name_before('=', text)?;
        self.comparison(column, condition)
    }

    fn item(&mut self, text: &str) -> Result<Condition, FilterError> {
        if text.is_empty() {
            return Err(FilterError::Empty);
        }
        if let Some(group) = Group::of(text, false) {
            return self.group(&group);
        }
        let (column, condition) = name_before('.', text)?;
        self.comparison(column, condition)
    }

    fn group(&mut self, group: &Group<'_>) -> Result<Condition, FilterError> {
        self.depth += 1;
        if self.depth > DEPTH_MAX {
            return Err(FilterError::TooDeep);
        }
        let split = split(group.inner);
        if !split.balanced {
            return Err(FilterError::format(&[group.inner]));
        }
        let mut parts = Vec::new();
        for item in split.segments {
            parts.push(self.item(item.trim())?);
        }
        self.depth -= 1;
        let joined = match group.any {
            true if parts.len() > 1 => Condition::Any(parts.into()),
            _ => all(parts),
        };
        Ok(match group.negated {
            true => Condition::Not(joined.into()),
            false => joined,
        })
    }

    fn comparison(&mut self, column: String, text: &str) -> Result<Condition, FilterError> {
        let (negated, text) = match text.strip_prefix("not.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (name, value) = text
            .split_once('.')
            .ok_or_else(|| FilterError::format(&[text]))?;
        let operator = Operator::named(name).ok_or_else(|| FilterError::Operator {
            parts: [name.into(), value.into()].into(),
        })?;
        let column = self.column(column);
        let predicate = match (operator, unquoted(value)) {
            (Operator::In, _) | (_, None) => Predicate::new(column, operator, value)?,
            (_, Some(value)) => Predicate::new(column, operator, &value)?,
        };
        self.conditions += 1;
        self.regexes += usize::from(predicate.is_regex());
        if self.conditions > CONDITIONS_MAX {
            return Err(FilterError::TooManyConditions);
        }
        if self.regexes > REGEXES_MAX {
            return Err(FilterError::TooManyRegexes);
        }
        let predicate = Condition::One(predicate);
        Ok(match negated {
            true => Condition::Not(predicate.into()),
            false => predicate,
        })
    }

    fn column(&mut self, name: String) -> Arc<str> {
        if let Some(known) = self.columns.iter().find(|known| ***known == *name) {
            return known.clone();
        }
        let column: Arc<str> = name.into();
        self.columns.push(column.clone());
        column
    }
}

fn all(mut parts: Vec<Condition>) -> Condition {
    match parts.len() {
        1 => parts.remove(0),
        _ => Condition::All(parts.into()),
    }
}

/// `not.or=(inner)`
struct Group<'a> {
    negated: bool,
    any: bool,
    inner: &'a str,
}

impl<'a> Group<'a> {
    /// `equals`: there has to be a sign of equality; else there may be one.
    fn of(text: &'a str, equals: bool) -> Option<Group<'a>> {
        let (negated, rest) = match text.strip_prefix("not.") {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (any, rest) = match rest.strip_prefix("or") {
            Some(rest) => (true, rest),
            None => (false, rest.strip_prefix("and")?),
        };
        let rest = match rest.strip_prefix('=') {
            Some(rest) => rest,
            None if equals => return None,
            None => rest,
        };
        let inner = rest.strip_prefix('(')?.strip_suffix(')')?;
        Some(Group {
            negated,
            any,
            inner,
        })
    }
}

struct Split<'a> {
    segments: Vec<&'a str>,
    /// Every parenthesis has its counterpart, and every quote.
    balanced: bool,
}

/// The texts between the commas that separate.
fn split(text: &str) -> Split<'_> {
    let (mut segments, mut start) = (Vec::new(), 0);
    let (mut depth, mut balanced) = (0u32, true);
    let mut before = None;
    let mut chars = text.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '"' if before.is_none() => balanced &= skip_name(&mut chars),
            '"' if matches!(before, Some('.' | '(' | ',')) => balanced &= skip_quoted(&mut chars),
            '(' => depth += 1,
            ')' => {
                balanced &= depth > 0;
                depth = depth.saturating_sub(1);
            }
            ',' if depth == 0 => {
                segments.push(&text[start..at]);
                (start, before) = (at + 1, None);
                continue;
            }
            // Blanks before a segment are not part of it.
            char if char.is_whitespace() && before.is_none() => continue,
            _ => {}
        }
        before = Some(char);
    }
    segments.push(&text[start..]);
    Split {
        segments,
        balanced: balanced && depth == 0,
    }
}

/// To the quote that ends a column's name; false: there is none.
fn skip_name(chars: &mut std::str::CharIndices<'_>) -> bool {
    while let Some((_, char)) = chars.next() {
        if char == '"' && !chars.as_str().starts_with('"') {
            return true;
        }
        if char == '"' {
            chars.next();
        }
    }
    false
}

fn skip_quoted(chars: &mut std::str::CharIndices<'_>) -> bool {
    while let Some((_, char)) = chars.next() {
        match char {
            '"' => return true,
            '\\' => drop(chars.next()),
            _ => {}
        }
    }
    false
}

/// A column's name, and what stands behind the separator.
fn name_before(separator: char, text: &str) -> Result<(String, &str), FilterError> {
    let wrong = || FilterError::format(&[text]);
    let (name, rest) = match text.strip_prefix('"') {
        Some(quoted) => {
            let mut chars = quoted.char_indices();
            if !skip_name(&mut chars) {
                return Err(wrong());
            }
            let end = chars.offset().saturating_sub(1);
            let name = quoted.get(..end).ok_or_else(wrong)?.replace("\"\"", "\"");
            let rest = chars.as_str().strip_prefix(separator);
            (name, rest.ok_or_else(wrong)?)
        }
        None => {
            let (name, rest) = text.split_once(separator).ok_or_else(wrong)?;
            (name.to_owned(), rest)
        }
    };
    match name.is_empty() || name.len() > NAME_BYTES_MAX {
        true => Err(wrong()),
        false => Ok((name, rest)),
    }
}

/// Postgres's own limit.
const NAME_BYTES_MAX: usize = 63;

/// What stands in quotes around a whole value; `None`: it is to be taken as it is.
fn unquoted(value: &str) -> Option<String> {
    let mut chars = value.strip_prefix('"')?.chars();
    let mut text = String::new();
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(text),
            '\\' => match (chars.next()?, chars.as_str().is_empty()) {
                (_, true) => return None,
                (char, false) => text.push(char),
            },
            char => text.push(char),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments() {
        for (text, expected, balanced) in [
            ("", &[""][..], true),
            ("a,b", &["a", "b"], true),
            ("a=in.(1,2),b", &["a=in.(1,2)", "b"], true),
            ("a=eq.\"x,y\",b", &["a=eq.\"x,y\"", "b"], true),
            ("a=eq.\"x\\\",y\",b", &["a=eq.\"x\\\",y\"", "b"], true),
            ("a=eq.x\"y,z\"", &["a=eq.x\"y", "z\""], true),
            ("a=in.(\"x)\",y),b", &["a=in.(\"x)\",y)", "b"], true),
            ("a=in.(y,\")\"),b", &["a=in.(y,\")\")", "b"], true),
            ("a=eq.),b", &["a=eq.)", "b"], false),
            ("a=eq.(,b", &["a=eq.(,b"], false),
            (" \"a,\"\"b\"=eq.1,c", &[" \"a,\"\"b\"=eq.1", "c"], true),
            ("a,\"b,c", &["a", "\"b,c"], false),
        ] {
            let split = split(text);
            assert_eq!(
                (&*split.segments, split.balanced),
                (expected, balanced),
                "{text}"
            );
        }
    }
}
