use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse,
};
use jsonwebtoken::{Algorithm, AlgorithmFamily, DecodingKey};
use sha2::{Digest as _, Sha256};

use crate::error::SetupError;

/// The shortest HMAC secret in bytes (RFC 7518 §3.2: at least the hash's output).
pub const SECRET_BYTES_MIN: usize = 32;
/// 2048 bits; below that RSA is within reach of attackers, and aws-lc refuses it anyway.
const RSA_MODULUS_BYTES_MIN: usize = 256;
/// aws-lc refuses more; a bound also on what one check may cost.
const RSA_MODULUS_BYTES_MAX: usize = 1024;

/// One key with the algorithms it may be used for.
pub(crate) struct Key {
    pub(crate) kid: Option<String>,
    pub(crate) id: KeyId,
    algorithms: Vec<Algorithm>,
    decoding: DecodingKey,
}

/// A fingerprint of a key and its algorithms: tells whether the key behind an identity is still trusted.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct KeyId([u8; 32]);

impl std::fmt::Debug for KeyId {
    /// Not shown: of a weak HMAC secret, a hash would be enough to guess it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeyId")
    }
}

impl Key {
    pub(crate) fn from_secret(name: &'static str, secret: &[u8]) -> Result<Self, SetupError> {
        if secret.len() < SECRET_BYTES_MIN {
            let bytes = secret.len();
            return Err(SetupError::ShortSecret { name, bytes });
        }
        Ok(Self::new(
            None,
            hmac(),
            DecodingKey::from_secret(secret),
            secret,
        ))
    }

    /// All public keys of a PEM text.
    pub(crate) fn from_pem(text: &str) -> Result<Vec<Self>, SetupError> {
        let refuse = |reason| SetupError::PublicKey { reason };
        let keys = pem_blocks(text)
            .map(|block| Self::from_pem_block(block).map_err(refuse))
            .collect::<Result<Vec<_>, _>>()?;
        if keys.is_empty() {
            return Err(refuse("holds no PEM block (-----BEGIN PUBLIC KEY-----)"));
        }
        Ok(keys)
    }

    fn from_pem_block(block: &str) -> Result<Self, &'static str> {
        if block.contains("PRIVATE KEY") {
            return Err(
                "holds a private key: give the public one (`openssl pkey -in key.pem -pubout`)",
            );
        }
        if block.contains("CERTIFICATE") {
            return Err(
                "holds a certificate: give its public key (`openssl x509 -in cert.pem -pubkey -noout`)",
            );
        }
        let bytes = block.as_bytes();
        let decoding = DecodingKey::from_ec_pem(bytes)
            .or_else(|_| DecodingKey::from_ed_pem(bytes))
            .or_else(|_| DecodingKey::from_rsa_pem(bytes))
            .map_err(|_| "holds something other than an RSA, EC or Ed25519 public key")?;
        let material = decoding
            .try_get_as_bytes()
            .map_err(|_| "cannot be read")?
            .to_vec();
        let algorithms = match decoding.family() {
            AlgorithmFamily::Ec => curve_of_point(&material)
                .filter(|_| !is_secp256k1(block))
                .ok_or("holds an EC key on another curve than P-256 and P-384")?,
            AlgorithmFamily::Ed => vec![Algorithm::EdDSA],
            // The DER is the modulus and some 14 bytes around it.
            AlgorithmFamily::Rsa if material.len() < RSA_MODULUS_BYTES_MIN => {
                return Err("holds an RSA key of less than 2048 bits");
            }
            AlgorithmFamily::Rsa => rsa(),
            AlgorithmFamily::Hmac => return Err("holds no public key"),
        };
        Ok(Self::new(None, algorithms, decoding, &material))
    }

    /// The key of a JWK, or why it cannot be used. Symmetric keys only when `symmetric`: a secret behind an address
    /// that anybody may read is none.
    pub(crate) fn from_jwk(jwk: &Jwk, symmetric: bool) -> Result<Self, &'static str> {
        let common = &jwk.common;
        if !matches!(common.public_key_use, None | Some(PublicKeyUse::Signature)) {
            return Err("not for signatures");
        }
        let verifies = |ops: &Vec<KeyOperations>| ops.contains(&KeyOperations::Verify);
        if !common.key_operations.as_ref().is_none_or(verifies) {
            return Err("not for verifying");
        }
        let (possible, material) = jwk_material(&jwk.algorithm, symmetric)?;
        let algorithms = declared(possible, common.key_algorithm)?;
        let decoding = DecodingKey::from_jwk(jwk).map_err(|_| "cannot be read")?;
        Ok(Self::new(
            common.key_id.clone(),
            algorithms,
            decoding,
            &material,
        ))
    }

    fn new(
        kid: Option<String>,
        algorithms: Vec<Algorithm>,
        decoding: DecodingKey,
        material: &[u8],
    ) -> Self {
        let mut hash = Sha256::new();
        for algorithm in &algorithms {
            hash.update(format!("{algorithm:?} "));
        }
        hash.update(material);
        let id = KeyId(hash.finalize().into());
        Self {
            kid,
            id,
            algorithms,
            decoding,
        }
    }

    pub(crate) fn allows(&self, algorithm: Algorithm) -> bool {
        self.algorithms.contains(&algorithm)
    }

    /// Whether `signature` (base64url) is this key's over `message`. An error of the library is a "no".
    pub(crate) fn verifies(&self, algorithm: Algorithm, message: &[u8], signature: &str) -> bool {
        self.allows(algorithm)
            && jsonwebtoken::crypto::verify(signature, message, &self.decoding, algorithm)
                .unwrap_or(false)
    }
}

