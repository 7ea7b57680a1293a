//! What the replication session is opened with.

use std::sync::Arc;
use std::time::Duration;

use pgwire_replication::{FeedbackObserver, Lsn as WireLsn, ReplicationConfig, SslMode, TlsConfig};
use tokio::sync::Notify;
use walcast_pgoutput::Lsn;

use crate::database::Target;
use crate::tls::TlsMode;
use crate::{SlotName, SourceConfig};

/// How soon an acknowledgement is sent on after the one before it, and how often while the consumer
/// is behind.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);

/// Messages that the session's worker has read and nobody has taken. They are counted, whatever
/// their size; what is read ahead in bytes is [`Ahead`](super::ahead)'s.
pub(super) const WIRE_MESSAGES_MAX: usize = 4;

/// `reported` is signalled each time the server has been told a position.
pub(super) fn settings(
    target: &Target,
    config: &SourceConfig,
    slot: &SlotName,
    start: Lsn,
    reported: Arc<Notify>,
) -> ReplicationConfig {
    let publication = format!("\"{}\"", config.publication.replace('"', "\"\"")); // else folded
    ReplicationConfig::new(
        &target.host,
        &target.user,
        &target.password,
        &target.database,
        slot.as_str(),
        publication,
    )
    .with_port(target.port)
    .with_tls(tls(target))
    .with_start_lsn(WireLsn(start.0))
    .with_status_interval(STATUS_INTERVAL)
    .with_wakeup_interval(config.silence_max.saturating_mul(2))
    .with_buffer_size(WIRE_MESSAGES_MAX)
    .with_max_message_size(config.message_bytes_max)
    .with_application_name(&config.application_name)
    .with_options(session_options(target, config.silence_max))
    // a permit is kept when nobody waits, so that `close` misses none
    .with_feedback_observer(FeedbackObserver::new(move |_| reported.notify_one()))
}

/// Settings of the walsender's session. The first line fixes how values are printed: whatever the
/// role's or the database's settings say, a row's text means the same (names of `reg…` types are
/// qualified, for `search_path` is empty). The last ones let Postgres
/// find out soon that we are gone, and give the slot back.
fn session_options(target: &Target, silence_max: Duration) -> String {
    let own = target.options.as_deref().unwrap_or_default();
    let silence_ms = silence_max.as_millis().clamp(1000, 3_600_000);
    format!(
        "{own} -c datestyle=ISO,MDY -c intervalstyle=postgres -c timezone=UTC -c bytea_output=hex \
         -c extra_float_digits=1 -c lc_monetary=C -c xmlbinary=base64 -c search_path= \
         -c statement_timeout=0 -c lock_timeout=0 -c idle_in_transaction_session_timeout=0 \
         -c default_transaction_read_only=off \
         -c wal_sender_timeout={silence_ms} -c tcp_keepalives_idle=10 \
         -c tcp_keepalives_interval=5 -c tcp_keepalives_count=3"
    )
}

fn tls(target: &Target) -> TlsConfig {
    let mut tls = TlsConfig::disabled();
    tls.mode = match target.tls.mode {
        TlsMode::Disable => SslMode::Disable,
        TlsMode::Prefer => SslMode::Prefer,
        TlsMode::Require => SslMode::Require,
        TlsMode::VerifyCa => SslMode::VerifyCa,
        TlsMode::VerifyFull => SslMode::VerifyFull,
    };
    tls.ca_pem_path.clone_from(&target.tls.root);
    let name = target.shown_name.get().unwrap_or(&target.server_name);
    tls.sni_hostname = Some(name.clone());
    if let Some((certificate, key)) = &target.tls.client {
        tls.client_cert_pem_path = Some(certificate.clone());
        tls.client_key_pem_path = Some(key.clone());
    }
    tls
}
