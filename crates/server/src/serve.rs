//! `walcast serve`: everything assembled, run, and stopped in order.

use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{info, warn};
use walcast_auth::Verifier;
use walcast_change::{Decoder, Position, Types};
use walcast_hub::{ChannelLimits, Closing, ConnectionLimits, Connections};
use walcast_rls::{
    Access, ChannelAccess, CheckConfig, Connector, PostgresCheck, ReadLimits, ReaderBounds,
    TableReader,
};
use walcast_source::{LostSlot, SlotKind, SlotName, Source, SourceConfig, connect_sql};

use crate::describe::{Describe, watch_events};
use crate::http::{Context, routes};
use crate::journal::Journal;
use crate::keep;
use crate::listener::{Listener, tls};
use crate::messages::{Delivery, keep_partitions};
use crate::metrics::Metrics;
use crate::migrate::migrate;
use crate::order::ORDERS_MAX;
use crate::page::Page;
use crate::pipeline::{Pipeline, PipelineError};
use crate::pooler::shares_sessions;
use crate::progress::Progress;
use crate::publisher::{BatchLimits, Publisher};
use crate::ready::Readiness;
use crate::recent::Recent;
use crate::replay::Replay;
use crate::replayer::Replayer;
use crate::settings::{Config, ExpiredTokenAction, LostSlotAction, SlotMode};
use crate::shared::{SessionSettings, Shared};
use crate::sight;
use crate::snapshot::Snapshots;
use crate::socket::SocketSettings;
use crate::sockets::Sockets;

