//! Internet checksums from scratch.

/// A one's complement sum of words as they stand in the packet: the sum does not depend on the byte order (RFC 1071).
/// Room for four thousand million words before it overflows.
#[derive(Clone, Copy)]
pub(crate) struct Sum(u64);

impl Sum {
    #[inline(always)]
    pub(crate) fn of<const N: usize>(words: [u32; N]) -> Self {
        Self(0).plus(words)
    }

    #[inline(always)]
    pub(crate) fn plus<const N: usize>(mut self, words: [u32; N]) -> Self {
        let mut i = 0;
        while i < N {
            self.0 += words[i] as u64;
            i += 1;
        }
        self
    }

    /// Adds two bytes.
    #[inline(always)]
    pub(crate) fn plus_half(self, half: u16) -> Self {
        Self(self.0 + half as u64)
    }

    #[inline(always)]
    pub(crate) fn joined(self, other: Self) -> Self {
        Self(self.0 + other.0)
    }

    /// The sum in 16 bits: what a checksum field holds whose completion is left to the device.
    #[inline(always)]
    pub(crate) fn folded(self) -> u16 {
        let sum = (self.0 & 0xffff_ffff) + (self.0 >> 32);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        let sum = (sum & 0xffff) + (sum >> 16);
        sum as u16
    }

    /// The value of the checksum field.
    #[inline(always)]
    pub(crate) fn checksum(self) -> u16 {
        !self.folded()
    }
}

/// The word with its second half replaced.
#[inline(always)]
pub(crate) fn with_second_half(word: u32, half: u16) -> u32 {
    let [a, b, _, _] = word.to_ne_bytes();
    let [c, d] = half.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// The word with its first half replaced.
#[inline(always)]
pub(crate) fn with_first_half(word: u32, half: u16) -> u32 {
    let [_, _, c, d] = word.to_ne_bytes();
    let [a, b] = half.to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// The second half of a word.
#[inline(always)]
pub(crate) fn second_half(word: u32) -> u16 {
    let [_, _, c, d] = word.to_ne_bytes();
    u16::from_ne_bytes([c, d])
}

/// The first half of a word.
#[inline(always)]
pub(crate) fn first_half(word: u32) -> u16 {
    let [a, b, _, _] = word.to_ne_bytes();
    u16::from_ne_bytes([a, b])
}
