//! Doors for the fuzzer, past the checksums. No part of the interface.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walcast_change::{Change, Cursor, Shape};
use walcast_pgoutput::Lsn;

use crate::block::{Builder, Rolling};
use crate::format::{BLOCK_HEADER_BYTES, HEADER_BYTES};
use crate::record::{Item, Walk};

/// The bodies of the blocks that `changes`, which are in order, and a commit come to.
pub fn encode_blocks(changes: &[Change], end_lsn: Lsn) -> Vec<Bytes> {
    let rolling = Rolling {
        segment_bytes: u64::MAX,
        age: Duration::MAX,
    };
    let nothing = Cursor::default();
    let mut builder = Builder::new(rolling, nothing, Lsn::ZERO, HEADER_BYTES as u64, 0);
    for change in changes {
        builder.change(change);
    }
    builder.commit(end_lsn);
    let blocks = builder.take().into_iter();
    blocks
        .map(|block| Bytes::from(block.bytes).slice(BLOCK_HEADER_BYTES..))
        .collect()
}

/// The changes of a block and its last commit; `shapes` has those of the blocks before.
/// `None` if it is no block.
pub fn decode_block(
    body: Bytes,
    shapes: &mut Vec<Arc<Shape>>,
) -> Option<(Vec<Change>, Option<Lsn>)> {
    let mut changes = Vec::new();
    let mut committed = None;
    let mut walk = Walk::new(body);
    while let Some(item) = walk.next().ok()? {
        match item {
            Item::Shape { bytes, .. } => shapes.push(Arc::new(Shape::from_bytes(&bytes)?)),
            Item::Commit { end_lsn } => committed = Some(end_lsn),
            Item::Change(raw) => {
                let shape = shapes.get(raw.shape as usize)?;
                changes.push(raw.decode(shape).ok()?);
            }
        }
    }
    Some((changes, committed))
}
