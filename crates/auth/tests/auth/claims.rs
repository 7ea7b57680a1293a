use walcast_auth::{AuthConfig, AuthError, KeyConfig, Retry, Verifier};

use crate::tokens::{CLAIMS, NOW, SECRET, config, with_claims};

fn verifier(change: impl FnOnce(&mut AuthConfig)) -> Verifier {
    let keys = KeyConfig {
        secret: Some(SECRET.into()),
        ..KeyConfig::default()
    };
    let mut config = config(keys);
    change(&mut config);
    Verifier::new(config).expect("a good configuration")
}

/// Payload without `exp` → the role, or the error.
fn check(verifier: &Verifier, more: &str, expected: Result<&str, AuthError>) {
    let payload = format!(
        r#"{{"exp":1767229200{}{more}}}"#,
        if more.is_empty() { "" } else { "," }
    );
    let got = verifier
        .verify_at(&with_claims(&payload), NOW)
        .map(|identity| identity.role);
    assert_eq!(got.as_deref().map_err(|e| *e), expected, "{more}");
}

#[test]
fn a_configured_audience_must_be_named() {
    let verifier = verifier(|config| config.audiences = vec!["app".into(), "other".into()]);
    let cases: &[(&str, Result<&str, AuthError>)] = &[
        (r#""aud":"app""#, Ok("authenticated")),
        (r#""aud":"other""#, Ok("authenticated")),
        (r#""aud":["x","app"]"#, Ok("authenticated")),
        ("", Err(AuthError::Audience)),
        (r#""aud":"""#, Err(AuthError::Audience)),
        (r#""aud":"apps""#, Err(AuthError::Audience)),
        (r#""aud":[]"#, Err(AuthError::Audience)),
        (r#""aud":["x"]"#, Err(AuthError::Audience)),
        (r#""aud":null"#, Err(AuthError::Claims)),
        (r#""aud":1"#, Err(AuthError::Claims)),
        (r#""aud":["app",1]"#, Err(AuthError::Claims)),
        (r#""aud":{"app":1}"#, Err(AuthError::Claims)),
    ];
    for (more, expected) in cases {
        check(&verifier, more, *expected);
    }
}

#[test]
fn without_a_configured_audience_any_will_do() {
    let verifier = verifier(|_| {});
    for more in [
        "",
        r#""aud":"authenticated""#,
        r#""aud":["a"]"#,
        r#""aud":1"#,
    ] {
        check(&verifier, more, Ok("authenticated"));
    }
}

#[test]
fn a_configured_issuer_must_be_named() {
    let verifier = verifier(|config| config.issuers = vec!["https://id.example.com/".into()]);
    let cases: &[(&str, Result<&str, AuthError>)] = &[
        (r#""iss":"https://id.example.com/""#, Ok("authenticated")),
        (r#""iss":"https://id.example.com""#, Err(AuthError::Issuer)),
        ("", Err(AuthError::Issuer)),
        (
            r#""iss":["https://id.example.com/"]"#,
            Err(AuthError::Claims),
        ),
    ];
    for (more, expected) in cases {
        check(&verifier, more, *expected);
    }
}

#[test]
fn the_role_comes_from_the_claim_that_was_configured() {
    let nested = verifier(|config| config.role_claim = "app_metadata.role".into());
    check(
        &nested,
        r#""role":"service_role","app_metadata":{"role":"anon"}"#,
        Ok("anon"),
    );
    check(&nested, r#""role":"service_role""#, Ok("authenticated"));
    check(
        &nested,
        r#""app_metadata":{"role":"postgres"}"#,
        Err(AuthError::Role),
    );
    let strict = verifier(|config| config.default_role = None);
    check(&strict, "", Err(AuthError::Role));
    check(&strict, r#""role":"anon""#, Ok("anon"));
    let own = verifier(|config| {
        config.allowed_roles = vec!["editor".into()];
        config.default_role = None;
    });
    check(&own, r#""role":"editor""#, Ok("editor"));
    check(&own, r#""role":"authenticated""#, Err(AuthError::Role));
}

#[test]
fn the_claims_name_the_role_that_counts() {
    let nested = verifier(|config| config.role_claim = "app_metadata.role".into());
    let payload = r#"{ "exp": 1767229200, "role": "x", "n": 9007199254740993, "app_metadata": {"role": "anon"} }"#;
    let identity = nested
        .verify_at(&with_claims(payload), NOW)
        .expect("a good token");
    assert_eq!(
        &*identity.claims,
        r#"{"exp":1767229200,"n":9007199254740993,"app_metadata":{"role":"anon"},"role":"anon"}"#
    );
}

#[test]
fn time_passes_also_for_a_token_seen_before() {
    let verifier = verifier(|_| {});
    let token = with_claims(CLAIMS);
    let exp = NOW + 3600;
    for (now, expected) in [
        (NOW, true),
        (exp, true),
        (exp + 29, true),
        (exp + 30, false),
        (NOW, true),
    ] {
        let got = verifier.verify_at(&token, now);
        assert_eq!(got.is_ok(), expected, "{}", now - exp);
        if let Ok(identity) = got {
            assert!(
                !verifier.is_expired(&identity, now) && verifier.is_expired(&identity, exp + 30)
            );
        }
    }
    let not_yet = with_claims(r#"{"exp":1767229200,"nbf":1767225700}"#);
    assert_eq!(
        verifier.verify_at(&not_yet, NOW),
        Err(AuthError::NotYetValid)
    );
    assert!(verifier.verify_at(&not_yet, NOW + 70).is_ok());
    assert_eq!(AuthError::NotYetValid.retry(), Retry::Later);
}

#[test]
fn a_token_without_expiry_by_setting_only() {
    let payload = r#"{"role":"anon","exp2":1}"#;
    let lenient = verifier(|config| config.require_expiry = false);
    let identity = lenient
        .verify_at(&with_claims(payload), NOW)
        .expect("allowed");
    assert_eq!(identity.expires_at, None);
    assert!(!lenient.is_expired(&identity, i64::MAX));
}

#[test]
fn anonymous_by_setting_only() {
    assert_eq!(verifier(|_| {}).anonymous(), None);
    let open = verifier(|config| config.anonymous_role = Some("anon".into()));
    let visitor = open.anonymous().expect("allowed");
    assert_eq!(
        (&*visitor.role, &*visitor.claims),
        ("anon", r#"{"role":"anon"}"#)
    );
    assert!(visitor.is_anonymous() && open.trusts(&visitor));
    // An empty or a bad token is not "no token".
    assert_eq!(open.verify(""), Err(AuthError::Missing));
    assert_eq!(open.verify("x"), Err(AuthError::Malformed));
}

#[test]
fn secrets_are_not_in_debug_texts() {
    let verifier = verifier(|_| {});
    let identity = verifier
        .verify_at(&with_claims(CLAIMS), NOW)
        .expect("a good token");
    let text = format!("{verifier:?} {identity:?}");
    assert!(!text.contains("a secret of"), "{text}");
}
