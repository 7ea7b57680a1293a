use jsonwebtoken::{Algorithm, EncodingKey};
use walcast_auth::{AuthError, KeyConfig, SetupError, Verifier};

use crate::tokens::{
    CLAIMS, NOW, OTHER_SECRET, SECRET, config, encoding_key, fixture, sign, verifier,
};

const PUBLIC_KEY_ALGORITHMS: &[(Algorithm, &str)] = &[
    (Algorithm::RS256, "rsa"),
    (Algorithm::RS384, "rsa"),
    (Algorithm::RS512, "rsa"),
    (Algorithm::PS256, "rsa"),
    (Algorithm::PS384, "rsa"),
    (Algorithm::PS512, "rsa"),
    (Algorithm::ES256, "p256"),
    (Algorithm::ES384, "p384"),
    (Algorithm::EdDSA, "ed25519"),
];

fn header(algorithm: Algorithm) -> String {
    format!(r#"{{"alg":"{algorithm:?}","typ":"JWT"}}"#)
}

#[test]
fn every_algorithm_with_its_key() {
    let verifier = verifier();
    let secret = EncodingKey::from_secret(SECRET.as_bytes());
    let hmac = [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
    let mut tokens: Vec<_> = hmac
        .map(|algorithm| {
            (
                algorithm,
                sign(&header(algorithm), CLAIMS, &secret, algorithm),
            )
        })
        .into();
    tokens.extend(PUBLIC_KEY_ALGORITHMS.iter().map(|(algorithm, key)| {
        (
            *algorithm,
            sign(&header(*algorithm), CLAIMS, &encoding_key(key), *algorithm),
        )
    }));
    assert_eq!(tokens.len(), 12);
    for (algorithm, token) in tokens {
        let identity = verifier
            .verify_at(&token, NOW)
            .unwrap_or_else(|error| panic!("{algorithm:?}: {error}"));
        assert_eq!(identity.subject.as_deref(), Some("u1"));
        // One bit of the signature: nobody.
        let flipped = match token.split_at(token.len() - 20) {
            (head, tail) if tail.starts_with('A') => format!("{head}B{}", &tail[1..]),
            (head, tail) => format!("{head}A{}", &tail[1..]),
        };
        assert_eq!(
            verifier.verify_at(&flipped, NOW),
            Err(AuthError::Signature),
            "{algorithm:?}"
        );
    }
}

#[test]
fn a_key_serves_its_own_kind_only() {
    for (algorithm, name) in PUBLIC_KEY_ALGORITHMS {
        let token = sign(&header(*algorithm), CLAIMS, &encoding_key(name), *algorithm);
        for other in ["rsa", "p256", "p384", "ed25519"] {
            let keys = KeyConfig {
                public_keys_pem: Some(fixture(&format!("{other}.pub"))),
                ..KeyConfig::default()
            };
            let verifier = Verifier::new(config(keys)).expect("a good key");
            assert_eq!(
                verifier.verify_at(&token, NOW).is_ok(),
                other == *name,
                "{algorithm:?} {other}"
            );
        }
    }
}

#[test]
fn the_previous_secret_is_accepted_until_it_is_taken_away() {
    let both = KeyConfig {
        secret: Some(SECRET.into()),
        previous_secret: Some(OTHER_SECRET.into()),
        ..KeyConfig::default()
    };
    let verifier = Verifier::new(config(both.clone())).expect("good secrets");
    let [new, old] = [SECRET, OTHER_SECRET].map(|secret| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        sign(&header(Algorithm::HS256), CLAIMS, &key, Algorithm::HS256)
    });
    let holder = verifier.verify_at(&old, NOW).expect("the previous secret");
    let holder_of_new = verifier.verify_at(&new, NOW).expect("the secret");
    let mut changed = verifier.keys_changed();

    verifier.reload_keys(&both).expect("the same");
    assert!(
        !changed.has_changed().expect("open"),
        "the same keys are no change"
    );

    verifier
        .reload_keys(&KeyConfig {
            previous_secret: None,
            ..both
        })
        .expect("a good secret");
    assert!(changed.has_changed().expect("open"));
    changed.mark_unchanged();
    // Not from the cache either, and whoever came with it can be told to go.
    assert_eq!(verifier.verify_at(&old, NOW), Err(AuthError::Signature));
    assert!(!verifier.trusts(&holder) && verifier.trusts(&holder_of_new));
    assert!(verifier.verify_at(&new, NOW).is_ok());

    let short = KeyConfig {
        secret: Some("short".into()),
        ..KeyConfig::default()
    };
    assert!(verifier.reload_keys(&short).is_err());
    assert!(
        verifier.verify_at(&new, NOW).is_ok(),
        "a bad reload changes nothing"
    );
}

#[test]
fn bad_keys_are_setup_errors_with_a_remedy() {
    let secret = |text: &str| KeyConfig {
        secret: Some(text.into()),
        ..KeyConfig::default()
    };
    let pem = |text: String| KeyConfig {
        public_keys_pem: Some(text),
        ..KeyConfig::default()
    };
    let cases: Vec<(KeyConfig, &str)> = vec![
        (
            KeyConfig::default(),
            "set jwt_secret, jwt_public_key_file, jwks_url or jwks_file, or anonymous = true",
        ),
        (
            secret(""),
            "jwt_secret has 0 bytes, at least 32 are needed: make one with `openssl rand -base64 48`",
        ),
        (
            secret("hunter2-hunter2-hunter2-hunter2"),
            "jwt_secret has 31 bytes",
        ),
        (pem(String::new()), "holds no PEM block"),
        (
            pem(fixture("rsa")),
            "holds a private key: give the public one (`openssl pkey",
        ),
        (pem(fixture("small-rsa.pub")), "less than 2048 bits"),
        (
            pem(fixture("p521.pub")),
            "another curve than P-256 and P-384",
        ),
    ];
    for (keys, expected) in cases {
        let error = Verifier::new(config(keys)).expect_err(expected).to_string();
        assert!(
            error.contains(expected) && !error.contains("hunter2"),
            "{error}"
        );
    }
    let mut roles = config(secret(SECRET));
    roles.allowed_roles.push("pg_read_all_data".into());
    assert!(matches!(
        Verifier::new(roles),
        Err(SetupError::Role {
            setting: "allowed_roles",
            ..
        })
    ));
}
