//! How to reach Postgres. The caller knows addresses and TLS; this crate only asks for sessions.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting = Pin<Box<dyn Future<Output = Result<Client, BoxError>> + Send>>;

/// Opens a session as the login that checks. Its connection is driven by a task of the opener.
#[derive(Clone)]
pub struct Connector(Arc<dyn Fn() -> Connecting + Send + Sync>);

impl Connector {
    pub fn new<F, C, E>(connect: F) -> Connector
    where
        F: Fn() -> C + Send + Sync + 'static,
        C: Future<Output = Result<Client, E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let connect = Arc::new(connect);
        Connector(Arc::new(move || {
            let connecting = connect();
            Box::pin(async move { connecting.await.map_err(Into::into) })
        }))
    }

    /// At most [`CONNECT_TIMEOUT`].
    pub(crate) async fn connect(&self) -> Result<Client, ConnectError> {
        match tokio::time::timeout(CONNECT_TIMEOUT, (self.0)()).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(error)) => Err(ConnectError::Refused(error)),
            Err(_) => Err(ConnectError::Timeout),
        }
    }
}

/// For reaching Postgres and logging in; and once more for setting the session up.
pub(crate) const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

impl fmt::Debug for Connector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Connector")
    }
}

/// No session to check with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    #[error("no session for the checks of row-level security: {0}")]
    Refused(#[source] BoxError),
    #[error("no session for the checks of row-level security within {CONNECT_TIMEOUT:?}")]
    Timeout,
    #[error("the session for the checks can't be set up (SQLSTATE {code})")]
    SetUp { code: String },
}
