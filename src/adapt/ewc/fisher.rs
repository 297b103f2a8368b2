//! The diagonal of the Fisher information, `F_i = E_x Σ_y p(y|x) (∂_i ln p(y|x))²`, and what is often taken
//! for it (arXiv 1905.12558).
use rand::Rng;

/// A model of labels, at the parameters in question, with its data.
pub trait Classifier {
    /// Returns how many parameters it has.
    fn parameters(&self) -> usize;
    /// Returns how many examples there are.
    fn examples(&self) -> usize;
    /// Returns the label an example has in the data.
    fn label(&self, example: usize) -> usize;
    /// Returns how likely the model holds each label.
    fn probabilities(&self, example: usize) -> Vec<f64>;
    /// Adds `∂ ln p(label | example)` times `weight`.
    fn add_score(&self, example: usize, label: usize, weight: f64, sum: &mut [f64]);
}

/// Whose gradients are squared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// All labels, weighted by the model: the Fisher information itself.
    Exact,
    /// One label drawn from the model for each example: unbiased.
    Sampled,
    /// As `Sampled`, but gradients are summed over a batch before they are squared, and the square is
    /// divided by its size: unbiased still, because scores of drawn labels have mean 0, so that all cross
    /// terms vanish. One backward pass a batch.
    SampledBatch(usize),
    /// The data's label of each example: not the Fisher information, but near it where the model fits.
    Empirical,
    /// The square of a batch's mean gradient with the data's labels: about the batch's size too small, and
    /// mixed with the mean gradient. Found in much published code.
    Batched(usize),
}

/// Returns an estimate from all examples.
///
/// # Panics
///
/// If a batch has no examples.
#[must_use]
pub fn diagonal(model: &dyn Classifier, kind: Kind, random: &mut impl Rng) -> Vec<f64> {
    let (count, examples) = (model.parameters(), model.examples());
    let (mut fisher, mut score) = (vec![0.0; count], vec![0.0; count]);
    let mut square = |fisher: &mut [f64], labels: &[(usize, usize)], weight: f64| {
        score.fill(0.0);
        for (example, label) in labels {
            model.add_score(*example, *label, 1.0, &mut score);
        }
        fisher.iter_mut().zip(&score).for_each(|(sum, g)| *sum += weight * g * g);
    };
    let each = 1.0 / examples as f64;
    match kind {
        Kind::Exact => {
            for example in 0..examples {
                for (label, probability) in model.probabilities(example).into_iter().enumerate() {
                    square(&mut fisher, &[(example, label)], probability * each);
                }
            }
        }
        Kind::Sampled => {
            for example in 0..examples {
                let label = draw(&model.probabilities(example), random);
                square(&mut fisher, &[(example, label)], each);
            }
        }
        Kind::Empirical => {
            (0..examples).for_each(|example| square(&mut fisher, &[(example, model.label(example))], each));
        }
        Kind::SampledBatch(size) | Kind::Batched(size) => {
            let all: Vec<usize> = (0..examples).collect();
            let batches = all.len().div_ceil(size) as f64;
            for batch in all.chunks(size) {
                let own = |example: &usize| (*example, model.label(*example));
                let (labels, weight): (Vec<_>, f64) = if let Kind::Batched(_) = kind {
                    (batch.iter().map(own).collect(), 1.0 / (batch.len() as f64).powi(2) / batches)
                } else {
                    (batch.iter().map(|e| (*e, draw(&model.probabilities(*e), random))).collect(), each)
                };
                square(&mut fisher, &labels, weight);
            }
        }
    }
    fisher
}

/// Returns a label drawn by its probability.
#[must_use]
pub fn draw(probabilities: &[f64], random: &mut impl Rng) -> usize {
    let mut left = random.random::<f64>() * probabilities.iter().sum::<f64>();
    for (label, probability) in probabilities.iter().enumerate() {
        left -= probability;
        if left < 0.0 {
            return label;
        }
    }
    probabilities.len().saturating_sub(1)
}
