/// Without the password, whichever of libpq's two forms is used. What is not understood is not shown at all.
pub(crate) fn mask_password(text: &str) -> String {
    const MASKED: &str = "***";
    let Some((scheme, rest)) = text.split_once("://") else {
        let is_shown = |pair: &&str| {
            pair.split_once('=')
                .is_some_and(|(name, _)| ["host", "port", "user", "dbname"].contains(&name))
        };
        let shown: Vec<_> = text.split_whitespace().filter(is_shown).collect();
        // A quoted value may hold spaces and what looks like another pair.
        return if text.contains('\'') || shown.is_empty() {
            MASKED.into()
        } else {
            shown.join(" ")
        };
    };
    // Parameters may hold a password too; a password may hold an @.
    let (address, has_parameters) = match rest.split_once('?') {
        Some((address, _)) => (address, true),
        None => (rest, false),
    };
    let shown = match address.rsplit_once('@') {
        Some((login, host)) => {
            let user = login.split(':').next().unwrap_or_default();
            let password = if login.contains(':') { ":***" } else { "" };
            format!("{user}{password}@{host}")
        }
        // An unescaped `?` in a password leaves us without the host: show nothing.
        None if has_parameters && rest.contains('@') => MASKED.into(),
        None => address.to_owned(),
    };
    format!(
        "{scheme}://{shown}{}",
        if has_parameters { "?***" } else { "" }
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passwords_are_not_shown() {
        let cases = [
            ("postgres://u:hunter2@h/d", "postgres://u:***@h/d"),
            ("postgres://u:hunt@er2@h/d", "postgres://u:***@h/d"),
            ("postgres://u@h:5433/d", "postgres://u@h:5433/d"),
            ("postgres://h/d", "postgres://h/d"),
            (
                "postgres://u:hunter2@h/d?sslmode=require",
                "postgres://u:***@h/d?***",
            ),
            (
                "postgres://h/d?user=u&password=hunter2",
                "postgres://h/d?***",
            ),
            ("postgres://u:hunter2?x@h/d", "postgres://***?***"),
            (
                "postgresql://u:hunter2@%2Frun%2Fpg/d",
                "postgresql://u:***@%2Frun%2Fpg/d",
            ),
            (
                "host=h user=u password=hunter2 dbname=d",
                "host=h user=u dbname=d",
            ),
            ("host=h password='hunter2 user=x'", "***"),
            ("hunter2", "***"),
        ];
        for (text, expected) in cases {
            assert_eq!(mask_password(text), expected);
        }
    }
}
