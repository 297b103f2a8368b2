//! Directions as a few bits, of which two are as often alike as the directions are near.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Words of 64 bits in a sketch.
pub(super) const WORDS: usize = 2;

/// About so many distances tell how many there are of each.
const SOME: usize = 512;

/// Distances that are compared at once.
const BLOCK: usize = 32;

/// What seeds the signs: sketches of one width are the same in every process.
const SEED: u64 = 0x5eed_51f7;

/// Turns vectors into sketches: random signs, a Walsh-Hadamard transform, and of what comes out the signs alone
/// (`SimHash`, Charikar 2002, by the structured rotation of Ailon and Chazelle 2009). Of two vectors at an angle φ a
/// bit differs with the probability φ/π.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Sketcher {
    signs: Vec<f32>,
    /// The power of two that is transformed.
    size: usize,
}

impl Sketcher {
    pub(super) fn new(width: usize) -> Self {
        let mut random = ChaCha8Rng::seed_from_u64(SEED);
        let signs = (0..width).map(|_| if random.random::<bool>() { 1.0 } else { -1.0 }).collect();
        Self { signs, size: width.next_power_of_two().max(64 * WORDS) }
    }

    /// Returns the sketch of a vector; `room` is overwritten.
    pub(super) fn sketch(&self, vector: &[f32], room: &mut Vec<f32>) -> [u64; WORDS] {
        room.clear();
        room.extend(vector.iter().zip(&self.signs).map(|(value, sign)| value * sign));
        room.resize(self.size, 0.0);
        // Of what the transform gives only so much is looked at, which is that of sums.
        let mut size = self.size;
        while size > 64 * WORDS {
            size /= 2;
            let (low, high) = room.split_at_mut(size);
            low.iter_mut().zip(&*high).for_each(|(low, high)| *low += high);
            room.truncate(size);
        }
        let mut half = size / 2;
        while half > 0 {
            for pair in room.chunks_exact_mut(2 * half) {
                let (low, high) = pair.split_at_mut(half);
                for (low, high) in low.iter_mut().zip(high) {
                    (*low, *high) = (*low + *high, *low - *high);
                }
            }
            half /= 2;
        }
        let mut words = [0; WORDS];
        for (word, values) in words.iter_mut().zip(room.as_chunks::<64>().0) {
            *word = (0..).zip(values).fold(0, |word, (bit, value)| word | u64::from(*value > 0.0) << bit);
        }
        words
    }
}

/// Sketches side by side, word by word, so that many are compared at once.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Sketches([Vec<u64>; WORDS]);

impl Sketches {
    pub(super) fn clear(&mut self) {
        self.0.iter_mut().for_each(Vec::clear);
    }

    /// Puts a sketch at a place, or after the last.
    pub(super) fn put(&mut self, at: usize, sketch: [u64; WORDS]) {
        for (words, word) in self.0.iter_mut().zip(sketch) {
            match words.get_mut(at) {
                Some(own) => *own = word,
                None => words.push(word),
            }
        }
    }

    /// Leaves in `nearest`, in order, the places of about `count` sketches, those that differ from this one in the
    /// fewest bits; twice as many at the most. How far they may be is told by some of all.
    pub(super) fn nearest(&self, sketch: [u64; WORDS], count: usize, room: &mut Vec<u8>, nearest: &mut Vec<u32>) {
        let [first, second] = &self.0;
        room.clear();
        room.extend(
            first
                .iter()
                .zip(second)
                .map(|(first, second)| ((first ^ sketch[0]).count_ones() + (second ^ sketch[1]).count_ones()) as u8),
        );
        let stride = (room.len() / SOME).max(1);
        let mut counts = [0usize; 64 * WORDS + 1];
        room.iter().step_by(stride).for_each(|distance| counts[usize::from(*distance)] += 1);
        let mut left = count.div_ceil(stride);
        let enough = counts.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        let limit = enough.unwrap_or(counts.len()) as u8;
        nearest.clear();
        let near = |block: &[u8]| (0..).zip(block).fold(0u32, |near, (at, d)| near | u32::from(*d <= limit) << at);
        let (blocks, rest) = room.as_chunks::<BLOCK>();
        let masks = blocks.iter().map(|block| near(block)).chain([near(rest)]);
        for (start, mut near) in (0..).step_by(BLOCK).zip(masks) {
            while near > 0 {
                nearest.push(start + near.trailing_zeros());
                near &= near - 1;
            }
        }
        nearest.truncate(2 * count);
    }
}
