//! Connections in: TCP, TLS, HTTP, and the upgrade to a WebSocket.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower_service::Service;
use tracing::{debug, warn};
use walcast_hub::{ConnectionLimits, Connections};

use crate::http::Peer;
use crate::stream::Stream;

/// How the listener treats a connection before it is a WebSocket.
#[derive(Clone)]
pub(crate) struct Listener {
    pub(crate) tls: Option<TlsAcceptor>,
    pub(crate) handshake_timeout: Duration,
    /// Connections that are not upgraded yet, in all.
    pub(crate) pending_max: usize,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

/// What a request's head may take, in bytes.
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// A connection is closed after this many times the handshake's timeout if it has not become a
/// WebSocket: one that asks and never reads the answers would keep its place for ever.
const LIFETIME_FACTOR: u32 = 6;
/// One address may have this part of the connections that are not upgraded yet.
const PENDING_SHARE: usize = 4;
/// The pause after a failed accept: there may be no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

impl Listener {
    /// Accepts until it is told to stop. `service` answers the requests; every request carries
    /// its [`Peer`].
    pub(crate) async fn run<S, B>(self, socket: TcpListener, service: S)
    where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = std::convert::Infallible,
            > + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send,
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let pending = Connections::new(ConnectionLimits {
            total_max: self.pending_max,
            per_user_max: 0,
            per_address_max: self.pending_max.div_ceil(PENDING_SHARE),
        });
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((tcp, peer)) => match pending.admit(peer.ip()) {
                    Ok(place) => {
                        let serving = self.clone().serve(tcp, peer, service.clone());
                        self.tasks.spawn(async move {
                            serving.await;
                            drop(place);
                        });
                    }
                    Err(limit) => {
                        debug!(%limit, "too many connections that are no WebSocket yet; one dropped")
                    }
                },
                Err(error) => {
                    warn!(%error, "accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn serve<S, B>(self, tcp: TcpStream, peer: SocketAddr, service: S)
    where
        S: Service<
                http::Request<hyper::body::Incoming>,
                Response = http::Response<B>,
                Error = std::convert::Infallible,
            > + Clone
            + Send
            + 'static,
        S::Future: Send,
        B: hyper::body::Body + Send + 'static,
        B::Data: Send,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        // Events are small and wanted at once.
        let _ = tcp.set_nodelay(true);
        let stream = match &self.tls {
            None => Stream::Tcp(tcp),
            Some(acceptor) => match timeout(self.handshake_timeout, acceptor.accept(tcp)).await {
                Ok(Ok(tls)) => Stream::Tls(Box::new(tls)),
                Ok(Err(error)) => return debug!(%error, "TLS handshake failed"),
                Err(_) => return debug!("TLS handshake timed out"),
            },
        };
        let answer =
            hyper::service::service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                request.extensions_mut().insert(Peer(peer));
                service.clone().call(request)
            });
        let mut builder = Builder::new(hyper_util::rt::TokioExecutor::new()).http1_only();
        builder
            .http1()
            .timer(TokioTimer::new())
            .header_read_timeout(self.handshake_timeout)
            .max_buf_size(HEAD_BYTES_MAX)
            .keep_alive(true);
        let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), answer);
        tokio::pin!(connection);
        let lifetime = self.handshake_timeout.saturating_mul(LIFETIME_FACTOR);
        let ended = tokio::select! {
            result = connection.as_mut() => Ok(result),
            () = tokio::time::sleep(lifetime) => {
                connection.as_mut().graceful_shutdown();
                timeout(self.handshake_timeout, connection).await
            }
            () = self.stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                Ok(connection.await)
            }
        };
        match ended {
            Ok(Ok(())) => {}
            Ok(Err(error)) => debug!(%error, "HTTP connection ended badly"),
            Err(_) => debug!("an HTTP connection did not end in time"),
        }
    }
}

/// Why TLS can't be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("tls_cert or tls_key can't be read as PEM: {0}")]
    Pem(#[from] rustls::pki_types::pem::Error),
    #[error("tls_cert holds no certificate")]
    NoCertificate,
    #[error("tls_cert and tls_key do not go together: {0}")]
    Rustls(#[from] rustls::Error),
}

/// TLS with the certificate chain and key of two PEM files.
pub(crate) fn tls(cert: &Path, key: &Path) -> Result<TlsAcceptor, TlsError> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    if chain.is_empty() {
        return Err(TlsError::NoCertificate);
    }
    let key = PrivateKeyDer::from_pem_file(key)?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}
