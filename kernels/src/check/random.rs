//! Deterministic numbers and weights for the suites.
use half::{bf16, f16};

use crate::format::Format;

/// A sequence of numbers that a seed fixes (splitmix64).
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) fn bits(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Returns a number in [-1, 1).
    pub(crate) fn unit(&mut self) -> f32 {
        (self.bits() >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    }

    /// Returns numbers of about unit variance, now and then one of ten times that.
    pub(crate) fn row(&mut self, n: usize) -> Vec<f32> {
        let outlier = |random: &mut Self| if random.bits().is_multiple_of(97) { 10.0 } else { 1.0 };
        (0..n).map(|_| (self.unit() + self.unit() + self.unit()) * outlier(self)).collect()
    }

    /// Returns the bytes of a matrix in a format: any codes, scales of about 0.01.
    pub(crate) fn matrix(&mut self, format: Format, rows: usize, columns: usize) -> Vec<u8> {
        let blocks = rows * columns / format.block_values();
        (0..blocks).flat_map(|_| self.block(format)).collect()
    }

    fn block(&mut self, format: Format) -> Vec<u8> {
        let mut bytes: Vec<u8> = (0..format.block_bytes()).map(|_| self.bits() as u8).collect();
        let scales: &[usize] = match format {
            Format::F32 => {
                return (self.unit() * 0.1).to_le_bytes().to_vec();
            }
            Format::F16 => return f16::from_f32(self.unit() * 0.1).to_le_bytes().to_vec(),
            Format::Bf16 => return bf16::from_f32(self.unit() * 0.1).to_le_bytes().to_vec(),
            Format::Q4_0 | Format::Q5_0 | Format::Q8_0 | Format::Q13_0 => &[0],
            Format::Q4_1 | Format::Q5_1 | Format::Q4K | Format::Q5K => &[0, 2],
            Format::Q2K => &[80, 82],
            Format::Q3K => &[108],
            Format::Q6K => &[208],
        };
        for at in scales {
            let scale = f16::from_f32(0.01 * (self.unit() + 0.1));
            bytes[*at..at + 2].copy_from_slice(&scale.to_le_bytes());
        }
        bytes
    }
}
