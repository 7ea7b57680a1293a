//! Tokens that come with a join or on their own.

use std::fmt;

/// A JSON web token as the client wrote it. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// `None` for the API keys `sb_…`, which are no tokens: the socket's own stays in force.
    pub(super) fn new(text: String) -> Option<Token> {
        (!text.starts_with("sb_")).then_some(Token(text))
    }

    /// May be empty, which is a token that nothing accepts.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
