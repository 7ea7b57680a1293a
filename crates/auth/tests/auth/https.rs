use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject as _;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;
use walcast_auth::{JwksConfig, JwksStatus, KeyConfig, Verifier, refresh_jwks};

use crate::tokens::{config, fixture};

const DEADLINE: Duration = Duration::from_secs(90);

/// Serves an empty key set as `localhost`, certified by our own authority; returns the port.
async fn serve() -> u16 {
    let pem = |name: &str| fixture(name).into_bytes();
    let chain = vec![CertificateDer::from_pem_slice(&pem("localhost")).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(&pem("p384")).expect("a key");
    let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .and_then(|builder| builder.with_no_client_auth().with_single_cert(chain, key))
        .expect("a matching key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else {
                continue;
            };
            let _ = stream.read(&mut [0; 2048]).await;
            let answer = "HTTP/1.1 200 OK\r\ncontent-length: 11\r\n\r\n{\"keys\":[]}";
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    port
}

async fn first_read(url: String, authority: Option<&str>) -> JwksStatus {
    let jwks = JwksConfig {
        url: Some(url),
        authority_pem: authority.map(fixture),
        timeout: DEADLINE,
        ..JwksConfig::default()
    };
    let keys = KeyConfig {
        jwks: Some(jwks),
        ..KeyConfig::default()
    };
    let verifier = Arc::new(Verifier::new(config(keys)).expect("a good configuration"));
    let stop = CancellationToken::new();
    tokio::spawn(refresh_jwks(verifier.clone(), stop.clone()));
    let _stop = stop.drop_guard();
    let mut status = verifier.jwks_status().expect("configured");
    let read = tokio::time::timeout(DEADLINE, status.wait_for(|status| status.attempts > 0));
    read.await.expect("in time").expect("alive").clone()
}

#[tokio::test]
async fn the_key_server_must_be_certified_by_a_trusted_authority_for_its_name() {
    let port = serve().await;
    let cases = [
        (
            format!("https://localhost:{port}/"),
            Some("authority"),
            None,
        ),
        (
            format!("https://localhost:{port}/"),
            None,
            Some("UnknownIssuer"),
        ),
        (
            format!("https://localhost:{port}/"),
            Some("certificate"),
            Some("UnknownIssuer"),
        ),
        (
            format!("https://127.0.0.1:{port}/"),
            Some("authority"),
            Some("not valid for name"),
        ),
    ];
    for (url, authority, expected) in cases {
        let error = first_read(url.clone(), authority).await.last_error;
        match expected {
            None => assert_eq!(error, None, "{url} {authority:?}"),
            Some(part) => {
                let error = error.unwrap_or_default();
                assert!(error.contains(part), "{url} {authority:?}: {error}");
            }
        }
    }
}