/// Why the server can't run; each says what to do.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServeError {
    #[error(transparent)]
    Settings(#[from] crate::settings::SettingsError),
    #[error(transparent)]
    Auth(#[from] walcast_auth::SetupError),
    #[error(transparent)]
    Source(#[from] walcast_source::SourceError),
    #[error(transparent)]
    Stream(#[from] crate::pipeline::PipelineError),
    #[error("{0} (setting log_dir; off keeps no log)")]
    Log(#[from] walcast_log::LogError),
    #[error("the server's identity can't be read: {}", .0.code().map_or("connection lost", |code| code.code()))]
    Identity(#[source] tokio_postgres::Error),
    #[error(transparent)]
    Migrate(#[from] crate::migrate::MigrateError),
    #[error("{setting} leads to a connection pooler that shares sessions; {remedy}", remedy = crate::pooler::REMEDY)]
    Pooled { setting: &'static str },
    #[error(transparent)]
    Check(#[from] walcast_rls::ConnectError),
    #[error("can't listen on {address}: {source} (setting listen)")]
    Listen {
        address: std::net::SocketAddr,
        source: std::io::Error,
    },
    #[error(transparent)]
    Tls(#[from] crate::listener::TlsError),
    #[error("the pipeline failed: {0}; please report this")]
    Pipeline(tokio::task::JoinError),
    #[error(transparent)]
    Page(#[from] crate::page::PageError),
}

/// Serves until `stop`. What fails before the first change flows is an error; later, the server
/// stays up, tries again and says so at `/ready`.
pub async fn serve(config: Config, stop: CancellationToken) -> Result<(), ServeError> {
    let metrics = Metrics::new();
    let verifier = Arc::new(Verifier::new(config.auth()?)?);
    let tls = match (&config.tls_cert, &config.tls_key) {
        (Some(cert), Some(key)) => Some(tls(cert, key)?),
        _ => None,
    };
    let page = match config.page {
        true => Some(Page::new(config.sample_users_file.as_deref())?),
        false => None,
    };
    // First the port: if it is taken, nothing is done to the database.
    let socket = TcpListener::bind(config.listen)
        .await
        .map_err(|source| ServeError::Listen {
            address: config.listen,
            source,
        })?;
    let database_url = config.database()?.expose().to_owned();
    if config.migrate_on_start {
        apply_migrations(&database_url).await?;
    }
    refuse_poolers(&config).await?;
    // Not `stop` itself: the last acknowledgement is to reach Postgres before the stream ends.
    let stream_stop = CancellationToken::new();
    let kept = match &config.log_dir {
        None => None,
        Some(directory) => match keep::open(&config, directory.clone(), &stop).await? {
            Some(kept) => Some(kept),
            None => return Ok(()),
        },
    };
    let mut source_config = source_config(&config)?;
    if let Some(kept) = &kept {
        source_config.resume_from = kept.opened.durable;
        source_config.resume_server = Some(kept.server.clone());
    }
    let source = Source::prepare(source_config, stream_stop.clone())?;
    let mut check_config = check_config(&config)?;
    if kept.is_some() {
        // Everybody waits for a check; those whom it concerns can be caught up instead.
        check_config.reconnect_for = CHECK_PATIENCE;
    }
    let check = PostgresCheck::connect(check_config.clone()).await?;
    let access = Access::connect(check_config.clone(), &config.publication).await?;
    let channel_access = ChannelAccess::connect(check_config.clone()).await?;

    let tasks = TaskTracker::new();
    let (orders, orders_taken) = mpsc::channel(ORDERS_MAX);
    let (events, events_watched) = tokio::sync::watch::channel(None);
    tasks.spawn(watch_events(
        database_url.clone(),
        events,
        stop.child_token(),
    ));
    tasks.spawn(keep_partitions(
        database_url.clone(),
        config.messages_retention,
        stop.child_token(),
    ));
    tasks.spawn(walcast_auth::refresh_jwks(
        verifier.clone(),
        stop.child_token(),
    ));
    let connections = Connections::new(ConnectionLimits {
        total_max: config.connections_max,
        per_user_max: config.connections_per_user_max,
        per_address_max: config.connections_per_address_max,
    });
    let limits = BatchLimits {
        changes_max: config.batch_changes_max,
        bytes_max: config.batch_bytes_max,
    };
    let log = kept.map(|kept| kept.log);
    let bounds = ReaderBounds {
        readings_max: config.snapshots_max,
        ..ReaderBounds::default()
    };
    let reader = TableReader::new(check_config.clone(), bounds);
    let replay = match &log {
        None => Replay::none(),
        Some(log) => Replay::begin(Replayer {
            history: log.history(),
            check: check_config,
            metrics: metrics.clone(),
            orders: orders.clone(),
            limits,
        }),
    };
    let readiness = Readiness {
        state: source.state(),
        progress: source.progress(),
        check: check.counters(),
        log: log.as_ref().map(walcast_log::Log::history),
    };
    let pipelines_replay = replay.clone();
    let log_history = log.as_ref().map(walcast_log::Log::history);
    let journal = Journal::new(log, config.batch_bytes_max);
    let published = tokio::sync::watch::Sender::new(Position {
        cursor: journal.last(),
        epoch: journal.epoch(),
    });
    let recent = Arc::new(Recent::new(log_history.is_none()));
    if let Some(history) = log_history {
        let url = config.rls_url().unwrap_or(config.database()?).expose();
        let (recent, url, stop) = (recent.clone(), url.to_owned(), stop.child_token());
        tasks.spawn(sight::keep_watch(recent, history, url, stop));
    }
    let snapshots = Snapshots {
        reader,
        describe: tokio::sync::Mutex::new(Describe::new(
            database_url.clone(),
            events_watched.clone(),
        )),
        limits: ReadLimits {
            rows_max: config.snapshot_rows_max as u64,
            bytes_max: config.snapshot_bytes_max as u64,
            time_max: config.snapshot_timeout,
        },
        published: published.subscribe(),
        recent: recent.clone(),
        replay: replay.clone(),
    };
    let session_settings = session_settings(&config)?;
    let shared = Shared::new(
        verifier,
        access,
        channel_access,
        readiness.state.clone(),
        orders,
        replay,
        Arc::new(snapshots),
        connections,
        metrics.clone(),
        session_settings,
    );
    let channels = shared.channels.clone();
    let sockets = Arc::new(Sockets::default());
    // Sockets end after the pipeline has stopped, and are told why.
    let stop_listening = stop.child_token();
    let context = Arc::new(Context {
        shared: Arc::new(shared),
        metrics: metrics.clone(),
        readiness,
        page,
        socket: SocketSettings {
            message_bytes_max: config.message_bytes_max,
            write_timeout: config.write_timeout,
        },
        phoenix_socket: SocketSettings {
            message_bytes_max: config.supabase_message_bytes_max,
            write_timeout: config.write_timeout,
        },
        sockets: sockets.clone(),
        allowed_origins: config.allowed_origins.clone(),
        trusted_proxies: config.trusted_proxies.clone(),
        tasks: tasks.clone(),
        stop: stop_listening.clone(),
    });
    let scheme = if tls.is_some() { "https" } else { "http" };
    let listener = Listener {
        tls,
        handshake_timeout: config.handshake_timeout,
        pending_max: PENDING_MAX,
        tasks: tasks.clone(),
        stop: stop_listening,
    };
    let address = socket.local_addr().unwrap_or(config.listen);
    let listening = tokio::spawn(listener.run(socket, warp::service(routes(context))));
    info!(%address, version = crate::VERSION, "listening");
    info!("open {scheme}://{address}/ to look at it, /ready and /metrics to watch it");

    let pipeline = Pipeline {
        source,
        decoder: Decoder::new(Types::default()),
        describe: Describe::new(database_url, events_watched),
        publisher: Publisher::new(check, metrics.clone()),
        orders: orders_taken,
        limits,
        metrics: metrics.clone(),
        progress: Progress::behind(journal.last()),
        journal,
        messages: Delivery::new(channels, metrics.clone()),
        replay: pipelines_replay,
        preparing: false,
        one_by_one_until: std::time::Instant::now(),
        published,
        recent,
        waiting: Vec::new(),
    };
    // A task of its own: run from the main future, every message would wake another thread.
    let ended = tokio::spawn(pipeline.run(stop.clone())).await;
    stop.cancel();
    stream_stop.cancel();
    let _ = listening.await;
    farewell(&sockets, &tasks, config.shutdown_timeout).await;
    match ended {
        Ok(Ok(()) | Err(PipelineError::Source(walcast_source::SourceError::Stopped))) => Ok(()),
        Ok(Err(error)) => Err(error.into()),
        Err(panicked) => Err(ServeError::Pipeline(panicked)),
    }
}

/// How long the checks are tried without a session, or with a catalogue that is locked.
const CHECK_PATIENCE: Duration = Duration::from_secs(1);
/// Connections that have not become a WebSocket yet, in all.
const PENDING_MAX: usize = 4096;

async fn farewell(sockets: &Sockets, tasks: &TaskTracker, patience: Duration) {
    let open = sockets.close_all(Closing::Shutdown);
    if open > 0 {
        info!(connections = open, "telling clients to come back later");
    }
    tasks.close();
    if timeout(patience, tasks.wait()).await.is_err() {
        warn!(
            left = tasks.len(),
            "some connections did not end in time (setting shutdown_timeout)"
        );
    }
}

/// A database that isn't reached is waited for by those who need it.
async fn refuse_poolers(config: &Config) -> Result<(), ServeError> {
    for (setting, url) in [
        ("database_url", config.database_url.as_ref()),
        ("rls_database_url", config.rls_database_url.as_ref()),
    ] {
        let Some(url) = url else { continue };
        if let Ok(true) = shares_sessions(url.expose()).await {
            return Err(ServeError::Pooled { setting });
        }
    }
    Ok(())
}

async fn apply_migrations(database_url: &str) -> Result<(), ServeError> {
    let mut client = connect_sql(database_url, "walcast migrate").await?;
    migrate(&mut client).await?;
    Ok(())
}

/// How the stream is read.
pub(crate) fn source_config(config: &Config) -> Result<SourceConfig, ServeError> {
    let name = SlotName::new(config.slot_name.clone())?;
    let slot = match config.slot_mode {
        SlotMode::Durable => SlotKind::Durable(name),
        SlotMode::Temporary => SlotKind::Temporary(name),
    };
    let mut source = SourceConfig::new(
        config.database()?.expose(),
        config.publication.clone(),
        slot,
    );
    source.lost_slot = match config.lost_slot_action {
        LostSlotAction::Recreate => LostSlot::Recreate,
        LostSlotAction::Wait => LostSlot::Wait,
    };
    source.message_bytes_max = config.change_bytes_max;
    source.wal_budget_bytes = config.wal_budget.map(|bytes| bytes as u64);
    Ok(source)
}

/// How rows are judged.
pub(crate) fn check_config(config: &Config) -> Result<CheckConfig, ServeError> {
    let url = match config.rls_url() {
        Some(url) => url.expose().to_owned(),
        None => config.database()?.expose().to_owned(),
    };
    let connector = Connector::new(move || {
        let url = url.clone();
        async move { connect_sql(&url, "walcast checks").await }
    });
    let mut check = CheckConfig::new(connector);
    check.connections = config.rls_connections;
    check.statement_timeout = config.rls_statement_timeout;
    check.allowed_roles = Some(config.allowed_roles.clone());
    Ok(check)
}

fn channel_limits(config: &Config) -> ChannelLimits {
    ChannelLimits {
        topics_max: config.topics_max,
        topic_bytes_max: config.topic_bytes_max,
        channels_per_connection_max: config.channels_per_connection_max,
        members_per_topic_max: config.members_per_topic_max,
        broadcast_bytes_max: config.broadcast_bytes_max,
        event_bytes_max: config.event_bytes_max,
        presence_key_bytes_max: config.presence_key_bytes_max,
        presence_meta_bytes_max: config.presence_meta_bytes_max,
        presence_keys_per_topic_max: config.presence_keys_per_topic_max,
        presence_metas_per_topic_max: config.presence_metas_per_topic_max,
        presence_bytes_per_topic_max: config.presence_bytes_per_topic_max,
    }
}

/// How conversations are held.
pub(crate) fn session_settings(config: &Config) -> Result<SessionSettings, ServeError> {
    Ok(SessionSettings {
        subscriptions_max: config.subscriptions_per_connection_max,
        messages_per_minute_max: u32::try_from(config.messages_per_minute_max).unwrap_or(u32::MAX),
        outbox_bytes_max: config.outbox_bytes_max,
        channels: channel_limits(config),
        idle_timeout: config.idle_timeout,
        ping_interval: config.ping_interval,
        handshake_timeout: config.handshake_timeout,
        expiry_warning: config.token_expiry_warning,
        leeway: config.jwt_leeway,
        downgrade: config.expired_token_action == ExpiredTokenAction::Downgrade,
        phoenix: config.phoenix()?,
    })
}
