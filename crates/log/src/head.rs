//! The head file: which epoch this is, and of what.
//!
//! `"walchead", epoch u32, timeline u32`, then system, slot and publication as texts (`size u32`,
//! bytes), then `crc32c u32`. Replaced as a whole: written beside, synced, renamed, directory synced.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use bytes::{Buf, BufMut};
use walcast_change::Epoch;

use crate::Identity;

const NAME: &str = "head";
const NEW_NAME: &str = "head.new";
const MAGIC: &[u8; 8] = b"walchead";

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) epoch: Epoch,
    pub(crate) identity: Identity,
}

/// What the file holds: nothing yet, something damaged, or a head.
pub(crate) enum Found {
    Nothing,
    Damaged,
    Head(Head),
}

pub(crate) fn read(directory: &Path) -> io::Result<Found> {
    match fs::read(directory.join(NAME)) {
        Ok(bytes) => Ok(parse(&bytes).map_or(Found::Damaged, Found::Head)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Found::Nothing),
        Err(error) => Err(error),
    }
}

pub(crate) fn write(directory: &Path, head: &Head) -> io::Result<()> {
    let new = directory.join(NEW_NAME);
    let mut file = File::create(&new)?;
    file.write_all(&to_bytes(head))?;
    file.sync_all()?;
    fs::rename(new, directory.join(NAME))?;
    File::open(directory)?.sync_all()
}

fn to_bytes(head: &Head) -> Vec<u8> {
    let mut out = MAGIC.to_vec();
    out.put_u32(head.epoch.0);
    out.put_u32(head.identity.timeline);
    let identity = &head.identity;
    for text in [&identity.system, &identity.slot, &identity.publication] {
        out.put_u32(u32::try_from(text.len()).expect("a name is shorter than 4 GiB"));
        out.put_slice(text.as_bytes());
    }
    out.put_u32(crc32c::crc32c(&out));
    out
}

fn parse(bytes: &[u8]) -> Option<Head> {
    let (body, checksum) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(body) != u32::from_be_bytes(*checksum) {
        return None;
    }
    let mut from = body.strip_prefix(MAGIC)?;
    let epoch = Epoch(from.try_get_u32().ok()?);
    let timeline = from.try_get_u32().ok()?;
    let mut text = || {
        let size = from.try_get_u32().ok()? as usize;
        let (text, rest) = from.split_at_checked(size)?;
        from = rest;
        String::from_utf8(text.to_vec()).ok()
    };
    let identity = Identity {
        system: text()?,
        timeline,
        slot: text()?,
        publication: text()?,
    };
    from.is_empty().then_some(Head { epoch, identity })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_come_back_and_no_bit_may_change() {
        let head = Head {
            epoch: Epoch(0x5f3c_9a12),
            identity: Identity {
                system: "7391231".into(),
                timeline: 3,
                slot: "walcast".into(),
                publication: "réaltime".into(),
            },
        };
        let bytes = to_bytes(&head);
        assert_eq!(parse(&bytes), Some(head));
        for cut in 0..bytes.len() {
            assert_eq!(parse(&bytes[..cut]), None, "{cut}");
        }
        for bit in 0..bytes.len() * 8 {
            let mut bytes = bytes.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(parse(&bytes), None, "bit {bit}");
        }
    }
}
