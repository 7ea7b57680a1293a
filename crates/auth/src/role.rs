/// The longest identifier of Postgres in bytes (`NAMEDATALEN - 1`); a longer one would be cut to a different name.
const ROLE_BYTES_MAX: usize = 63;

/// Whether a role name may be used at all, whatever the settings say.
///
/// `none` means "the login itself" to `SET ROLE`, as does an empty name to some drivers; `pg_…` are Postgres's own
/// roles (`pg_read_all_data`!); a NUL cannot be sent.
pub fn is_usable_role(name: &str) -> bool {
    !name.is_empty()
        && name.len() <= ROLE_BYTES_MAX
        && !name.contains('\0')
        && !name.eq_ignore_ascii_case("none")
        && !name
            .get(..3)
            .is_some_and(|head| head.eq_ignore_ascii_case("pg_"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reserved_names_are_refused() {
        let longest = "a".repeat(63);
        let too_long = "a".repeat(64);
        let cases: &[(&str, bool)] = &[
            ("anon", true),
            ("authenticated", true),
            ("Rôle with space", true),
            ("pg", true),
            ("pgadmin", true),
            (&longest, true),
            (&too_long, false),
            ("", false),
            ("none", false),
            ("NONE", false),
            ("pg_read_all_data", false),
            ("PG_monitor", false),
            ("a\0b", false),
        ];
        for (name, expected) in cases {
            assert_eq!(is_usable_role(name), *expected, "{name:?}");
        }
    }
}
