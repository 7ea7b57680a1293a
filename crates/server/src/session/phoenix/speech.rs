//! What goes from a client into the hub, and an answer in our own words.

use serde_json::json;
use walcast_hub::{Body, Message};
use walcast_protocol::phoenix::{Address, Payload, Sent, Status, write_reply};

/// A broadcast as the hub carries it. The sender's metadata stays behind, as with theirs.
pub(super) fn message(sent: &Sent) -> Message {
    Message {
        event: sent.event.as_str().into(),
        body: match &sent.payload {
            Payload::Json(json) => Body::Json(json.clone()),
            Payload::Binary(bytes) => Body::Binary(bytes.clone()),
        },
        meta: None,
        envelope: sent.envelope.clone(),
    }
}

/// Appends a refusal that theirs has no words for, such as that of a limit of ours.
pub(super) fn write_reason(address: Address<'_>, reason: &str, out: &mut Vec<u8>) {
    let response = json!({ "reason": reason }).to_string();
    write_reply(address, Status::Error, response.as_bytes(), out);
}
