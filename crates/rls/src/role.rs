//! Which roles are judged for.

use crate::CheckConfig;
use crate::catalogue::RoleFacts;

/// Why a role is refused. The text is for the operator's log, not for the subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    #[error("the name is reserved")]
    Reserved,
    #[error("it is not among the allowed roles")]
    NotAllowed,
    #[error("there is no such role")]
    Missing,
    #[error("it is a superuser")]
    Superuser,
    #[error("it may read the replication stream")]
    Replication,
    #[error("it bypasses row-level security and is not among the roles that may")]
    Bypass,
    #[error("it is the login that checks")]
    Login,
    #[error("it is not granted to the login that checks")]
    NotGranted,
}

/// By the name alone. `none` would mean the login itself; Postgres reserves `pg_`.
pub(crate) fn check_name(name: &str, config: &CheckConfig) -> Result<(), Refusal> {
    let reserved = [
        "",
        "none",
        "public",
        "default",
        "session_user",
        "current_user",
    ];
    let folded = name.to_lowercase();
    if reserved.contains(&folded.trim())
        || folded.starts_with("pg_")
        || name.contains('\0')
        || name.len() > 63
    {
        return Err(Refusal::Reserved);
    }
    if config.accepts(name) {
        Ok(())
    } else {
        Err(Refusal::NotAllowed)
    }
}

/// By name and attributes. A policy's function can become the login at any time (`RESET ROLE`): see
/// the crate's page for what the login should be.
pub(crate) fn check(
    name: &str,
    facts: Option<&RoleFacts>,
    config: &CheckConfig,
) -> Result<(), Refusal> {
    check_name(name, config)?;
    let Some(facts) = facts else {
        return Err(Refusal::Missing);
    };
    let tests = [
        (facts.superuser, Refusal::Superuser),
        (facts.replication, Refusal::Replication),
        (facts.login_itself, Refusal::Login),
        (
            facts.bypass && !config.accepts_bypass(name),
            Refusal::Bypass,
        ),
        (!facts.member, Refusal::NotGranted),
    ];
    match tests.into_iter().find(|(refused, _)| *refused) {
        Some((_, refusal)) => Err(refusal),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Connector;

    fn config() -> CheckConfig {
        CheckConfig::new(Connector::new(|| async {
            Err::<_, std::io::Error>(std::io::Error::other("none"))
        }))
    }

    #[test]
    fn names() {
        for name in [
            "",
            " ",
            "none",
            "NONE",
            "public",
            "pg_monitor",
            "PG_x",
            "a\0b",
            &"x".repeat(64),
        ] {
            assert_eq!(
                check_name(name, &config()),
                Err(Refusal::Reserved),
                "{name:?}"
            );
        }
        assert_eq!(check_name("authenticated", &config()), Ok(()));
        let narrow = CheckConfig {
            allowed_roles: Some(vec!["anon".into()]),
            ..config()
        };
        assert_eq!(
            check_name("authenticated", &narrow),
            Err(Refusal::NotAllowed)
        );
    }

    #[test]
    fn attributes() {
        let plain = RoleFacts {
            superuser: false,
            bypass: false,
            replication: false,
            login_itself: false,
            member: true,
        };
        let check = |facts: RoleFacts| super::check("r", Some(&facts), &config());
        assert_eq!(check(plain), Ok(()));
        assert_eq!(
            check(RoleFacts {
                superuser: true,
                ..plain
            }),
            Err(Refusal::Superuser)
        );
        assert_eq!(
            check(RoleFacts {
                replication: true,
                ..plain
            }),
            Err(Refusal::Replication)
        );
        assert_eq!(
            check(RoleFacts {
                login_itself: true,
                ..plain
            }),
            Err(Refusal::Login)
        );
        assert_eq!(
            check(RoleFacts {
                bypass: true,
                ..plain
            }),
            Err(Refusal::Bypass)
        );
        assert_eq!(
            check(RoleFacts {
                member: false,
                ..plain
            }),
            Err(Refusal::NotGranted)
        );
        assert_eq!(super::check("r", None, &config()), Err(Refusal::Missing));
        let service = RoleFacts {
            bypass: true,
            ..plain
        };
        assert_eq!(
            super::check("service_role", Some(&service), &config()),
            Ok(())
        );
    }
}
