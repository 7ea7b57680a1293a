//! A segment's file: a header, then blocks.
//!
//! The header (64 bytes): `"walclog1", epoch u32, 0 u32, sequence u64, after (u64, u64), committed
//! u64, 0…, crc32c u32`. A block: `size u32, crc32c u32, body`. The checksum covers the segment's
//! epoch and sequence, the block's offset and its size as well as the body: a block that stands
//! where it doesn't belong is as wrong as one whose bits changed.

use bytes::{Buf, BufMut};
use walcast_change::{Cursor, Epoch};
use walcast_pgoutput::Lsn;

use crate::error::Damaged;

pub(crate) const HEADER_BYTES: usize = 64;
pub(crate) const BLOCK_HEADER_BYTES: usize = 8;

const MAGIC: &[u8; 8] = b"walclog1";
const CHECKSUM_AT: usize = HEADER_BYTES - 4;

/// What a segment's file begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) epoch: Epoch,
    /// Counts up from 1 within an epoch.
    pub(crate) sequence: u64,
    /// The last change before this segment; all zero at an epoch's beginning.
    pub(crate) after: Cursor,
    /// The last commit's end before this segment.
    pub(crate) committed: Lsn,
}

impl Header {
    pub(crate) fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let mut out = &mut bytes[..];
        out.put_slice(MAGIC);
        out.put_u32(self.epoch.0);
        out.put_u32(0);
        out.put_u64(self.sequence);
        out.put_u64(self.after.commit_lsn.0);
        out.put_u64(self.after.ordinal);
        out.put_u64(self.committed.0);
        let checksum = crc32c::crc32c(&bytes[..CHECKSUM_AT]);
        bytes[CHECKSUM_AT..].copy_from_slice(&checksum.to_be_bytes());
        bytes
    }

    pub(crate) fn from_bytes(bytes: &[u8; HEADER_BYTES]) -> Result<Header, Damaged> {
        let (body, checksum) = bytes.split_at(CHECKSUM_AT);
        if crc32c::crc32c(body).to_be_bytes() != checksum || !body.starts_with(MAGIC) {
            return Err(Damaged);
        }
        let mut from = &body[MAGIC.len()..];
        let epoch = Epoch(from.get_u32());
        from.advance(4);
        Ok(Header {
            epoch,
            sequence: from.get_u64(),
            after: Cursor {
                commit_lsn: Lsn(from.get_u64()),
                ordinal: from.get_u64(),
            },
            committed: Lsn(from.get_u64()),
        })
    }

    /// The header of the block of `body` at `offset`.
    pub(crate) fn block_header(&self, offset: u64, body: &[u8]) -> [u8; BLOCK_HEADER_BYTES] {
        let size = u32::try_from(body.len()).expect("a block holds one change or 32 KiB of them");
        let mut header = [0; BLOCK_HEADER_BYTES];
        header[..4].copy_from_slice(&size.to_be_bytes());
        header[4..].copy_from_slice(&self.checksum(offset, body).to_be_bytes());
        header
    }

    pub(crate) fn checksum(&self, offset: u64, body: &[u8]) -> u32 {
        let mut place = [0; 28];
        let mut out = &mut place[..];
        out.put_u32(self.epoch.0);
        out.put_u64(self.sequence);
        out.put_u64(offset);
        out.put_u64(body.len() as u64);
        crc32c::crc32c_append(crc32c::crc32c(&place), body)
    }
}

/// A block's size and checksum, as its header says.
pub(crate) fn parse_block_header(bytes: [u8; BLOCK_HEADER_BYTES]) -> (usize, u32) {
    let mut from = &bytes[..];
    (from.get_u32() as usize, from.get_u32())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_come_back_and_no_bit_may_change() {
        let header = Header {
            epoch: Epoch(7),
            sequence: 8,
            after: Cursor {
                commit_lsn: Lsn(9),
                ordinal: 10,
            },
            committed: Lsn(11),
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), Ok(header));
        for bit in 0..HEADER_BYTES * 8 {
            let mut bytes = bytes;
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Header::from_bytes(&bytes), Err(Damaged), "bit {bit}");
        }
    }
}
