//! `walcast token`: a JWT made with the configured secret, for trying out and for scripts.

use serde_json::{Map, Value, json};

use crate::settings::{Config, Problem, SettingsError, TokenRequest};

/// The token, signed with HS256 and `jwt_secret`, such that this server's settings accept it: the role where
/// `jwt_role_claim` says, the first of the configured audiences and issuers. `now` in Unix seconds.
pub fn make_token(
    config: &Config,
    request: &TokenRequest,
    now: u64,
) -> Result<String, SettingsError> {
    let problem = |text: String| SettingsError::Problems(vec![Problem::new(text)]);
    let secret = config
        .jwt_secret
        .as_ref()
        .ok_or_else(|| problem("jwt_secret is not set".into()))?;
    if !config.allowed_roles.contains(&request.role) {
        let allowed = config.allowed_roles.join(", ");
        return Err(problem(format!(
            "the role {:?} is not among allowed_roles ({allowed}): the token would be refused",
            request.role
        )));
    }
    let claims = Value::Object(claims(config, request, now)).to_string();
    walcast_auth::sign_hs256(secret.expose(), &claims).map_err(|error| problem(error.to_string()))
}

fn claims(config: &Config, request: &TokenRequest, now: u64) -> Map<String, Value> {
    let mut claims = Map::new();
    claims.insert("iat".into(), json!(now));
    claims.insert(
        "exp".into(),
        json!(now.saturating_add(request.expires_in.as_secs())),
    );
    let given = [
        ("aud", config.jwt_audience.first()),
        ("iss", config.jwt_issuer.first()),
        ("sub", request.subject.as_ref()),
    ];
    for (name, value) in given {
        if let Some(value) = value {
            claims.insert(name.into(), json!(value));
        }
    }
    for (name, value) in &request.claims {
        let value = serde_json::from_str(value).unwrap_or_else(|_| json!(value));
        claims.insert(name.clone(), value);
    }
    set_role(&mut claims, &config.jwt_role_claim, &request.role);
    claims
}

/// Puts the role where the verifier will look: at a path of objects, or under the whole name where that is none.
fn set_role(claims: &mut Map<String, Value>, path: &str, role: &str) {
    let is_url = path.contains("://");
    match path.split_once('.') {
        Some((first, rest)) if !is_url => {
            let inner = claims.entry(first).or_insert_with(|| json!({}));
            if !inner.is_object() {
                *inner = json!({});
            }
            if let Some(inner) = inner.as_object_mut() {
                set_role(inner, rest, role);
            }
        }
        _ => {
            claims.insert(path.into(), json!(role));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use walcast_auth::Verifier;

    use super::*;
    use crate::settings::{Command, Settings};

    const NOW: u64 = 1_767_225_600;

    fn token(args: &[&str]) -> Result<(Verifier, String), SettingsError> {
        let secret = "a secret of more than 32 bytes, for tests only";
        let args = ["walcast", "token", "--jwt-secret", secret]
            .into_iter()
            .chain(args.iter().copied())
            .map(Into::into);
        let (command, settings) = Settings::load_from(args, [], Path::new("/nonexistent"))?;
        let config = settings.config(&command)?;
        let Command::Token(request) = command else {
            panic!("{command:?}")
        };
        let verifier = Verifier::new(config.auth()?).expect("good settings");
        Ok((verifier, make_token(&config, &request, NOW)?))
    }

    #[test]
    fn a_made_token_is_accepted_by_the_same_settings() {
        let cases: &[(&[&str], &str)] = &[
            (
                &[],
                r#"{"exp":1767229200,"iat":1767225600,"role":"authenticated"}"#,
            ),
            (
                &["--sub", "u1", "--expires-in", "30s"],
                r#"{"exp":1767225630,"iat":1767225600,"sub":"u1","role":"authenticated"}"#,
            ),
            (
                &[
                    "--role",
                    "anon",
                    "--claim",
                    "n=12",
                    "--claim",
                    r#"team={"id":7}"#,
                    "--claim",
                    "org=acme",
                ],
                r#"{"exp":1767229200,"iat":1767225600,"n":12,"org":"acme","team":{"id":7},"role":"anon"}"#,
            ),
            (
                &[
                    "--jwt-role-claim",
                    "app.role",
                    "--claim",
                    r#"app={"x":1}"#,
                    "--role",
                    "service_role",
                ],
                r#"{"app":{"role":"service_role","x":1},"exp":1767229200,"iat":1767225600,"role":"service_role"}"#,
            ),
            (
                &[
                    "--jwt-role-claim",
                    "https://a.example/role",
                    "--jwt-audience",
                    "a,b",
                    "--jwt-issuer",
                    "i",
                ],
                r#"{"aud":"a","exp":1767229200,"https://a.example/role":"authenticated","iat":1767225600,"iss":"i","role":"authenticated"}"#,
            ),
        ];
        for (args, expected) in cases {
            let (verifier, token) = token(args).expect("good arguments");
            let identity = verifier.verify_at(&token, NOW as i64).expect("accepted");
            assert_eq!(&*identity.claims, *expected, "{args:?}");
        }
    }

    #[test]
    fn a_token_that_would_be_refused_is_not_made() {
        let cases: &[(&[&str], &str)] = &[
            (
                &["--role", "postgres"],
                "the role \"postgres\" is not among allowed_roles (anon, authenticated, service_role): the token would be refused",
            ),
            (&["--claim", "x"], "must be NAME=JSON"),
            (&["--claim", "=1"], "must be NAME=JSON"),
            (
                &["--expires-in", "3600"],
                "must be a duration such as 30s, 5m or 1h",
            ),
            (&["--expires-in", "0s"], "must be a duration"),
        ];
        for (args, expected) in cases {
            let error = token(args)
                .map(|(_, token)| token)
                .expect_err(expected)
                .to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
