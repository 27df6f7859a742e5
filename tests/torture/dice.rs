//! Chance that can be repeated: everything a round does is drawn from the seed and the round's number.

/// A generator (splitmix64); what it gives is the same on every machine.
pub struct Dice(u64);

impl Dice {
    /// For one part of one round, so that rounds, and their parts, don't depend on what others drew.
    pub fn of(seed: u64, round: u64, part: u64) -> Self {
        let mut dice = Self(seed);
        for more in [round, part] {
            dice.0 = dice.next() ^ more.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        }
        dice
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        bits ^ (bits >> 31)
    }

    /// A number from 0, less than `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    pub fn one_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }

    pub fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }
}
