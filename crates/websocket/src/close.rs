//! Why a connection ends.

use std::fmt;

/// A close frame's code (RFC 6455, section 7.4, and IANA's registry of later ones).
///
/// 4000–4999 are the application's own.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct CloseCode(pub u16);

impl CloseCode {
    pub const NORMAL: CloseCode = CloseCode(1000);
    /// The server is shutting down, or the page is being left.
    pub const GOING_AWAY: CloseCode = CloseCode(1001);
    pub const PROTOCOL_ERROR: CloseCode = CloseCode(1002);
    /// A kind of message that the receiver has no use for, such as binary.
    pub const UNSUPPORTED_DATA: CloseCode = CloseCode(1003);
    /// A message that is not what its kind says: text that is no UTF-8.
    pub const INVALID_PAYLOAD: CloseCode = CloseCode(1007);
    pub const POLICY_VIOLATION: CloseCode = CloseCode(1008);
    pub const MESSAGE_TOO_BIG: CloseCode = CloseCode(1009);
    /// A client's code: the server didn't negotiate what it needs.
    pub const EXTENSION_MISSING: CloseCode = CloseCode(1010);
    pub const INTERNAL_ERROR: CloseCode = CloseCode(1011);
    pub const SERVICE_RESTART: CloseCode = CloseCode(1012);
    pub const TRY_AGAIN_LATER: CloseCode = CloseCode(1013);
    pub const BAD_GATEWAY: CloseCode = CloseCode(1014);

    /// May stand in a close frame. 1005, 1006 and 1015 are for reports to the application only;
    /// 1004 and the rest up to 2999 have no meaning so far.
    pub const fn is_sendable(self) -> bool {
        matches!(self.0, 1000..=1003 | 1007..=1014 | 3000..=4999)
    }
}

impl fmt::Display for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for CloseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

/// The client broke the protocol or a limit: close with `code`, and `what` as its reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} (closes with {code})")]
pub struct Violation {
    pub code: CloseCode,
    /// Fit for the close frame's reason: fixed texts, under 123 bytes.
    pub what: &'static str,
}

impl Violation {
    pub(crate) const fn protocol(what: &'static str) -> Violation {
        Violation {
            code: CloseCode::PROTOCOL_ERROR,
            what,
        }
    }

    pub(crate) const BAD_TEXT: Violation = Violation {
        code: CloseCode::INVALID_PAYLOAD,
        what: "text is not UTF-8",
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sendable_codes() {
        for (codes, sendable) in [
            (0..=999, false),
            (1000..=1003, true),
            (1004..=1006, false),
            (1007..=1014, true),
            (1015..=2999, false),
            (3000..=4999, true),
            (5000..=u16::MAX, false),
        ] {
            for code in codes {
                assert_eq!(CloseCode(code).is_sendable(), sendable, "{code}");
            }
        }
    }

    #[test]
    fn texts() {
        assert_eq!(CloseCode::GOING_AWAY.to_string(), "1001");
        assert_eq!(
            Violation::BAD_TEXT.to_string(),
            "text is not UTF-8 (closes with 1007)"
        );
    }
}
