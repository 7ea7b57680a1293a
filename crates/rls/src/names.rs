//! Which unqualified names a policy's text uses.
//!
//! A policy is deparsed with an empty `search_path`: what has no schema in front is Postgres's own.
//! Parsed again with another `search_path`, such a name could find a user's function or operator
//! that fits the arguments better. So these names are looked up there first (`catalogue`).

use std::collections::BTreeSet;

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Token, Tokenizer};

/// The unqualified names of a policy, and what else its tokens tell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) functions: BTreeSet<String>,
    pub(crate) operators: BTreeSet<String>,
    /// The row as a whole is used (`docs.*`), so every column is.
    pub(crate) whole_row: bool,
    /// There is a sub-select, so other rows may be read.
    pub(crate) sub_select: bool,
}

impl Names {
    /// `None`, where the text can't be split into tokens: anything may be in it.
    ///
    /// Works on tokens, not on the parsed tree: it can only find too many names, never too few, and
    /// it also takes what the parser does not know.
    pub(crate) fn of(text: &str) -> Option<Names> {
        let tokens = Tokenizer::new(&PostgreSqlDialect {}, text)
            .tokenize()
            .ok()?;
        let tokens: Vec<Token> = tokens
            .into_iter()
            .filter(|token| !matches!(token, Token::Whitespace(_)))
            .collect();
        let mut names = Names::default();
        // IN, IS DISTINCT FROM, CASE x WHEN and NULLIF look it up without naming it.
        names.operators.insert("=".into());
        for (at, token) in tokens.iter().enumerate() {
            let before = at.checked_sub(1).and_then(|at| tokens.get(at));
            names.take(before, token, tokens.get(at + 1));
        }
        Some(names)
    }

    fn take(&mut self, before: Option<&Token>, token: &Token, after: Option<&Token>) {
        match token {
            Token::Word(word) => {
                let plain = word.quote_style.is_none();
                self.sub_select |= plain && word.value.eq_ignore_ascii_case("select");
                if before != Some(&Token::Period) && after == Some(&Token::LParen) {
                    let folded = if plain {
                        word.value.to_lowercase()
                    } else {
                        word.value.clone()
                    };
                    self.functions.insert(folded);
                }
            }
            Token::Mul if before == Some(&Token::Period) => self.whole_row = true,
            token => {
                let text = token.to_string();
                if !text.is_empty() && text.chars().all(|char| "+-*/<>=~!@#%^&|?`".contains(char)) {
                    self.operators.insert(text);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unqualified_names() {
        let check = |text: &str, functions: &[&str], operators: &[&str]| {
            let names = Names::of(text).expect("tokens");
            assert_eq!(
                names
                    .functions
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>(),
                functions,
                "{text}"
            );
            assert_eq!(
                names
                    .operators
                    .iter()
                    .map(String::as_str)
                    .collect::<Vec<_>>(),
                operators,
                "{text}"
            );
        };
        check("(user_id = auth.uid())", &[], &["="]);
        check(
            "(lower((name)::text) ~~ 'a%'::text)",
            &["lower"],
            &["=", "~~"],
        );
        check("((data ->> 'x'::text) IS NOT NULL)", &[], &["->>", "="]);
        check(
            "\"Odd Name\"(1) OPERATOR(public.@@) 2",
            &["Odd Name", "operator"],
            &["=", "@@"],
        );
        check("(tags && '{a}'::text[])", &[], &["&&", "="]);
        check("'lower(x) <> y'::text <> ''::text", &[], &["<>", "="]);
    }

    #[test]
    fn rows_and_sub_selects() {
        let check = |text: &str| {
            let names = Names::of(text).expect("tokens");
            (names.whole_row, names.sub_select)
        };
        assert_eq!(check("public.allowed(docs.*)"), (true, false));
        assert_eq!(check("(id IN ( SELECT m.id FROM public.m))"), (false, true));
        assert_eq!(check("(a ~ '.*select'::text)"), (false, false));
        assert_eq!(check("((2 * 3) = \"select\")"), (false, false));
    }

    #[test]
    fn what_is_not_sql_is_nothing() {
        assert_eq!(Names::of("'open"), None);
    }
}
