use jsonwebtoken::{Algorithm, EncodingKey};
use walcast_auth::AuthError;

use crate::tokens::{
    CLAIMS, NOW, OTHER_SECRET, b64, encoding_key, fixture, hs256, sign, verifier, with_claims,
};

/// The forgeries of RFC 8725 and of the CVEs of a decade, each with the one answer it gets.
#[test]
fn forged_and_broken_tokens_are_refused() {
    let verifier = verifier();
    let cases = cases();
    assert!(cases.len() >= 60, "{}", cases.len());
    for (name, token, expected) in &cases {
        let got = verifier.verify_at(token, NOW).map(|identity| identity.role);
        assert_eq!(got, Err(*expected), "{name}");
        let text = format!("{expected} {expected:?} {}", expected.code());
        let parts = token.split('.').filter(|part| part.len() > 3);
        assert!(
            parts.into_iter().all(|part| !text.contains(part)),
            "{name}: {text}"
        );
    }
}

#[test]
fn a_good_token_is_accepted_so_that_the_table_means_something() {
    let identity = verifier()
        .verify_at(&with_claims(CLAIMS), NOW)
        .expect("a good token");
    assert_eq!(&*identity.role, "authenticated");
    assert_eq!(
        &*identity.claims,
        r#"{"sub":"u1","exp":1767229200,"role":"authenticated"}"#
    );
    assert_eq!(identity.expires_at, Some(NOW + 3600));
}

#[test]
fn every_prefix_of_a_good_token_is_refused() {
    let (verifier, token) = (verifier(), with_claims(CLAIMS));
    for end in 0..token.len() {
        assert!(verifier.verify_at(&token[..end], NOW).is_err(), "{end}");
    }
}

#[test]
fn every_changed_byte_is_refused() {
    let (verifier, token) = (verifier(), with_claims(CLAIMS));
    for index in 0..token.len() {
        let mut bytes = token.clone().into_bytes();
        bytes[index] = if bytes[index] == b'A' { b'B' } else { b'A' };
        let changed = String::from_utf8(bytes).expect("ASCII");
        assert!(verifier.verify_at(&changed, NOW).is_err(), "{index}");
    }
}

