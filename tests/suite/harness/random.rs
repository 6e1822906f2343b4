//! Numbers that look random, the same for the same seed.

/// Xorshift: small, and good enough to choose what a test does next.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// Any seed will do.
    pub fn new(seed: u64) -> Random {
        Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// The next 64 bits; never all zero.
    pub fn bits(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// A number from zero up to, but not including, `n`.
    pub fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.bits() >> 33).expect("31 bits") % n
    }
}
