//! The XOR that every byte from a client carries (RFC 6455, section 5.3).

/// Bytes per step; the compiler makes one vector operation of it.
const STEP: usize = 16;

/// Applies `mask` to a piece of a payload whose first byte is the payload's byte number `offset`.
/// Masking and unmasking are the same.
pub(crate) fn apply(mask: [u8; 4], offset: usize, piece: &mut [u8]) {
    let mut mask = mask;
    mask.rotate_left(offset % 4);
    let word = u128::from_ne_bytes(std::array::from_fn(|at| mask[at % 4]));
    let (steps, rest) = piece.as_chunks_mut::<STEP>();
    for step in steps {
        *step = (u128::from_ne_bytes(*step) ^ word).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= mask;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_offset_and_length_as_byte_by_byte() {
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        let payload: Vec<u8> = (0..100).collect();
        for start in 0..9 {
            for end in start..payload.len() {
                let mut piece = payload[start..end].to_vec();
                apply(mask, start, &mut piece);
                let expected: Vec<u8> = (start..end).map(|at| payload[at] ^ mask[at % 4]).collect();
                assert_eq!(piece, expected, "{start}..{end}");
            }
        }
    }
}
