//! Who is there → payloads.

use std::io::Write;

use walcast_change::write_string;
use walcast_hub::{Class, Diff, KeyDiff, Meta, Roster};

use super::{BROADCAST, Native};

impl Native {
    /// Appends everybody who is present, for a member that has just joined.
    ///
    /// With a `config`: `{"type":"presence","channel":…,"event":"state","payload":{key:[{"ref":…,
    /// "state":{…}}]}}`. Without one, as the Fluxbase SDK understands it: event `sync`.
    pub fn presence_state(&self, class: Class<'_>, roster: &Roster, out: &mut Vec<u8>) {
        if class.format == BROADCAST {
            sdk_event(class, "sync", None, roster, out);
            return;
        }
        begin(class, "state", out);
        out.extend_from_slice(br#","payload":"#);
        keys(roster.iter(), meta, out);
        out.push(b'}');
    }

    /// Hands `each` the messages that tell the members of one class who came, changed and went.
    ///
    /// With a `config` it is one, event `diff`, `"payload":{"joins":{…},"leaves":{…}}`: what changed
    /// is in both, and its join has the `ref` of the leave as `previous`. Without one, as the
    /// Fluxbase SDK understands it: one for each key, `join`, `leave`, or `sync` if it changed.
    pub fn presence(
        &self,
        class: Class<'_>,
        diff: &Diff,
        roster: &Roster,
        each: &mut dyn FnMut(&[u8]),
    ) {
        let mut out = Vec::new();
        if class.format == BROADCAST {
            for change in &diff.keys {
                out.clear();
                let event = match (&change.joins[..], &change.leaves[..]) {
                    (_, []) => "join",
                    ([], _) => "leave",
                    _ => "sync",
                };
                sdk_event(class, event, Some(change), roster, &mut out);
                each(&out);
            }
            return;
        }
        begin(class, "diff", &mut out);
        out.extend_from_slice(br#","payload":{"joins":"#);
        keys(diff.joins(), meta, &mut out);
        out.extend_from_slice(br#","leaves":"#);
        keys(diff.leaves(), meta, &mut out);
        out.extend_from_slice(b"}}");
        each(&out);
    }
}

fn begin(class: Class<'_>, event: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(br#"{"type":"presence","channel":"#);
    write_string(class.label.as_bytes(), out);
    out.extend_from_slice(br#","event":""#);
    out.extend_from_slice(event.as_bytes());
    out.push(b'"');
}

/// `{"type":"presence",…,"presence":{"event":…,"key":…,"newPresences":[…],"leftPresences":[…],
/// "currentPresences":{key:[…]}}}`. The SDK takes `currentPresences` for everybody.
fn sdk_event(
    class: Class<'_>,
    event: &str,
    change: Option<&KeyDiff>,
    roster: &Roster,
    out: &mut Vec<u8>,
) {
    begin(class, event, out);
    out.extend_from_slice(br#","presence":{"event":""#);
    out.extend_from_slice(event.as_bytes());
    out.push(b'"');
    if let Some(change) = change {
        out.extend_from_slice(br#","key":"#);
        write_string(change.key.as_bytes(), out);
        out.extend_from_slice(br#","newPresences":"#);
        list(&change.joins, state, out);
        out.extend_from_slice(br#","leftPresences":"#);
        list(&change.leaves, state, out);
    }
    out.extend_from_slice(br#","currentPresences":"#);
    keys(roster.iter(), state, out);
    out.extend_from_slice(b"}}");
}

/// `{key:[meta,…],…}`
fn keys<'a>(
    keys: impl Iterator<Item = (&'a str, &'a [Meta])>,
    write: fn(&Meta, &mut Vec<u8>),
    out: &mut Vec<u8>,
) {
    out.push(b'{');
    for (nth, (key, metas)) in keys.enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.push(b':');
        list(metas, write, out);
    }
    out.push(b'}');
}

fn list(metas: &[Meta], write: fn(&Meta, &mut Vec<u8>), out: &mut Vec<u8>) {
    out.push(b'[');
    for (nth, meta) in metas.iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write(meta, out);
    }
    out.push(b']');
}

fn state(meta: &Meta, out: &mut Vec<u8>) {
    out.extend_from_slice(&meta.payload);
}

fn meta(meta: &Meta, out: &mut Vec<u8>) {
    let full = "a vector takes what is written";
    write!(out, r#"{{"ref":"{}""#, meta.dot).expect(full);
    if let Some(previous) = meta.previous {
        write!(out, r#","previous":"{previous}""#).expect(full);
    }
    out.extend_from_slice(br#","state":"#);
    state(meta, out);
    out.push(b'}');
}
