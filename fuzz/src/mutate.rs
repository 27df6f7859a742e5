//! Changes to bytes, at random and again the same from the same seed.

/// What decoders trip over.
const TOKENS: &[&[u8]] = &[
    b"\0",
    b"\xff",
    b"\xff\xff\xff\xff",
    b"\x7f",
    b"-1",
    b"0",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"{}",
    b"[]",
    b"\"\"",
    b"\"",
    b"\\u0000",
    b"\\ud800",
    b"\x1b[2J",
    b"\r\n",
    b"\n",
    b"%00",
    b"%",
    b"&",
    b"=",
    b";",
    b"/",
    b"../",
    b"::/0",
    b"0.0.0.0/33",
    b"\xc3",
    b"\xe2\x80\xae",
    b"\x80\x80\x80\x80\x80\x80",
    b"\x3f\xff\xff\xff\xff\x0f",
    b"[[[[[[[[[[[[[[[[",
];

/// Nothing is made longer than that.
const LONGEST: usize = 64 << 10;

/// xorshift64*: the seed alone decides.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// From a seed; 0 is the same as 1.
    pub fn new(seed: u64) -> Self {
        Self(seed.max(1))
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let bits = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(bits).unwrap_or_default() % limit.max(1)
    }

    fn byte(&mut self) -> u8 {
        u8::try_from(self.below(256)).unwrap_or_default()
    }

    fn one_of<T: Clone + Default>(&mut self, all: &[T]) -> T {
        all.get(self.below(all.len())).cloned().unwrap_or_default()
    }
}

/// One of `seeds` with a few changes, or its beginning with the end of another.
pub fn mutate(seeds: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut bytes = random.one_of(seeds);
    if random.below(8) == 0 {
        let other = random.one_of(seeds);
        bytes.truncate(random.below(bytes.len() + 1));
        bytes.extend_from_slice(other.get(random.below(other.len() + 1)..).unwrap_or_default());
    }
    for _ in 0..=random.below(6) {
        change(&mut bytes, random);
    }
    bytes.truncate(LONGEST);
    bytes
}

fn change(bytes: &mut Vec<u8>, random: &mut Random) {
    let at = random.below(bytes.len() + 1);
    let to = (at + 1 + random.below(40)).min(bytes.len());
    match random.below(7) {
        0 => bytes.truncate(at),
        1 => drop(bytes.drain(at..to)),
        2 => {
            let again = bytes.get(at..to).unwrap_or_default().to_vec();
            bytes.splice(at..at, again);
        }
        3 => {
            let token = random.one_of(TOKENS);
            bytes.splice(at..at, token.iter().copied());
        }
        4 => {
            let token = random.one_of(TOKENS);
            let end = (at + token.len()).min(bytes.len());
            bytes.splice(at..end, token.iter().copied());
        }
        5 => {
            let flip = 1 << random.below(8);
            bytes.get_mut(at).into_iter().for_each(|byte| *byte ^= flip);
        }
        _ => {
            let value = random.byte();
            bytes.get_mut(at).into_iter().for_each(|byte| *byte = value);
        }
    }
}
