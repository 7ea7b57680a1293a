//! What the server says of a channel: `system`.

use std::fmt;

use walcast_change::write_string;

use super::frame::write_frame;
use super::reply::Status;
use super::{BindingError, Ref, Shutdown, Version};

/// Which part of the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extension {
    PostgresChanges,
    System,
}

impl Extension {
    fn as_str(self) -> &'static str {
        match self {
            Extension::PostgresChanges => "postgres_changes",
            Extension::System => "system",
        }
    }
}

/// A `system` message. Prints its text.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum System {
    /// All bindings of the channel are live. Sent again when they were subscribed anew.
    Subscribed,
    /// Bindings can't be subscribed to; nothing is tried again.
    Malformed(BindingError),
    /// The table is not published, or there is none.
    NotEnabled {
        /// The binding as it was asked for.
        params: String,
    },
    /// The filter or the selected columns do not fit the table.
    NotFitting { params: String, reason: String },
    /// Bindings can't be subscribed to at the moment; it is tried again.
    Retrying { reason: String },
    /// Messages from the database will arrive from now on.
    ReplicationReady,
    /// The frame that ends the channel follows.
    Shutdown(Shutdown),
}

impl System {
    pub fn extension(&self) -> Extension {
        match self {
            System::ReplicationReady | System::Shutdown(_) => Extension::System,
            _ => Extension::PostgresChanges,
        }
    }

    pub fn status(&self) -> Status {
        match self {
            System::Subscribed | System::ReplicationReady => Status::Ok,
            _ => Status::Error,
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const UNABLE: &str = "Unable to subscribe to changes with given parameters.";
        match self {
            System::Subscribed => f.write_str("Subscribed to PostgreSQL"),
            System::Malformed(error) => error.fmt(f),
            System::NotEnabled { params } => write!(
                f,
                "{UNABLE} Please check Realtime is enabled for the given connect parameters: [{params}]"
            ),
            System::NotFitting { params, reason } => write!(
                f,
                "{UNABLE} An exception happened so please check your connect parameters: [{params}]. Exception: ERROR P0001 (raise_exception) {reason}"
            ),
            System::Retrying { reason } => f.write_str(reason),
            System::ReplicationReady => f.write_str("Replication connection established"),
            System::Shutdown(shutdown) => shutdown.fmt(f),
        }
    }
}

/// Appends a `system` message. `topic` is with `realtime:`; the payload names it without.
pub fn write_system(
    version: Version,
    join_ref: Option<&Ref>,
    topic: &str,
    system: &System,
    out: &mut Vec<u8>,
) {
    let subtopic = topic.strip_prefix("realtime:").unwrap_or(topic);
    write_frame(version, [join_ref, None], topic, "system", out, |out| {
        out.extend_from_slice(br#"{"extension":""#);
        out.extend_from_slice(system.extension().as_str().as_bytes());
        out.extend_from_slice(br#"","status":""#);
        out.extend_from_slice(system.status().as_str().as_bytes());
        out.extend_from_slice(br#"","message":"#);
        write_string(system.to_string().as_bytes(), out);
        out.extend_from_slice(br#","channel":"#);
        write_string(subtopic.as_bytes(), out);
        out.push(b'}');
    });
}

/// Appends what stands before the server closes the whole socket: a `system` message that names no
/// channel in its payload.
pub fn write_disconnect(version: Version, topic: &str, out: &mut Vec<u8>) {
    write_frame(version, [None, None], topic, "system", out, |out| {
        out.extend_from_slice(
            br#"{"extension":"system","status":"ok","message":"Server requested disconnect"}"#,
        );
    });
}
