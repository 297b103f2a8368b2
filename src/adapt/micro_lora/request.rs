//! What a request leaves behind when it was decoded.
use super::{MicroLoraError, RANK};
use crate::model::sampler::{TopK, greatest};

/// The fewest logits whose greatest is found at a time, and the most: so few that there are several times as many
/// blocks as logits are wanted.
const BLOCK: (usize, usize) = (16, 128);
const BLOCKS: usize = 8;

/// The cached results of one request: of each position A h, its likeliest tokens with their
/// probabilities, and the token that came. Its buffers are kept from request to request.
#[derive(Clone, Debug)]
pub struct Request {
    vocab_size: usize,
    /// k.
    top_k: usize,
    /// k and one more, to whole vectors of four.
    width: usize,
    /// Logits whose greatest is found at a time.
    block: usize,
    projected: Vec<[f32; RANK]>,
    /// `[positions, width]`: the likeliest tokens, then the one that came, then it again.
    tokens: Vec<u32>,
    /// Their probabilities; 0 where a token is there already.
    probabilities: Vec<f32>,
    /// Probability less 1 for the token that came.
    errors: Vec<f32>,
    /// Where the token that came stands in `tokens`.
    came: Vec<u32>,
    losses: Vec<f64>,
    /// The greatest logit of each block, and its number.
    blocks: Vec<(f32, u32)>,
    candidates: Vec<(f32, u32)>,
}

impl Request {
    pub(super) fn with_capacity(vocab_size: usize, top_k: usize, positions: usize) -> Self {
        let top_k = top_k.min(vocab_size);
        let width = (top_k + 1).next_multiple_of(4);
        let all = width * positions;
        let block = (vocab_size / (BLOCKS * top_k).max(1)).next_power_of_two().clamp(BLOCK.0, BLOCK.1);
        Self {
            vocab_size,
            top_k,
            width,
            block,
            projected: Vec::with_capacity(positions),
            tokens: Vec::with_capacity(all),
            probabilities: Vec::with_capacity(all),
            errors: Vec::with_capacity(all),
            came: Vec::with_capacity(positions),
            losses: Vec::with_capacity(positions),
            blocks: Vec::with_capacity(vocab_size.div_ceil(block)),
            candidates: Vec::with_capacity(vocab_size.min(top_k * block)),
        }
    }

    /// Forgets all positions.
    pub fn clear(&mut self) {
        self.projected.clear();
        self.tokens.clear();
        self.probabilities.clear();
        self.errors.clear();
        self.came.clear();
        self.losses.clear();
    }

    /// Returns how many of the likeliest tokens of a position it takes.
    #[must_use]
    pub fn top_k(&self) -> usize {
        self.top_k
    }

