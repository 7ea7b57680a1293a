//! What a `search_path` makes Postgres search.

/// The schemas named in a `search_path`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Searched {
    pub(crate) schemas: Vec<String>,
    /// `pg_catalog` stands behind another schema: anything there hides Postgres's own.
    pub(crate) catalog_late: bool,
}

/// Reads a `search_path` as the setting's value prints it. `"$user"` is the role's own schema.
pub(crate) fn searched(path: &str, role: &str) -> Searched {
    let mut schemas = Vec::new();
    let mut catalog_late = false;
    for name in names(path) {
        match name.as_str() {
            "" => {}
            "$user" => schemas.push(role.to_owned()),
            "pg_catalog" => catalog_late |= !schemas.is_empty(),
            _ => schemas.push(name),
        }
    }
    Searched {
        schemas,
        catalog_late,
    }
}

/// Commas separate; quotes keep case, commas and doubled quotes.
fn names(path: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut name, mut quoted) = (String::new(), false);
    let mut chars = path.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '"' if quoted && chars.peek() == Some(&'"') => {
                chars.next();
                name.push('"');
            }
            '"' => quoted = !quoted,
            ',' if !quoted => names.push(std::mem::take(&mut name)),
            char if quoted => name.push(char),
            char if char.is_whitespace() => {}
            char => name.extend(char.to_lowercase()),
        }
    }
    names.push(name);
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths() {
        let check = |path: &str, schemas: &[&str], catalog_late: bool| {
            let found = searched(path, "anon");
            assert_eq!(found.schemas, schemas, "{path}");
            assert_eq!(found.catalog_late, catalog_late, "{path}");
        };
        check("\"$user\", public", &["anon", "public"], false);
        check("\"\"", &[], false);
        check("", &[], false);
        check("Public, \"My, \"\"App\"", &["public", "My, \"App"], false);
        check("pg_catalog, public", &["public"], false);
        check("public,pg_catalog", &["public"], true);
    }
}
