//! The same over TLS.

use std::sync::Arc;

use anyhow::{Context, Result};
use futures_util::{SinkExt, StreamExt};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::Message;

use crate::stage::{ALICE, DEADLINE, Stage, token};

#[tokio::test]
async fn a_subscription_over_tls() -> Result<()> {
    let folder = std::env::temp_dir().join(format!("walcast-tls-{}", std::process::id()));
    std::fs::create_dir_all(&folder)?;
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()])?;
    let (cert, key) = (folder.join("cert.pem"), folder.join("key.pem"));
    std::fs::write(&cert, made.cert.pem())?;
    std::fs::write(&key, made.signing_key.serialize_pem())?;
    let path = |path: &std::path::Path| path.to_str().map(str::to_owned).context("a readable path");
    let (cert_path, key_path) = (path(&cert)?, path(&key)?);
    let settings = [("tls_cert", cert_path.as_str()), ("tls_key", &key_path)];
    let stage = Stage::unready(&settings).await?;
    // It listens before there is a stream, and a subscription waits for that some seconds only.
    let started = |line: &str| line.contains("replication stream started");
    stage.walcast.logged(started, DEADLINE).await?;

    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let connector = tokio_rustls::TlsConnector::from(Arc::new(client));
    let tcp = TcpStream::connect(stage.walcast.address()).await?;
    let tls = connector
        .connect(ServerName::try_from("localhost")?, tcp)
        .await?;
    let url = format!(
        "wss://localhost/realtime?token={}",
        token(ALICE, "authenticated", 3600)
    );
    let (mut socket, _) = tokio_tungstenite::client_async(url, tls).await?;
    socket
        .send(Message::text(
            r#"{"type":"subscribe","channel":"table:notes"}"#,
        ))
        .await?;
    let mut next = async || {
        let message = timeout(DEADLINE, socket.next())
            .await?
            .context("the end")??;
        anyhow::Ok(message.into_text()?.to_string())
    };
    assert!(next().await?.contains(r#""status":"subscribed""#));
    stage
        .execute("insert into notes values (1, 'secretly')")
        .await?;
    assert!(next().await?.contains("secretly"));
    std::fs::remove_dir_all(&folder)?;
    // Without TLS the port says nothing in HTTP.
    assert!(stage.walcast.get("/health").await.is_err());
    Ok(())
}
