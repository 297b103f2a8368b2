//! Directions as a few bits, of which two are as often alike as the directions are near.
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab_kernels::DISTANCES_A_MASK;

/// Words of 64 bits in a sketch.
pub(super) const WORDS: usize = 2;

/// About so many distances tell how many there are of each.
const SOME: usize = 512;

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

/// Places of sketches that are near to one, and room to find them in that is used again.
#[derive(Clone, Debug, Default)]
pub(super) struct Places {
    /// In order.
    pub(super) nearest: Vec<u32>,
    distances: Vec<u8>,
    masks: Vec<u64>,
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

    /// Leaves in `places` those of about `count` sketches, those that differ from this one in the fewest bits; twice as
    /// many at the most. How far they may be is told by some of all.
    pub(super) fn nearest(&self, sketch: [u64; WORDS], count: usize, places: &mut Places) {
        let kernels = ruvlab_kernels::active();
        let [first, second] = &self.0;
        let Places { nearest, distances, masks } = places;
        distances.resize(first.len(), 0);
        kernels.bit_distances([first, second], sketch, distances);
        let stride = (distances.len() / SOME).max(1);
        let mut counts = [0usize; 64 * WORDS + 1];
        distances.iter().step_by(stride).for_each(|distance| counts[usize::from(*distance)] += 1);
        let mut left = count.div_ceil(stride);
        let enough = counts.iter().position(|count| {
            left = left.saturating_sub(*count);
            left == 0
        });
        let limit = enough.unwrap_or(counts.len()) as u8;
        masks.resize(distances.len().div_ceil(DISTANCES_A_MASK), 0);
        kernels.within(distances, limit, masks);
        nearest.clear();
        for (start, mut near) in (0..).step_by(DISTANCES_A_MASK).zip(masks.iter().copied()) {
            while near > 0 {
                nearest.push(start + near.trailing_zeros());
                near &= near - 1;
            }
        }
        nearest.truncate(2 * count);
    }
}
