//! Opens the log: finds out whose history it is to hold, and waits for who holds it now.

use std::path::PathBuf;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use walcast_log::{Identity, Log, LogConfig, LogError, NewEpoch, Opened};
use walcast_source::{ServerIdentity, connect_sql};

use crate::serve::ServeError;
use crate::settings::Config;

/// Between two looks whether the other server has ended.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The log with what it knows.
pub(crate) struct Kept {
    pub(crate) log: Log,
    pub(crate) opened: Opened,
    pub(crate) server: ServerIdentity,
}

/// Opens the log in `directory`; waits while another walcast has it. `None`: stopped meanwhile.
pub(crate) async fn open(
    config: &Config,
    directory: PathBuf,
    stop: &CancellationToken,
) -> Result<Option<Kept>, ServeError> {
    let server = identity(config).await?;
    let identity = Identity {
        system: server.system.clone(),
        timeline: server.timeline,
        slot: config.slot_name.clone(),
        publication: config.publication.clone(),
    };
    let log_config = LogConfig {
        bytes_max: config.log_bytes_max as u64,
        age_max: config.log_age_max,
        segment_bytes: (config.log_bytes_max as u64 / 16).clamp(1 << 20, 64 << 20),
        ..LogConfig::new(directory)
    };
    let mut told = false;
    loop {
        let (config, identity) = (log_config.clone(), identity.clone());
        let opening = tokio::task::spawn_blocking(move || Log::open(config, identity)).await;
        match opening.map_err(ServeError::Pipeline)? {
            Ok((log, opened)) => {
                report(&opened);
                return Ok(Some(Kept {
                    log,
                    opened,
                    server,
                }));
            }
            Err(LogError::Locked { directory }) => {
                if !std::mem::replace(&mut told, true) {
                    warn!(directory = %directory.display(), "another walcast has the log; standing by until it ends");
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(None),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
        }
    }
}

fn report(opened: &Opened) {
    match opened.new_epoch {
        None => info!(epoch = %opened.epoch, "going on with the log"),
        Some(NewEpoch::Fresh) => info!(epoch = %opened.epoch, "a log of changes begins"),
        Some(reason) => {
            warn!(epoch = %opened.epoch, ?reason, "a new log begins: clients can't go on from cursors of before");
        }
    }
    if opened.damaged {
        warn!("older parts of the log were damaged and are dropped");
    }
}

/// Whose WAL it is.
async fn identity(config: &Config) -> Result<ServerIdentity, ServeError> {
    let client = connect_sql(config.database()?.expose(), "walcast log").await?;
    let row = client.query_one(IDENTITY, &[]).await;
    let row = row.map_err(ServeError::Identity)?;
    let timeline: String = row.try_get(1).map_err(ServeError::Identity)?;
    Ok(ServerIdentity {
        system: row.try_get(0).map_err(ServeError::Identity)?,
        timeline: u32::from_str_radix(&timeline, 16).unwrap_or_default(),
    })
}

/// The timeline stands in the names of the WAL's files; what the last checkpoint says of it may be
/// from before a promotion.
const IDENTITY: &str = "
    select system_identifier::text,
           pg_catalog.substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8)
    from pg_catalog.pg_control_system()";
