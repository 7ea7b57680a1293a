//! A small deterministic mutator: the same seed makes the same inputs on every machine.

/// SplitMix64 (Steele, Lea, Flood 2014): enough for choosing bytes.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    pub fn number(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number under `bound`; 0 for a bound of 0.
    pub fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.number() % bound as u64) as usize
        }
    }

    fn byte(&mut self) -> u8 {
        self.number() as u8
    }
}

/// No input grows beyond this.
const INPUT_BYTES_MAX: usize = 4096;

/// Bytes that parsers stumble over: ends of ranges, terminators, first bytes of UTF-8 sequences.
const INTERESTING: &[u8] = &[
    0, 1, 2, 0x0A, 0x20, b'"', b'\\', b'{', b'}', 0x7D, 0x7E, 0x7F, 0x80, 0x81, 0x8F, 0xC3, 0xE2,
    0xED, 0xF4, 0xFD, 0xFE, 0xFF,
];

/// Changes `input` in one to eight places, partly with pieces of `others`.
pub fn mutate(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    for _ in 0..=random.below(8) {
        mutate_once(input, others, random);
    }
    input.truncate(INPUT_BYTES_MAX);
}

fn mutate_once(input: &mut Vec<u8>, others: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    match random.below(9) {
        0 => replace(
            input,
            at,
            |byte, random| byte ^ (1 << random.below(8)),
            random,
        ),
        1 => replace(input, at, |_, random| random.byte(), random),
        2 => replace(input, at, |_, random| interesting(random), random),
        3 => replace(
            input,
            at,
            |byte, random| byte.wrapping_add(random.below(9) as u8).wrapping_sub(4),
            random,
        ),
        4 => input.insert(at, interesting(random)),
        5 => drop(input.drain(at..at + random.below((input.len() - at).min(16) + 1))),
        6 => input.truncate(at),
        7 => {
            let end = at + random.below((input.len() - at).min(64) + 1);
            let copy = input[at..end].to_vec();
            splice(input, &copy, random);
        }
        _ => {
            if let Some(other) = others.get(random.below(others.len())) {
                let start = random.below(other.len() + 1);
                let end = start + random.below(other.len() - start + 1);
                splice(input, &other[start..end], random);
            }
        }
    }
}

fn replace(input: &mut [u8], at: usize, with: fn(u8, &mut Random) -> u8, random: &mut Random) {
    if let Some(byte) = input.get_mut(at) {
        *byte = with(*byte, random);
    }
}

fn interesting(random: &mut Random) -> u8 {
    INTERESTING[random.below(INTERESTING.len())]
}

fn splice(input: &mut Vec<u8>, piece: &[u8], random: &mut Random) {
    let at = random.below(input.len() + 1);
    input.splice(at..at, piece.iter().copied());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_same_inputs_again() {
        let inputs = |seed| {
            let mut random = Random::new(seed);
            let mut input = b"hello".to_vec();
            let others = [b"world".to_vec(), Vec::new()];
            (0..1000)
                .map(|_| {
                    mutate(&mut input, &others, &mut random);
                    input.clone()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
        assert!(inputs(1).iter().all(|input| input.len() <= INPUT_BYTES_MAX));
    }
}
