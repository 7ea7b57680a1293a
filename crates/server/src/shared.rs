//! What all sessions share, whatever their dialect.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::watch;
use walcast_auth::Verifier;
use walcast_hub::{ChannelLimits, Channels, Connections};
use walcast_rls::{Access, ChannelAccess};
use walcast_source::StreamState;

use crate::metrics::Metrics;
use crate::order::Orders;
use crate::replay::Replay;
use crate::session::phoenix::PhoenixSettings;
use crate::snapshot::Snapshots;
use crate::voice::Dialects;

pub(crate) struct Shared {
    pub(crate) verifier: Arc<Verifier>,
    pub(crate) access: Access,
    /// Who may read and write private channels.
    pub(crate) channel_access: ChannelAccess,
    /// How the replication stream is.
    pub(crate) stream: watch::Receiver<StreamState>,
    pub(crate) orders: Orders,
    pub(crate) replay: Replay,
    pub(crate) snapshots: Arc<Snapshots>,
    pub(crate) connections: Arc<Connections>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) settings: SessionSettings,
    ids: AtomicU64,
}

#[derive(Clone, Debug)]
pub(crate) struct SessionSettings {
    pub(crate) subscriptions_max: usize,
    pub(crate) messages_per_minute_max: u32,
    pub(crate) outbox_bytes_max: usize,
    pub(crate) channels: ChannelLimits,
    pub(crate) idle_timeout: Duration,
    pub(crate) ping_interval: Duration,
    pub(crate) handshake_timeout: Duration,
    pub(crate) expiry_warning: Duration,
    pub(crate) leeway: Duration,
    /// What follows an expired token: the anonymous role, or the end.
    pub(crate) downgrade: bool,
    pub(crate) phoenix: PhoenixSettings,
}

impl Shared {
    #[expect(
        clippy::too_many_arguments,
        reason = "each is another part of the server"
    )]
    pub(crate) fn new(
        verifier: Arc<Verifier>,
        access: Access,
        channel_access: ChannelAccess,
        stream: watch::Receiver<StreamState>,
        orders: Orders,
        replay: Replay,
        snapshots: Arc<Snapshots>,
        connections: Arc<Connections>,
        metrics: Arc<Metrics>,
        settings: SessionSettings,
    ) -> Shared {
        let ids = AtomicU64::new(1);
        Shared {
            verifier,
            access,
            channel_access,
            stream,
            orders,
            replay,
            snapshots,
            connections,
            channels: Channels::new(settings.channels, Arc::new(Dialects)),
            metrics,
            settings,
            ids,
        }
    }

    /// A number that was not given before: for a connection, a channel, a subscription.
    pub(crate) fn next_id(&self) -> u64 {
        self.ids.fetch_add(1, Ordering::Relaxed)
    }
}
