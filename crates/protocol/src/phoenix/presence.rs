//! Who is there, and who came and went.

use std::fmt::Display;

use walcast_change::write_string;

use super::frame::write_frame;
use super::reference::write_display;
use super::{Ref, Version};

/// What one connection says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Meta<'a, R> {
    /// Names it; printed without quotes and backslashes.
    pub phx_ref: R,
    /// The name of what it said before, if this is an update.
    pub phx_ref_prev: Option<R>,
    /// A JSON object as the client wrote it.
    pub fields: &'a [u8],
}

/// Appends `presence_state`: everybody, by key. Sent to one member after its join, so it may carry
/// its `join_ref`.
pub fn write_presence_state<'a, R, M>(
    version: Version,
    join_ref: Option<&Ref>,
    topic: &str,
    present: impl IntoIterator<Item = (&'a str, M)>,
    out: &mut Vec<u8>,
) where
    R: Display,
    M: IntoIterator<Item = Meta<'a, R>>,
{
    let refs = [join_ref, None];
    write_frame(version, refs, topic, "presence_state", out, |out| {
        write_keys(present, out);
    });
}

/// Appends `presence_diff`: who came and who went. An update is in both, under one key. One frame
/// for all members.
pub fn write_presence_diff<'a, R, M>(
    version: Version,
    topic: &str,
    joins: impl IntoIterator<Item = (&'a str, M)>,
    leaves: impl IntoIterator<Item = (&'a str, M)>,
    out: &mut Vec<u8>,
) where
    R: Display,
    M: IntoIterator<Item = Meta<'a, R>>,
{
    let refs = [None, None];
    write_frame(version, refs, topic, "presence_diff", out, |out| {
        out.extend_from_slice(br#"{"joins":"#);
        write_keys(joins, out);
        out.extend_from_slice(br#","leaves":"#);
        write_keys(leaves, out);
        out.push(b'}');
    });
}

/// `{"key":{"metas":[…]}}`
fn write_keys<'a, R, M>(keys: impl IntoIterator<Item = (&'a str, M)>, out: &mut Vec<u8>)
where
    R: Display,
    M: IntoIterator<Item = Meta<'a, R>>,
{
    out.push(b'{');
    for (nth, (key, metas)) in keys.into_iter().enumerate() {
        if nth > 0 {
            out.push(b',');
        }
        write_string(key.as_bytes(), out);
        out.extend_from_slice(br#":{"metas":["#);
        for (nth, meta) in metas.into_iter().enumerate() {
            if nth > 0 {
                out.push(b',');
            }
            write_meta(&meta, out);
        }
        out.extend_from_slice(b"]}");
    }
    out.push(b'}');
}

/// The references stand last: of a key that stands twice, parsers take the last, so a client can't
/// give itself another's.
fn write_meta<R: Display>(meta: &Meta<'_, R>, out: &mut Vec<u8>) {
    let fields = meta.fields.trim_ascii();
    let open = fields.strip_suffix(b"}").unwrap_or(b"{").trim_ascii_end();
    out.extend_from_slice(open);
    if open != b"{" {
        out.push(b',');
    }
    out.extend_from_slice(br#""phx_ref":"#);
    write_display(&meta.phx_ref, out);
    if let Some(previous) = &meta.phx_ref_prev {
        out.extend_from_slice(br#","phx_ref_prev":"#);
        write_display(previous, out);
    }
    out.push(b'}');
}
