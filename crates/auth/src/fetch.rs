use std::error::Error as _;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};

use crate::config::JwksConfig;
use crate::error::SetupError;

/// More than any real key set by two orders of magnitude.
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// Reads one address over and over. Follows no redirect: keys come from where the operator said, or not at all.
pub(crate) struct Fetcher {
    client: Client<HttpsConnector<HttpConnector>, Empty<Bytes>>,
    uri: Uri,
    timeout: std::time::Duration,
}

impl Fetcher {
    pub(crate) fn new(url: &str, config: &JwksConfig) -> Result<Self, SetupError> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls(config.authority_pem.as_deref())?)
            .https_or_http()
            .enable_http1()
            .build();
        // One request every few minutes: a connection kept open would only be found dead.
        let client = Client::builder(TokioExecutor::new())
            .pool_max_idle_per_host(0)
            .build(connector);
        Ok(Self {
            client,
            uri: parse_url(url)?,
            timeout: config.timeout,
        })
    }

    /// The body, or what went wrong in words for the operator; never the address, which may hold a key.
    pub(crate) async fn fetch(&self) -> Result<Bytes, String> {
        tokio::time::timeout(self.timeout, self.request())
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {:?}", self.timeout)))
    }

    async fn request(&self) -> Result<Bytes, String> {
        let request = Request::get(self.uri.clone())
            .header(header::ACCEPT, "application/jwk-set+json, application/json")
            .header(
                header::USER_AGENT,
                concat!("walcast/", env!("CARGO_PKG_VERSION")),
            )
            .body(Empty::new())
            .map_err(|error| error.to_string())?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|e| with_causes(&e))?;
        if response.status() != StatusCode::OK {
            return Err(format!(
                "the answer has status {}",
                response.status().as_u16()
            ));
        }
        match Limited::new(response.into_body(), BODY_BYTES_MAX)
            .collect()
            .await
        {
            Ok(body) => Ok(body.to_bytes()),
            Err(error) if error.is::<http_body_util::LengthLimitError>() => {
                Err("the answer is longer than 1 MiB".into())
            }
            Err(error) => Err(format!("the answer broke off: {error}")),
        }
    }
}

fn parse_url(url: &str) -> Result<Uri, SetupError> {
    let refuse = |reason| SetupError::JwksUrl { reason };
    let uri: Uri = url.parse().map_err(|_| refuse("is not a URL"))?;
    if !matches!(uri.scheme_str(), Some("https" | "http")) || uri.host().is_none_or(str::is_empty) {
        return Err(refuse(
            "must start with https:// or http:// and name a host",
        ));
    }
    if uri
        .authority()
        .is_some_and(|authority| authority.as_str().contains('@'))
    {
        return Err(refuse("must not contain a user or a password"));
    }
    Ok(uri)
}

/// The provider is named: with two of them in a process rustls would have to be told which to take, or panic.
fn tls(authority_pem: Option<&str>) -> Result<ClientConfig, SetupError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring does TLS 1.2 and 1.3");
    Ok(builder
        .with_root_certificates(roots(authority_pem)?)
        .with_no_client_auth())
}

fn roots(authority_pem: Option<&str>) -> Result<RootCertStore, SetupError> {
    let Some(pem) = authority_pem else {
        return Ok(RootCertStore {
            roots: webpki_roots::TLS_SERVER_ROOTS.to_vec(),
        });
    };
    let refuse = |reason| SetupError::JwksAuthority { reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|_| refuse("is not valid PEM"))?;
        roots
            .add(certificate)
            .map_err(|_| refuse("holds a certificate that cannot be read"))?;
    }
    if roots.is_empty() {
        return Err(refuse("holds no certificate (-----BEGIN CERTIFICATE-----)"));
    }
    Ok(roots)
}

/// hyper's own text is "client error (Connect)"; the reason is further down.
fn with_causes(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_checked_at_start() {
        let cases = [
            ("https://id.example.com/.well-known/jwks.json", None),
            ("http://127.0.0.1:9/jwks?x=1", None),
            ("", Some("is not a URL")),
            ("not a url", Some("is not a URL")),
            ("id.example.com/jwks", Some("is not a URL")),
            ("/jwks.json", Some("must start with https://")),
            ("file:///etc/passwd", Some("is not a URL")),
            ("ftp://example.com/x", Some("must start with https://")),
            (
                "https://user:secret@example.com/",
                Some("must not contain a user"),
            ),
        ];
        for (url, expected) in cases {
            match (parse_url(url), expected) {
                (Ok(_), None) => {}
                (Err(error), Some(part)) => {
                    let text = error.to_string();
                    assert!(
                        text.contains(part) && !text.contains("secret"),
                        "{url}: {text}"
                    );
                }
                (got, _) => panic!("{url}: {got:?}"),
            }
        }
    }

    #[test]
    fn an_authority_file_must_hold_a_certificate() {
        let fixture = |name: &str| {
            std::fs::read_to_string(format!(
                "{}/tests/keys/{name}.pem",
                env!("CARGO_MANIFEST_DIR")
            ))
            .expect("a committed file")
        };
        assert_eq!(roots(Some(&fixture("certificate"))).expect("one").len(), 1);
        assert!(roots(Some(&fixture("rsa.pub"))).is_err());
        assert!(roots(Some("")).is_err());
        assert!(roots(None).expect("the public ones").len() > 50);
    }
}
