//! Opaque API keys (`sb_publishable_…`, `sb_secret_…`), which mean a role or a token here.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

/// What the setting `api_keys` says. Not printed: some of them are secrets.
#[derive(Clone, Default)]
pub(crate) struct ApiKeys(Arc<HashMap<String, Meaning>>);

/// What an API key stands for.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Meaning {
    Role(String),
    /// A JWT, checked like any other.
    Token(String),
}

impl ApiKeys {
    /// From `key=role` and `key=token`; the bad item's place if one is neither.
    pub(crate) fn read(items: &[String], roles: &[String]) -> Result<ApiKeys, usize> {
        let read = |(nth, item): (usize, &String)| match item.split_once('=') {
            Some((key, token)) if !key.is_empty() && token.split('.').count() == 3 => {
                Ok((key.to_owned(), Meaning::Token(token.to_owned())))
            }
            Some((key, role)) if !key.is_empty() && roles.iter().any(|known| known == role) => {
                Ok((key.to_owned(), Meaning::Role(role.to_owned())))
            }
            _ => Err(nth + 1),
        };
        let keys: Result<HashMap<_, _>, _> = items.iter().enumerate().map(read).collect();
        Ok(ApiKeys(Arc::new(keys?)))
    }

    pub(super) fn meaning(&self, key: &str) -> Option<&Meaning> {
        self.0.get(key)
    }
}

impl fmt::Debug for ApiKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ApiKeys({})", self.0.len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys() {
        let roles = ["anon".to_owned()];
        for (item, expected) in [
            ("sb_publishable_x=anon", Ok(("sb_publishable_x", "role"))),
            ("k=a.b.c", Ok(("k", "token"))),
            ("k=a.b.c==", Ok(("k", "token"))),
            ("k=postgres", Err(1)),
            ("k", Err(1)),
            ("=anon", Err(1)),
        ] {
            let read = ApiKeys::read(&[item.to_owned()], &roles);
            let found = read.map(|keys| {
                let key = expected.map_or("", |(key, _)| key);
                match keys.meaning(key) {
                    Some(Meaning::Role(_)) => (key, "role"),
                    Some(Meaning::Token(_)) => (key, "token"),
                    None => (key, "none"),
                }
            });
            assert_eq!(found, expected, "{item}");
        }
    }
}