/// The algorithms a JWK's type allows, and its key material.
fn jwk_material(
    parameters: &AlgorithmParameters,
    symmetric: bool,
) -> Result<(Vec<Algorithm>, Vec<u8>), &'static str> {
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).map_err(|_| "not base64url");
    match parameters {
        AlgorithmParameters::RSA(key) => {
            let modulus = decode(&key.n)?;
            if !(RSA_MODULUS_BYTES_MIN..=RSA_MODULUS_BYTES_MAX).contains(&modulus.len()) {
                return Err("an RSA key must have 2048 to 8192 bits");
            }
            let exponent = decode(&key.e)?;
            Ok((rsa(), [modulus, exponent].concat()))
        }
        AlgorithmParameters::EllipticCurve(key) => {
            let (size, algorithm) = match key.curve {
                EllipticCurve::P256 => (32, Algorithm::ES256),
                EllipticCurve::P384 => (48, Algorithm::ES384),
                _ => return Err("curve not supported"),
            };
            let (x, y) = (decode(&key.x)?, decode(&key.y)?);
            if x.len() != size || y.len() != size {
                return Err("coordinates of the wrong size");
            }
            Ok((vec![algorithm], [x, y].concat()))
        }
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => {
            let x = decode(&key.x)?;
            if x.len() != 32 {
                return Err("an Ed25519 key must have 32 bytes");
            }
            Ok((vec![Algorithm::EdDSA], x))
        }
        AlgorithmParameters::OctetKey(key) if symmetric => {
            let secret = decode(&key.value)?;
            if secret.len() < SECRET_BYTES_MIN {
                return Err("a symmetric key must have at least 32 bytes");
            }
            Ok((hmac(), secret))
        }
        AlgorithmParameters::OctetKey(_) => Err("a symmetric key is accepted from a file only"),
        _ => Err("type not supported"),
    }
}

/// Narrows the algorithms a key could do to the one it declares.
fn declared(
    possible: Vec<Algorithm>,
    declared: Option<KeyAlgorithm>,
) -> Result<Vec<Algorithm>, &'static str> {
    let Some(name) = declared else {
        return Ok(possible);
    };
    let algorithm = Algorithm::try_from(name).map_err(|_| "algorithm not supported")?;
    if !possible.contains(&algorithm) {
        return Err("algorithm does not fit the type");
    }
    Ok(vec![algorithm])
}

/// From each `-----BEGIN` to the end of its `-----END …-----` line.
fn pem_blocks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let block = rest.get(rest.find("-----BEGIN ")?..)?;
        let end = block.find("-----END ")?;
        let length = block
            .get(end..)?
            .find('\n')
            .map_or(block.len(), |n| end + n);
        let (block, after) = block.split_at_checked(length)?;
        rest = after;
        Some(block)
    })
}

/// An uncompressed point's length tells the curve.
fn curve_of_point(point: &[u8]) -> Option<Vec<Algorithm>> {
    match (point.first(), point.len()) {
        (Some(4), 65) => Some(vec![Algorithm::ES256]),
        (Some(4), 97) => Some(vec![Algorithm::ES384]),
        _ => None,
    }
}

/// secp256k1 (Bitcoin's curve) has points as long as P-256's. Its SubjectPublicKeyInfo starts with these bytes.
fn is_secp256k1(block: &str) -> bool {
    block
        .lines()
        .any(|line| line.starts_with("MFYwEAYHKoZIzj0CAQYFK4EEAAoD"))
}

fn hmac() -> Vec<Algorithm> {
    vec![Algorithm::HS256, Algorithm::HS384, Algorithm::HS512]
}

