//! An addition to the head in which few tokens take part.

use super::EngineError;

/// The directions there are.
pub const HEAD_RANK: usize = 2;

/// While no more than one token in so many takes part, their rows alone are added: they lie apart, which costs
/// more for each.
const FEW: usize = 4;

/// `B A` of rank 2 beside the head, added to a sequence's logits where they are computed
/// ([`LanguageModel::attach_head`](super::LanguageModel::attach_head)).
///
/// Unlike a [`LowRank`](super::LowRank) at the head it costs what its rows other than zero cost, and is made from
/// them in no time: an addition for one request.
///
/// # Shapes
///
/// `a` is `[2, E]`; B has a row for each token named, or for all V.
///
/// # Numerics
///
/// `z_k ← z_k + (B_k0 (A h)_0 + B_k1 (A h)_1)` in f32, after a cap on the logits; tokens that take no part keep every
/// bit.
#[derive(Clone, Debug, PartialEq)]
pub struct HeadRows {
    vocab_size: usize,
    width: usize,
    a: Vec<f32>,
    /// Ascending; none where all tokens take part.
    tokens: Option<Vec<u32>>,
    b: Vec<[f32; HEAD_RANK]>,
}

/// Returns A h, `a` being `[2, E]`.
///
/// # Panics
///
/// If the widths differ.
#[must_use]
pub fn project(a: &[f32], hidden: &[f32]) -> [f32; HEAD_RANK] {
    assert!(a.len() == HEAD_RANK * hidden.len(), "{} values, {} wanted", hidden.len(), a.len() / HEAD_RANK);
    let dot = |row: &[f32]| {
        const LANES: usize = 16;
        let mut sums = [0.0f32; LANES];
        let (rows, tail) = row.as_chunks::<LANES>();
        let (inputs, rest) = hidden.as_chunks::<LANES>();
        for (row, input) in rows.iter().zip(inputs) {
            sums.iter_mut().zip(row.iter().zip(input)).for_each(|(sum, (a, h))| *sum += a * h);
        }
        sums.iter().sum::<f32>() + tail.iter().zip(rest).map(|(a, h)| a * h).sum::<f32>()
    };
    let (first, second) = a.split_at(hidden.len());
    [dot(first), dot(second)]
}

impl HeadRows {
    /// Returns the addition of all of B, `[V]` rows, of which those of `moved` may be other than zero; each row is
    /// multiplied by `factor`.
    ///
    /// # Panics
    ///
    /// If a token is not below V, or `a` is not two rows.
    #[must_use]
    pub fn new(a: Vec<f32>, b: &[[f32; HEAD_RANK]], moved: &[u32], factor: f32) -> Self {
        assert!(a.len().is_multiple_of(HEAD_RANK), "{} numbers are not {HEAD_RANK} rows", a.len());
        let row = |row: &[f32; HEAD_RANK]| row.map(|value| value * factor);
        let tokens = (moved.len() * FEW <= b.len()).then(|| {
            let mut tokens = moved.to_vec();
            tokens.sort_unstable();
            tokens
        });
        let rows = match &tokens {
            Some(tokens) => tokens.iter().map(|token| row(&b[*token as usize])).collect(),
            None => b.iter().map(row).collect(),
        };
        Self { vocab_size: b.len(), width: a.len() / HEAD_RANK, a, tokens, b: rows }
    }

    /// Returns V.
    #[must_use]
    pub fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    /// Checks that it is of a model's shape.
    ///
    /// # Errors
    ///
    /// If it is not.
    pub(super) fn check(&self, width: usize, vocab_size: usize) -> Result<(), EngineError> {
        if (self.width, self.vocab_size) == (width, vocab_size) {
            return Ok(());
        }
        let Self { width: inputs, vocab_size: tokens, .. } = self;
        let problem =
            format!("rows of a head of {tokens} tokens and {inputs} inputs, the model's is {vocab_size} and {width}");
        Err(EngineError::Adapter(problem))
    }

    /// Returns A h.
    ///
    /// # Panics
    ///
    /// If `hidden` has not the width of the head's input.
    #[must_use]
    pub fn project(&self, hidden: &[f32]) -> [f32; HEAD_RANK] {
        project(&self.a, hidden)
    }

    /// Adds to the logits of the tokens from `first` on.
    pub fn add(&self, projected: [f32; HEAD_RANK], first: usize, logits: &mut [f32]) {
        let add = |logit: &mut f32, row: &[f32; HEAD_RANK]| *logit += row[0] * projected[0] + row[1] * projected[1];
        let Some(tokens) = &self.tokens else {
            let rows = self.b.get(first..).unwrap_or_default();
            return logits.iter_mut().zip(rows).for_each(|(logit, row)| add(logit, row));
        };
        let start = tokens.partition_point(|token| (*token as usize) < first);
        for (token, row) in tokens[start..].iter().zip(&self.b[start..]) {
            let Some(logit) = logits.get_mut(*token as usize - first) else { break };
            add(logit, row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whichever_way_rows_are_kept_they_add_what_all_of_b_adds() {
        let vocab_size = 203;
        let a: Vec<f32> = (0..2 * 20).map(|at| (at as f32 * 0.7).sin()).collect();
        let hidden: Vec<f32> = (0..20).map(|at| (at as f32 * 0.3).cos()).collect();
        for count in [0, 1, 50, 51, 203] {
            let moved: Vec<u32> = (0..count).map(|at| (at * 88 + 5) % 203).collect();
            let mut b = vec![[0.0; 2]; vocab_size];
            moved.iter().for_each(|token| b[*token as usize] = [0.1 * (*token as f32).sin(), 1.0]);
            let rows = HeadRows::new(a.clone(), &b, &moved, 0.5);
            assert_eq!(rows.tokens.is_some(), count <= 50);
            let projected = rows.project(&hidden);
            let right: f32 = a[20..].iter().zip(&hidden).map(|(a, h)| a * h).sum();
            assert!((projected[1] - right).abs() <= 1e-5);
            let mut logits: Vec<f32> = (0..vocab_size).map(|at| -0.25 * at as f32).collect();
            let plain = logits.clone();
            for part in [0..8, 8..96, 96..203] {
                rows.add(projected, part.start, &mut logits[part]);
            }
            for (token, (found, plain)) in logits.iter().zip(&plain).enumerate() {
                let [x, y] = b[token].map(|value| 0.5 * value);
                assert_eq!(*found, plain + (x * projected[0] + y * projected[1]), "{count} {token}");
            }
            assert!(rows.check(20, 203).is_ok() && rows.check(20, 204).is_err() && rows.check(21, 203).is_err());
        }
    }
}
