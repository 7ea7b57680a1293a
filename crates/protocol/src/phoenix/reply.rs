//! Answers to a client's messages.

use walcast_change::write_string;

use super::frame::write_frame;
use super::{Binding, Reason, Ref, Version};

/// What an answer belongs to: [`Incoming::address`](super::Incoming::address).
#[derive(Clone, Copy, Debug)]
pub struct Address<'a> {
    pub version: Version,
    pub join_ref: Option<&'a Ref>,
    pub reference: Option<&'a Ref>,
    pub topic: &'a str,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    Ok,
    Error,
}

impl Status {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Status::Ok => "ok",
            Status::Error => "error",
        }
    }
}

/// Appends a `phx_reply`; `response` is JSON.
pub fn write_reply(address: Address<'_>, status: Status, response: &[u8], out: &mut Vec<u8>) {
    write_response(address, status, out, |out| out.extend_from_slice(response));
}

/// Appends the answer to a heartbeat, a leave, an acknowledged broadcast, a track.
pub fn write_ok(address: Address<'_>, out: &mut Vec<u8>) {
    write_reply(address, Status::Ok, b"{}", out);
}

/// Appends the answer to a join that succeeded: each binding as it was asked for, with its id, in
/// the order in which they were asked for. Clients compare them one by one.
pub fn write_joined(address: Address<'_>, bindings: &[Binding], out: &mut Vec<u8>) {
    write_response(address, Status::Ok, out, |out| {
        out.extend_from_slice(br#"{"postgres_changes":["#);
        for (nth, binding) in bindings.iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            binding.write_echo(out);
        }
        out.extend_from_slice(b"]}");
    });
}

/// Appends the answer to what is refused: `{"reason":"Code: text"}`.
pub fn write_refused(address: Address<'_>, reason: &Reason, out: &mut Vec<u8>) {
    write_response(address, Status::Error, out, |out| match reason {
        Reason::PayloadSizeExceeded => out.extend_from_slice(br#""payload_size_exceeded""#),
        Reason::Unexplained => out.extend_from_slice(b"{}"),
        _ => {
            out.extend_from_slice(br#"{"reason":"#);
            write_string(reason.to_string().as_bytes(), out);
            out.push(b'}');
        }
    });
}

fn write_response(
    address: Address<'_>,
    status: Status,
    out: &mut Vec<u8>,
    response: impl FnOnce(&mut Vec<u8>),
) {
    let Address {
        version,
        join_ref,
        reference,
        topic,
    } = address;
    let refs = [join_ref, reference];
    write_frame(version, refs, topic, "phx_reply", out, |out| {
        out.extend_from_slice(br#"{"status":""#);
        out.extend_from_slice(status.as_str().as_bytes());
        out.extend_from_slice(br#"","response":"#);
        response(out);
        out.push(b'}');
    });
}
