//! Requests kept to be learned again.
use rand::Rng;

use super::Trajectory;

/// A fair sample of all requests that were offered: each is in it with the same probability (Vitter 1985,
/// algorithm R).
#[derive(Clone, Debug, PartialEq)]
pub struct Reservoir {
    capacity: usize,
    offered: u64,
    kept: Vec<Trajectory>,
}

impl Reservoir {
    /// Returns an empty one with room for so many, at least one.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        Self { capacity: capacity.max(1), offered: 0, kept: Vec::new() }
    }

    pub(super) fn of(capacity: usize, offered: u64, kept: Vec<Trajectory>) -> Self {
        Self { capacity, offered, kept }
    }

    /// Takes a request in, in place of another where there is no room, or not at all; returns whether.
    pub fn offer(&mut self, trajectory: Trajectory, random: &mut impl Rng) -> bool {
        self.offered += 1;
        if self.kept.len() < self.capacity {
            self.kept.push(trajectory);
            return true;
        }
        let place = random.random_range(0..self.offered);
        match usize::try_from(place).ok().and_then(|place| self.kept.get_mut(place)) {
            Some(kept) => {
                *kept = trajectory;
                true
            }
            None => false,
        }
    }

    /// Returns the requests it has.
    #[must_use]
    pub fn kept(&self) -> &[Trajectory] {
        &self.kept
    }

    /// Puts other keys in the place of the requests' own, in their order.
    pub(super) fn rekey(&mut self, keys: Vec<Vec<f32>>) {
        self.kept.iter_mut().zip(keys).for_each(|(one, key)| one.key = key);
    }

    /// Returns how many it can have.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// Returns how many were offered.
    #[must_use]
    pub fn offered(&self) -> u64 {
        self.offered
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    use super::*;

    fn numbered(id: u64) -> Trajectory {
        Trajectory { id, prompt: vec![1], answer: vec![2], key: Vec::new() }
    }

    #[test]
    fn every_request_is_kept_with_the_same_probability() {
        const OFFERED: u64 = 40;
        const ROUNDS: u64 = 4000;
        let mut random = ChaCha8Rng::seed_from_u64(9);
        let mut kept = [0u32; OFFERED as usize];
        for _ in 0..ROUNDS {
            let mut reservoir = Reservoir::new(10);
            (0..OFFERED).for_each(|id| _ = reservoir.offer(numbered(id), &mut random));
            assert_eq!((reservoir.kept().len(), reservoir.offered()), (10, OFFERED));
            reservoir.kept().iter().for_each(|one| kept[one.id as usize] += 1);
        }
        // Binomial: 1000 expected, a standard deviation of 27.
        let (least, most) = (kept.iter().min().unwrap(), kept.iter().max().unwrap());
        assert!((880..=1120).contains(least) && (880..=1120).contains(most), "{kept:?}");
        let early: u32 = kept[..20].iter().sum();
        assert!((19_600..=20_400).contains(&early), "{early}");
    }
}