type Case = (&'static str, String, AuthError);

fn cases() -> Vec<Case> {
    [forms(), algorithms(), headers(), signatures(), payloads()].concat()
}

/// Header and payload unsigned, with a signature of one's own.
fn unsigned(header: &str, payload: &str, signature: &[u8]) -> String {
    format!("{}.{}.{}", b64(header), b64(payload), b64(signature))
}

fn forms() -> Vec<Case> {
    use AuthError::{Malformed, Missing, TooLong};
    let good = with_claims(CLAIMS);
    let header = r#"{"alg":"HS256"}"#;
    vec![
        ("nothing", String::new(), Missing),
        ("one part", "abc".into(), Malformed),
        ("two parts", "a.b".into(), Malformed),
        ("only dots", "..".into(), Malformed),
        ("four parts", format!("{good}.x"), Malformed),
        (
            "five parts (JWE)",
            format!("{}.a.b.c.d", b64(r#"{"alg":"dir","enc":"A256GCM"}"#)),
            Malformed,
        ),
        (
            "the word Bearer in front",
            format!("Bearer {good}"),
            Malformed,
        ),
        ("white space around", format!(" {good}"), Malformed),
        (
            "a new line behind",
            format!("{good}\n"),
            AuthError::Signature,
        ),
        ("padded base64", format!("{}==.x.y", b64(header)), Malformed),
        ("base64 with + and /", "+/+/.x.y".into(), Malformed),
        ("not ASCII", "é.é.é".into(), Malformed),
        ("a NUL", "a\0.b.c".into(), Malformed),
        (
            "header not JSON",
            unsigned("hello", CLAIMS, b"x"),
            Malformed,
        ),
        ("header a list", unsigned("[]", CLAIMS, b"x"), Malformed),
        (
            "header not UTF-8",
            format!("{}.{}.x", b64([0xff, 0xfe]), b64(CLAIMS)),
            Malformed,
        ),
        (
            "header deep",
            unsigned(&"[".repeat(5000), CLAIMS, b"x"),
            Malformed,
        ),
        (
            "10 KB of claims",
            with_claims(&format!(
                r#"{{"exp":1767229200,"x":"{}"}}"#,
                "x".repeat(10_240)
            )),
            TooLong,
        ),
        ("a megabyte of a", "a".repeat(1 << 20), TooLong),
        ("a megabyte of dots", ".".repeat(1 << 20), TooLong),
    ]
}

fn algorithms() -> Vec<Case> {
    use AuthError::{Algorithm as Alg, Malformed, Signature};
    let public = |name: &str| EncodingKey::from_secret(fixture(name).as_bytes());
    let trimmed = EncodingKey::from_secret(fixture("rsa.pub").trim().as_bytes());
    let hs = r#"{"alg":"HS256"}"#;
    vec![
        ("none", unsigned(r#"{"alg":"none"}"#, CLAIMS, b""), Alg),
        ("None", unsigned(r#"{"alg":"None"}"#, CLAIMS, b""), Alg),
        ("NONE", unsigned(r#"{"alg":"NONE"}"#, CLAIMS, b""), Alg),
        ("nOnE", unsigned(r#"{"alg":"nOnE"}"#, CLAIMS, b""), Alg),
        (
            "none with a signature",
            unsigned(r#"{"alg":"none"}"#, CLAIMS, b"x"),
            Alg,
        ),
        (
            "an empty algorithm",
            unsigned(r#"{"alg":""}"#, CLAIMS, b""),
            Alg,
        ),
        (
            "no algorithm",
            unsigned(r#"{"typ":"JWT"}"#, CLAIMS, b""),
            Malformed,
        ),
        (
            "algorithm null",
            unsigned(r#"{"alg":null}"#, CLAIMS, b""),
            Malformed,
        ),
        (
            "algorithm a list",
            unsigned(r#"{"alg":["HS256","none"]}"#, CLAIMS, b""),
            Malformed,
        ),
        (
            "algorithm twice",
            unsigned(r#"{"alg":"HS256","alg":"none"}"#, CLAIMS, b""),
            Malformed,
        ),
        (
            "hs256 in small letters",
            hs256(r#"{"alg":"hs256"}"#, CLAIMS),
            Alg,
        ),
        (
            "an unknown algorithm",
            unsigned(r#"{"alg":"ES256K"}"#, CLAIMS, b"x"),
            Alg,
        ),
        ("ES512", unsigned(r#"{"alg":"ES512"}"#, CLAIMS, b"x"), Alg),
        (
            "HS256 with the RSA public key",
            sign(hs, CLAIMS, &public("rsa.pub"), Algorithm::HS256),
            Signature,
        ),
        (
            "HS256 with the trimmed RSA public key",
            sign(hs, CLAIMS, &trimmed, Algorithm::HS256),
            Signature,
        ),
        (
            "HS256 with the EC public key",
            sign(hs, CLAIMS, &public("p256.pub"), Algorithm::HS256),
            Signature,
        ),
        (
            "HS256 signature under RS256",
            sign(
                r#"{"alg":"RS256"}"#,
                CLAIMS,
                &public("rsa.pub"),
                Algorithm::HS256,
            ),
            Signature,
        ),
        (
            "RS256 signature under PS256",
            sign(
                r#"{"alg":"PS256"}"#,
                CLAIMS,
                &encoding_key("rsa"),
                Algorithm::RS256,
            ),
            Signature,
        ),
        (
            "ES256 signature under ES384",
            sign(
                r#"{"alg":"ES384"}"#,
                CLAIMS,
                &encoding_key("p256"),
                Algorithm::ES256,
            ),
            Signature,
        ),
        (
            "HS256 signature under HS512",
            sign(
                r#"{"alg":"HS512"}"#,
                CLAIMS,
                &EncodingKey::from_secret(crate::tokens::SECRET.as_bytes()),
                Algorithm::HS256,
            ),
            Signature,
        ),
    ]
}

fn headers() -> Vec<Case> {
    use AuthError::{Critical, Malformed, Signature};
    let other = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let forged = |header: &str| sign(header, CLAIMS, &other, Algorithm::HS256);
    let rsa = |header: &str| sign(header, CLAIMS, &encoding_key("other-rsa"), Algorithm::RS256);
    let kid = |kid: &str| forged(&format!(r#"{{"alg":"HS256","kid":"{kid}"}}"#));
    let oct = b64(OTHER_SECRET);
    vec![
        (
            "kid a path to an empty file",
            sign(
                r#"{"alg":"HS256","kid":"../../dev/null"}"#,
                CLAIMS,
                &EncodingKey::from_secret(b""),
                Algorithm::HS256,
            ),
            Signature,
        ),
        ("kid SQL", kid("x' UNION SELECT 'secret' --"), Signature),
        ("kid a URL", kid("http://127.0.0.1:1/key"), Signature),
        ("kid a command", kid("|/bin/sh -c id"), Signature),
        ("kid of 1 MB", kid(&"k".repeat(1 << 20)), AuthError::TooLong),
        ("kid of 4 KB", kid(&"k".repeat(4096)), Signature),
        ("kid empty", kid(""), Signature),
        (
            "kid a number",
            forged(r#"{"alg":"HS256","kid":1}"#),
            Malformed,
        ),
        (
            "kid a list",
            forged(r#"{"alg":"HS256","kid":["a"]}"#),
            Malformed,
        ),
        (
            "jku",
            rsa(r#"{"alg":"RS256","jku":"http://127.0.0.1:1/jwks.json"}"#),
            Signature,
        ),
        (
            "x5u",
            rsa(r#"{"alg":"RS256","x5u":"http://127.0.0.1:1/x.pem"}"#),
            Signature,
        ),
        ("x5c", rsa(r#"{"alg":"RS256","x5c":["MIIB"]}"#), Signature),
        (
            "its own key embedded",
            forged(&format!(
                r#"{{"alg":"HS256","jwk":{{"kty":"oct","k":"{oct}"}}}}"#
            )),
            Signature,
        ),
        (
            "its own RSA key embedded",
            rsa(r#"{"alg":"RS256","jwk":{"kty":"RSA","n":"AQ","e":"AQAB"}}"#),
            Signature,
        ),
        (
            "crit unknown",
            hs256(r#"{"alg":"HS256","crit":["exp2"],"exp2":1}"#, CLAIMS),
            Critical,
        ),
        (
            "crit b64",
            hs256(r#"{"alg":"HS256","crit":["b64"],"b64":false}"#, CLAIMS),
            Critical,
        ),
        (
            "crit empty",
            hs256(r#"{"alg":"HS256","crit":[]}"#, CLAIMS),
            Critical,
        ),
        (
            "crit null",
            hs256(r#"{"alg":"HS256","crit":null}"#, CLAIMS),
            Critical,
        ),
    ]
}

fn signatures() -> Vec<Case> {
    use AuthError::Signature;
    let good = with_claims(CLAIMS);
    let (message, signature) = good.rsplit_once('.').expect("three parts");
    let (header, _) = message.split_once('.').expect("two parts");
    let other = EncodingKey::from_secret(OTHER_SECRET.as_bytes());
    let es = r#"{"alg":"ES256"}"#;
    let admin = b64(r#"{"role":"service_role","exp":1767229200}"#);
    vec![
        (
            "another secret",
            sign(r#"{"alg":"HS256"}"#, CLAIMS, &other, Algorithm::HS256),
            Signature,
        ),
        (
            "another RSA key",
            sign(
                r#"{"alg":"RS256"}"#,
                CLAIMS,
                &encoding_key("other-rsa"),
                Algorithm::RS256,
            ),
            Signature,
        ),
        (
            "psychic signature r=s=0",
            unsigned(es, CLAIMS, &[0; 64]),
            Signature,
        ),
        (
            "psychic signature, P-384",
            unsigned(r#"{"alg":"ES384"}"#, CLAIMS, &[0; 96]),
            Signature,
        ),
        (
            "r=s=n",
            unsigned(es, CLAIMS, &P256_ORDER.repeat(2)),
            Signature,
        ),
        (
            "DER of r=s=0",
            unsigned(es, CLAIMS, &[0x30, 6, 2, 1, 0, 2, 1, 0]),
            Signature,
        ),
        (
            "EdDSA of zeros",
            unsigned(r#"{"alg":"EdDSA"}"#, CLAIMS, &[0; 64]),
            Signature,
        ),
        (
            "RSA signature of zeros",
            unsigned(r#"{"alg":"RS256"}"#, CLAIMS, &[0; 256]),
            Signature,
        ),
        (
            "RSA signature of ones",
            unsigned(r#"{"alg":"RS256"}"#, CLAIMS, &[1]),
            Signature,
        ),
        ("no signature", format!("{message}."), Signature),
        (
            "half a signature",
            format!("{message}.{}", &signature[..20]),
            Signature,
        ),
        ("signature not base64", format!("{message}.***"), Signature),
        (
            "other claims, same signature",
            format!("{header}.{admin}.{signature}"),
            Signature,
        ),
    ]
}

const P256_ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc, 0xe6,
    0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Signed with the right key, wrong all the same.
fn payloads() -> Vec<Case> {
    use AuthError::{Claims, DuplicateClaim, Expired, NoExpiry, NotYetValid, Role};
    let role = |role: &str| with_claims(&format!(r#"{{"exp":1767229200,"role":{role}}}"#));
    let exp = |exp: &str| with_claims(&format!(r#"{{"exp":{exp}}}"#));
    let also = |more: &str| with_claims(&format!(r#"{{"exp":1767229200,{more}}}"#));
    vec![
        ("payload empty", with_claims(""), Claims),
        ("payload a string", with_claims(r#""x""#), Claims),
        ("payload a list", with_claims("[{}]"), Claims),
        ("payload null", with_claims("null"), Claims),
        (
            "payload and more",
            with_claims(&format!("{CLAIMS} {{}}")),
            Claims,
        ),
        (
            "payload with a BOM",
            with_claims(&format!("\u{feff}{CLAIMS}")),
            Claims,
        ),
        (
            "exp missing",
            with_claims(r#"{"role":"authenticated"}"#),
            NoExpiry,
        ),
        ("exp a string", exp(r#""1767229200""#), Claims),
        ("exp null", exp("null"), Claims),
        ("exp 1e400", exp("1e400"), Claims),
        ("exp -1e400", exp("-1e400"), Claims),
        ("exp in milliseconds", exp("1767229200000"), Claims),
        ("exp NaN", exp("NaN"), Claims),
        ("exp a list", exp("[1767229200]"), Claims),
        ("exp long ago", exp("1"), Expired),
        ("exp negative", exp("-1"), Expired),
        ("exp just over", exp("1767225570"), Expired),
        (
            "nbf in the future",
            also(r#""nbf":1767225631"#),
            NotYetValid,
        ),
        ("nbf a string", also(r#""nbf":"0""#), Claims),
        (
            "iat in the future",
            also(r#""iat":1767225631"#),
            NotYetValid,
        ),
        (
            "a claim twice",
            also(r#""role":"anon","role":"service_role""#),
            DuplicateClaim,
        ),
        (
            "a claim twice, once escaped",
            also(r#""role":"anon","ro\u006ce":"service_role""#),
            DuplicateClaim,
        ),
        (
            "exp twice",
            with_claims(r#"{"exp":1,"exp":1767229200}"#),
            DuplicateClaim,
        ),
        ("sub a number", also(r#""sub":1"#), Claims),
        (
            "deep claims",
            also(&format!(r#""x":{}{}"#, "[".repeat(2000), "]".repeat(2000))),
            Claims,
        ),
        ("role postgres", role(r#""postgres""#), Role),
        ("role none", role(r#""none""#), Role),
        ("role empty", role(r#""""#), Role),
        ("role pg_read_all_data", role(r#""pg_read_all_data""#), Role),
        ("role with a NUL", role(r#""anon\u0000""#), Role),
        (
            "role of 64 bytes",
            role(&format!(r#""{}""#, "r".repeat(64))),
            Role,
        ),
        ("role SQL", role(r#""anon; reset role""#), Role),
        ("role in other letters", role(r#""Authenticated""#), Role),
        ("role null", role("null"), Claims),
        ("role a list", role(r#"["authenticated"]"#), Claims),
    ]
}
