//! Messages that answer nothing.

use super::frame::write_frame;
use super::{Ref, Version};

/// Appends a message of the server; `payload` is JSON. Clients drop what carries a `join_ref` other
/// than that of their last join; `None` reaches all of them, so one frame serves many.
pub fn write_push(
    version: Version,
    join_ref: Option<&Ref>,
    topic: &str,
    event: &str,
    payload: &[u8],
    out: &mut Vec<u8>,
) {
    write_frame(version, [join_ref, None], topic, event, out, |out| {
        out.extend_from_slice(payload);
    });
}

/// Appends `phx_close`: the client takes the channel away and does not join again. It stands after
/// the reply to `phx_leave`, before the reply to a second join of the same topic, and after
/// `system` messages of a [`Shutdown`](super::Shutdown) that is final.
pub fn write_close(version: Version, join_ref: Option<&Ref>, topic: &str, out: &mut Vec<u8>) {
    write_frame(
        version,
        [join_ref, join_ref],
        topic,
        "phx_close",
        out,
        |out| {
            out.extend_from_slice(b"{}");
        },
    );
}

/// Appends `phx_error`: the client joins again by itself, after 1, 2, 5, then 10 s.
pub fn write_error(version: Version, join_ref: Option<&Ref>, topic: &str, out: &mut Vec<u8>) {
    write_frame(
        version,
        [join_ref, join_ref],
        topic,
        "phx_error",
        out,
        |out| {
            out.extend_from_slice(br#"{"reason":"channel_crash"}"#);
        },
    );
}