    /// Returns how many positions it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.projected.len()
    }

    /// Returns whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.projected.is_empty()
    }

    /// Returns the negative log-likelihood of each position's token, in nats, under the whole vocabulary.
    #[must_use]
    pub fn losses(&self) -> &[f64] {
        &self.losses
    }

    /// Returns their mean, 0 of none.
    #[must_use]
    pub fn mean_loss(&self) -> f64 {
        if self.losses.is_empty() { 0.0 } else { self.losses.iter().sum::<f64>() / self.losses.len() as f64 }
    }

    /// Takes note of a position: A h of the adapter, the logits with its addition, and the token that came.
    /// Returns `ln Σ exp` of the logits.
    ///
    /// # Errors
    ///
    /// If the token or the logits are not of the vocabulary, or the logits are no numbers; the position is
    /// left out then.
    pub fn record(&mut self, projected: [f32; RANK], logits: &[f32], came: u32) -> Result<f64, MicroLoraError> {
        self.record_normalised(projected, logits, ruvlab_kernels::log_sum_exp_f32(logits), came)
    }

    /// Does what [`Self::record`] does, where `ln Σ exp` of the logits is known already.
    ///
    /// # Errors
    ///
    /// As [`Self::record`].
    pub fn record_normalised(
        &mut self,
        projected: [f32; RANK],
        logits: &[f32],
        normaliser: f64,
        came: u32,
    ) -> Result<f64, MicroLoraError> {
        let position = self.len();
        let wrong = |problem: String| MicroLoraError::Position { position, problem };
        if logits.len() != self.vocab_size || came as usize >= self.vocab_size {
            return Err(wrong(format!("token {came}, {} logits of {}", logits.len(), self.vocab_size)));
        }
        if !normaliser.is_finite() || !projected.iter().all(|value| value.is_finite()) {
            return Err(wrong(format!("the logarithm of the sum of its exponentials is {normaliser}")));
        }
        self.find_likeliest(logits);
        self.push(projected, normaliser, (came, logits[came as usize]));
        Ok(normaliser)
    }

    /// Takes note of a position as [`Request::record`] does, of its greatest logits alone and the normaliser of
    /// all; the token that came is among them, as one that was chosen of them is.
    ///
    /// # Errors
    ///
    /// If it is not, or the numbers are none.
    pub fn record_top_k(
        &mut self,
        projected: [f32; RANK],
        greatest: &TopK,
        normaliser: f64,
        came: u32,
    ) -> Result<(), MicroLoraError> {
        let position = self.len();
        let wrong = |problem: String| MicroLoraError::Position { position, problem };
        let entries = greatest.entries().map_err(|error| wrong(error.to_string()))?;
        if !normaliser.is_finite() || !projected.iter().all(|value| value.is_finite()) {
            return Err(wrong(format!("the logarithm of the sum of its exponentials is {normaliser}")));
        }
        let of_came = entries.iter().find(|(token, _)| *token == came);
        let (_, logit) = *of_came.ok_or_else(|| wrong(format!("token {came} is not among the likeliest")))?;
        if entries.iter().any(|(token, _)| *token as usize >= self.vocab_size) {
            return Err(wrong(format!("its tokens are not among {}", self.vocab_size)));
        }
        self.candidates.clear();
        self.candidates.extend(entries.iter().take(self.top_k).map(|(token, logit)| (*logit, *token)));
        self.push(projected, normaliser, (came, logit));
        Ok(())
    }

    /// Adds a position with the tokens in `candidates`.
    fn push(&mut self, projected: [f32; RANK], normaliser: f64, (came, logit): (u32, f32)) {
        let start = self.tokens.len();
        let mut at = None;
        for (logit, token) in self.candidates.iter().copied() {
            let probability = (f64::from(logit) - normaliser).exp() as f32;
            let is_it = token == came;
            if is_it {
                at = Some(self.tokens.len());
            }
            self.tokens.push(token);
            self.probabilities.push(probability);
            self.errors.push(probability - f32::from(u8::from(is_it)));
        }
        let loss = normaliser - f64::from(logit);
        if at.is_none() {
            at = Some(self.tokens.len());
            let probability = (-loss).exp() as f32;
            self.tokens.push(came);
            self.probabilities.push(probability);
            self.errors.push(probability - 1.0);
        }
        self.tokens.resize(start + self.width, came);
        self.probabilities.resize(start + self.width, 0.0);
        self.errors.resize(start + self.width, 0.0);
        self.came.push(at.unwrap_or(start) as u32);
        self.projected.push(projected);
        self.losses.push(loss);
    }

    /// Leaves the `top_k` greatest logits in `candidates`, in no order; of equals the first ones.
    ///
    /// The k greatest lie in those k blocks whose greatest are the k greatest: a block without one of them
    /// would have k logits before it, one in each of the others.
    fn find_likeliest(&mut self, logits: &[f32]) {
        let Self { blocks, candidates, top_k, block: length, .. } = self;
        let length = *length;
        let before = |a: &(f32, u32), b: &(f32, u32)| b.0.total_cmp(&a.0).then(a.1.cmp(&b.1));
        blocks.clear();
        blocks.extend(logits.chunks(length).map(greatest).zip(0..));
        let kept = (*top_k).min(blocks.len());
        let all = kept == blocks.len();
        if !all {
            blocks.select_nth_unstable_by(kept - 1, before);
        }
        let least = blocks[..kept].iter().fold(f32::INFINITY, |least, (value, _)| least.min(*value));
        candidates.clear();
        for (_, block) in &blocks[..kept] {
            let start = *block as usize * length;
            let values = &logits[start..(start + length).min(logits.len())];
            let ids = start as u32..;
            candidates.extend(values.iter().copied().zip(ids).filter(|(value, _)| all || *value >= least));
        }
        if *top_k < candidates.len() {
            candidates.select_nth_unstable_by(*top_k - 1, before);
            candidates.truncate(*top_k);
        }
    }

    /// Returns how likely the likeliest token of each position was.
    pub fn sure(&self) -> impl Iterator<Item = f32> {
        self.probabilities.chunks_exact(self.width).map(|row| row.iter().copied().fold(0.0, f32::max))
    }

    pub(super) fn width(&self) -> usize {
        self.width
    }

    pub(super) fn projected(&self) -> &[[f32; RANK]] {
        &self.projected
    }

    pub(super) fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    pub(super) fn probabilities(&self) -> &[f32] {
        &self.probabilities
    }

    pub(super) fn errors(&self) -> &[f32] {
        &self.errors
    }

    pub(super) fn came(&self) -> &[u32] {
        &self.came
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likeliest_are_found_with_their_probabilities() {
        let mut state = 7u64;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            ((state >> 40) as f32 / (1u64 << 24) as f32 - 0.5) * 12.0
        };
        for (vocab_size, top_k) in [(1, 32), (5, 2), (33, 32), (64, 64), (1000, 1), (5000, 32), (4097, 7)] {
            for equal in [false, true] {
                let logits: Vec<f32> = (0..vocab_size).map(|_| if equal { next().round() } else { next() }).collect();
                let mut request = Request::with_capacity(vocab_size, top_k, 1);
                request.record([1.0, 2.0], &logits, 0).unwrap();
                let mut order: Vec<usize> = (0..vocab_size).collect();
                order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]));
                let count = top_k.min(vocab_size);
                let mut found: Vec<f32> = request.tokens[..count].iter().map(|token| logits[*token as usize]).collect();
                found.sort_by(|a, b| b.total_cmp(a));
                let right: Vec<f32> = order[..count].iter().map(|token| logits[*token]).collect();
                assert!(found == right, "{vocab_size} {top_k} {equal}");
                let mut distinct = request.tokens[..count].to_vec();
                distinct.sort_unstable();
                distinct.dedup();
                assert_eq!(distinct.len(), count);
                let total: f64 = logits.iter().map(|x| f64::from(*x).exp()).sum();
                for (token, probability) in request.tokens.iter().zip(&request.probabilities) {
                    let right = f64::from(logits[*token as usize]).exp() / total;
                    assert!(*probability == 0.0 || (f64::from(*probability) - right).abs() <= 1e-6);
                }
                assert_eq!(request.tokens[request.came[0] as usize], 0);
                let error: f32 =
                    request.errors[request.came[0] as usize] - request.probabilities[request.came[0] as usize];
                assert!((error + 1.0).abs() <= 1e-6);
            }
        }
    }

    #[test]
    fn what_is_no_position_is_refused_and_leaves_nothing() {
        let mut request = Request::with_capacity(4, 2, 1);
        for (logits, came) in [(&[0.0, f32::NAN, 0.0, 0.0][..], 0), (&[0.0; 4], 4), (&[0.0; 3], 0)] {
            assert!(request.record([0.0; RANK], logits, came).is_err());
        }
        assert!(request.record([f32::INFINITY, 0.0], &[0.0; 4], 0).is_err());
        let two = TopK::of(&[0.0, 3.0, 2.0, 1.0], 2);
        for (list, normaliser, came) in [
            (&two, 4.0, 3),
            (&two, f64::NAN, 1),
            (&TopK::of(&[f32::NAN; 4], 2), 4.0, 1),
            (&TopK::of(&[0.0, 1.0, 2.0, 3.0, 4.0], 2), 4.0, 3),
        ] {
            assert!(request.record_top_k([0.0; RANK], list, normaliser, came).is_err());
        }
        assert!(request.is_empty() && request.tokens.is_empty());
    }
}
