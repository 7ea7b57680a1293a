//! The page for users says what the code does.

use walcast_auth::{AuthError, Retry};

#[test]
fn every_error_code_is_on_the_page() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto-docs/auth.md");
    let page = std::fs::read_to_string(path).expect("the page");
    let errors = [
        AuthError::Missing,
        AuthError::TooLong,
        AuthError::Malformed,
        AuthError::Algorithm,
        AuthError::Critical,
        AuthError::UnknownKey,
        AuthError::KeysUnavailable,
        AuthError::Signature,
        AuthError::Claims,
        AuthError::DuplicateClaim,
        AuthError::NoExpiry,
        AuthError::Expired,
        AuthError::NotYetValid,
        AuthError::Audience,
        AuthError::Issuer,
        AuthError::Role,
    ];
    for error in errors {
        let start = format!("| `{}` |", error.code());
        let row = page
            .lines()
            .find(|line| line.starts_with(&start))
            .unwrap_or_else(|| panic!("{start}"));
        let says_later = row.contains("| yes");
        assert_eq!(says_later, error.retry() == Retry::Later, "{row}");
    }
    assert_eq!(
        page.matches("\n| `token_").count() + page.matches("\n| `keys_").count(),
        errors.len()
    );
}