fn rsa() -> Vec<Algorithm> {
    vec![
        Algorithm::RS256,
        Algorithm::RS384,
        Algorithm::RS512,
        Algorithm::PS256,
        Algorithm::PS384,
        Algorithm::PS512,
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fixture(name: &str) -> String {
        std::fs::read_to_string(format!(
            "{}/tests/keys/{name}.pem",
            env!("CARGO_MANIFEST_DIR")
        ))
        .expect("a committed file")
    }

    #[test]
    fn pem_files_are_accepted_by_kind() {
        let cases: &[(&str, Result<&[Algorithm], &str>)] = &[
            ("p256.pub", Ok(&[Algorithm::ES256])),
            ("p384.pub", Ok(&[Algorithm::ES384])),
            ("ed25519.pub", Ok(&[Algorithm::EdDSA])),
            ("rsa.pub", Ok(&rsa())),
            ("small-rsa.pub", Err("less than 2048 bits")),
            ("p521.pub", Err("another curve")),
            ("secp256k1.pub", Err("another curve")),
            ("rsa", Err("private key")),
            ("p256", Err("private key")),
            ("certificate", Err("openssl x509")),
        ];
        for (name, expected) in cases {
            match (Key::from_pem(&fixture(name)), expected) {
                (Ok(keys), Ok(algorithms)) => assert_eq!(keys[0].algorithms, *algorithms, "{name}"),
                (Err(error), Err(part)) => {
                    assert!(error.to_string().contains(part), "{name}: {error}");
                }
                (got, _) => panic!("{name}: {:?}", got.map(|keys| keys.len())),
            }
        }
    }

    #[test]
    fn several_keys_in_one_file() {
        let text = format!(
            "# old\n{}\n# new\n{}",
            fixture("rsa.pub"),
            fixture("p256.pub")
        );
        assert_eq!(Key::from_pem(&text).expect("two keys").len(), 2);
    }

    #[test]
    fn every_prefix_of_a_pem_file_is_refused_or_read() {
        let text = fixture("p256.pub");
        for end in 0..text.trim_end().len() - 1 {
            assert!(Key::from_pem(&text[..end]).is_err(), "{end}");
        }
    }

    #[test]
    fn jwks_are_accepted_by_kind() {
        let x = URL_SAFE_NO_PAD.encode([7; 32]);
        let n = URL_SAFE_NO_PAD.encode([0xc1; 256]);
        let small = URL_SAFE_NO_PAD.encode([0xc1; 128]);
        let cases: &[(String, Result<&[Algorithm], &str>)] = &[
            (
                format!(r#"{{"kty":"EC","crv":"P-256","x":"{x}","y":"{x}"}}"#),
                Ok(&[Algorithm::ES256]),
            ),
            (
                format!(
                    r#"{{"kty":"EC","crv":"P-256","alg":"ES256","use":"sig","x":"{x}","y":"{x}"}}"#
                ),
                Ok(&[Algorithm::ES256]),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-256","alg":"ES384","x":"{x}","y":"{x}"}}"#),
                Err("does not fit"),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-384","x":"{x}","y":"{x}"}}"#),
                Err("wrong size"),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"P-521","x":"{x}","y":"{x}"}}"#),
                Err("curve"),
            ),
            (
                format!(r#"{{"kty":"EC","crv":"secp256k1","x":"{x}","y":"{x}"}}"#),
                Err("type"),
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{x}"}}"#),
                Ok(&[Algorithm::EdDSA]),
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"X25519","x":"{x}"}}"#),
                Err("type"),
            ),
            (
                format!(r#"{{"kty":"OKP","crv":"Ed25519","x":"{n}"}}"#),
                Err("32 bytes"),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB"}}"#),
                Ok(&rsa()),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"RS256"}}"#),
                Ok(&[Algorithm::RS256]),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"HS256"}}"#),
                Err("does not fit"),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","alg":"RSA-OAEP"}}"#),
                Err("algorithm"),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","use":"enc"}}"#),
                Err("signatures"),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","key_ops":["sign"]}}"#),
                Err("verifying"),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{n}","e":"AQAB","key_ops":["verify"]}}"#),
                Ok(&rsa()),
            ),
            (
                format!(r#"{{"kty":"RSA","n":"{small}","e":"AQAB"}}"#),
                Err("2048"),
            ),
            (
                r#"{"kty":"RSA","n":"***","e":"AQAB"}"#.into(),
                Err("base64url"),
            ),
            (format!(r#"{{"kty":"oct","k":"{x}"}}"#), Err("file only")),
        ];
        for (text, expected) in cases {
            let jwk: Jwk = serde_json::from_str(text).expect(text);
            match (Key::from_jwk(&jwk, false), expected) {
                (Ok(key), Ok(algorithms)) => assert_eq!(key.algorithms, *algorithms, "{text}"),
                (Err(reason), Err(part)) => assert!(reason.contains(part), "{text}: {reason}"),
                (got, _) => panic!("{text}: {:?}", got.map(|key| key.algorithms)),
            }
        }
        let oct = format!(r#"{{"kty":"oct","k":"{x}"}}"#);
        let jwk: Jwk = serde_json::from_str(&oct).expect("a key");
        assert!(Key::from_jwk(&jwk, true).is_ok_and(|key| key.allows(Algorithm::HS512)));
    }
}
