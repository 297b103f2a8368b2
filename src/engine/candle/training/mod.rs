//! Losses and gradients of low-rank adapters over a frozen model.
//!
//! Products run in f32 on the matrices as stored, dequantized when they are needed, or once and for all.
//! The backward pass goes layer by layer: of each layer only its input is a leaf, so a layer's graph is
//! dropped as soon as it is passed, nothing below the lowest adapter is recorded, and with
//! [`TraineeSettings::recompute`] no graph is kept at all but built again when its turn comes (gradient
//! checkpointing, arXiv 1604.06174). Logits exist for [`HEAD_ROWS`] positions at a time.
mod executor;
mod operations;

use std::collections::BTreeMap;

use candle_core::{CustomOp1, CustomOp3, Device, Tensor, Var};

use super::weights::{Gated, Model, Projections};
use crate::{
    engine::{
        Adapter, EngineError,
        adapter::check,
        places::{Place, Target},
    },
    model::{
        decoder::{Executor, Segment, Step, walk_layer},
        spec::ModelSpec,
        weights::Weights,
    },
};
use executor::{Learner, Pair};
use operations::{Adapted, Frozen, RmsNorm, likelihood};

const NAME: &str = "candle";

/// Positions whose logits exist at once.
const HEAD_ROWS: usize = 64;

/// How a model is held while adapters learn.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TraineeSettings {
    /// Whether matrices are widened to f32 once, which takes four bytes a weight, and not at every use.
    pub widen: bool,
    /// Whether activations are computed again in the backward pass, and not kept.
    pub recompute: bool,
}

/// A sequence to score.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scored<'a> {
    /// Its tokens, at least two.
    pub tokens: &'a [u32],
    /// Tokens at its beginning that are not scored, such as a prompt; the first token never is.
    pub prompt: usize,
}

impl Scored<'_> {
    /// Returns how many of its tokens are scored.
    #[must_use]
    pub fn count(&self) -> usize {
        self.tokens.len().saturating_sub(self.prompt.max(1))
    }
}

/// The gradients of A and B of each place.
pub type Gradients = BTreeMap<Place, (Vec<f32>, Vec<f32>)>;

/// A frozen model with adapters that learn.
pub struct Trainee {
    model: Model,
    pairs: BTreeMap<Place, Pair>,
    settings: TraineeSettings,
}

impl Trainee {
    /// Returns the model with these changes, which are what learns.
    ///
    /// # Errors
    ///
    /// If the weights lack something, a change does not fit its matrix, or its matrix is stored in one
    /// with others.
    pub fn load(weights: &Weights, adapter: &Adapter, settings: TraineeSettings) -> Result<Self, EngineError> {
        let mut model = Model::load(weights, weights.spec().context_length)?;
        if settings.widen {
            widen(&mut model)?;
        }
        let mut trainee = Self { model, pairs: BTreeMap::new(), settings };
        check(adapter, &trainee.model.spec)?;
        for (place, change) in adapter {
            trainee.check_separate(*place)?;
            let (out, width) = place.target.shape(&trainee.model.spec);
            let var = |values: &[f32], shape| Var::from_vec(values.to_vec(), shape, &Device::Cpu);
            let (a, b) = (var(&change.a, (change.rank, width))?, var(&change.b, (out, change.rank))?);
            trainee.pairs.insert(*place, Pair { a, b, scale: change.scale.into() });
        }
        Ok(trainee)
    }

    fn check_separate(&self, place: Place) -> Result<(), EngineError> {
        let spec = &self.model.spec;
        let fused = match place.target {
            Target::Query | Target::Key | Target::Value => spec.fused_query_key_value,
            Target::Gate | Target::Up => spec.fused_gate_up,
            Target::Output | Target::Down | Target::Head => false,
        };
        if !fused {
            return Ok(());
        }
        let what = format!("train an adapter of the {place}, which this model stores in one matrix with others");
        Err(EngineError::Unsupported { engine: NAME, what })
    }

    /// Returns the shape of the model.
    #[must_use]
    pub fn spec(&self) -> &ModelSpec {
        &self.model.spec
    }

    /// Puts other values in the place of a change's own; places that do not learn are left out.
    ///
    /// # Errors
    ///
    /// If they are more or fewer.
    pub fn set(&mut self, place: Place, a: &[f32], b: &[f32]) -> Result<(), EngineError> {
        if let Some(pair) = self.pairs.get(&place) {
            for (var, values) in [(&pair.a, a), (&pair.b, b)] {
                var.set(&Tensor::from_slice(values, var.shape(), &Device::Cpu)?)?;
            }
        }
        Ok(())
    }

    /// Returns the sum of the negative log-likelihoods of all scored tokens, in nats.
    ///
    /// # Errors
    ///
    /// If a sequence is too short or long or has an unknown token, or candle fails.
    pub fn loss(&self, sequences: &[Scored<'_>]) -> Result<f64, EngineError> {
        let step = self.step(sequences)?;
        let mut learner = Learner::new(&self.model, &self.pairs, &step);
        let mut hidden = learner.embed(&step)?;
        for layer in 0..self.model.spec.layers {
            hidden = walk_layer(&mut learner, layer, hidden, &step)?.detach();
        }
        Ok(self.score(sequences, &hidden, None)?.0)
    }

    /// Adds the gradients of `weight` times the sum that [`Self::loss`] returns, and returns that sum.
    ///
    /// # Errors
    ///
    /// As [`Self::loss`].
    pub fn accumulate(
        &self,
        sequences: &[Scored<'_>],
        weight: f64,
        gradients: &mut Gradients,
    ) -> Result<f64, EngineError> {
        let step = self.step(sequences)?;
        let layers = self.model.spec.layers;
        let lowest = self.pairs.keys().map(|place| place.layer).min().unwrap_or(layers);
        let mut learner = Learner::new(&self.model, &self.pairs, &step);
        let mut hidden = learner.embed(&step)?;
        // What each layer took in, a leaf where something below learns, and its graph.
        let mut passed: Vec<(Tensor, Option<Tensor>)> = Vec::with_capacity(layers);
        for layer in 0..layers {
            let input = if layer > lowest { Var::from_tensor(&hidden)?.into_inner() } else { hidden };
            let output = walk_layer(&mut learner, layer, input.clone(), &step)?;
            hidden = output.detach();
            passed.push((input, (layer >= lowest && !self.settings.recompute).then_some(output)));
        }
        let (loss, grad) = self.score(sequences, &hidden, Some((weight, gradients)))?;
        let Some(mut grad) = grad else { return Ok(loss) };
        for layer in (lowest..layers).rev() {
            let Some((input, output)) = passed.pop() else { break };
            let output = match output {
                Some(output) => output,
                None => walk_layer(&mut learner, layer, input.clone(), &step)?,
            };
            let found = (output * &grad)?.sum_all()?.backward()?;
            for (place, pair) in self.pairs.iter().filter(|(place, _)| place.layer == layer) {
                let (a, b) = (found.get(pair.a.as_tensor()), found.get(pair.b.as_tensor()));
                if let (Some(a), Some(b)) = (a, b) {
                    add(gradients, *place, a, b)?;
                }
            }
            match found.get(&input) {
                Some(below) if layer > lowest => grad = below.clone(),
                _ => break,
            }
        }
        Ok(loss)
    }

    fn step(&self, sequences: &[Scored<'_>]) -> Result<Step, EngineError> {
        let (vocab_size, context_length) = (self.model.spec.vocab_size, self.model.spec.context_length);
        let mut step = Step::default();
        for (index, Scored { tokens, prompt: _ }) in (0..).zip(sequences) {
            let inputs = tokens.len().saturating_sub(1);
            if inputs == 0 {
                return Err(EngineError::EmptyChunk);
            }
            if inputs > context_length {
                return Err(EngineError::ContextFull { needed: inputs, context_length });
            }
            if let Some(&token) = tokens.iter().find(|token| **token as usize >= vocab_size) {
                return Err(EngineError::TokenOutOfRange { token, vocab_size });
            }
            let start = step.tokens.len();
            step.tokens.extend(&tokens[..inputs]);
            step.positions.extend((0u32..).take(inputs));
            step.segments.push(Segment { sequence: index, rows: start..start + inputs, past: 0 });
        }
        if step.segments.is_empty() { Err(EngineError::EmptyChunk) } else { Ok(step) }
    }

    /// Returns the loss and, where gradients are wanted, that of the last layer's output.
    fn score(
        &self,
        sequences: &[Scored<'_>],
        hidden: &Tensor,
        mut wanted: Option<(f64, &mut Gradients)>,
    ) -> Result<(f64, Option<Tensor>), EngineError> {
        let spec = &self.model.spec;
        let norm = RmsNorm { weight: self.model.output_norm.clone(), eps: spec.rms_norm_eps as f32 };
        let normed = hidden.apply_op1_no_bwd(&norm)?;
        // The token each row predicts, where it is scored.
        let target = |sequence: &Scored<'_>| {
            let prompt = sequence.prompt;
            let scored = move |(at, token): (usize, &u32)| (at >= prompt).then_some(*token as usize);
            sequence.tokens.iter().enumerate().skip(1).map(scored).collect::<Vec<_>>()
        };
        let targets: Vec<Option<usize>> = sequences.iter().flat_map(target).collect();
        let place = Place { layer: spec.layers, target: Target::Head };
        let pair = self.pairs.get(&place);
        let frozen = || Frozen(self.model.output.clone());
        let (mut loss, mut grads) = (0.0, Vec::new());
        for (chunk, targets) in targets.chunks(HEAD_ROWS).enumerate() {
            let rows = normed.narrow(0, chunk * HEAD_ROWS, targets.len())?.contiguous()?;
            let adapted = pair.map(|pair| {
                (
                    Adapted { frozen: frozen(), scale: pair.scale, wants_input: true },
                    pair.a.as_tensor(),
                    pair.b.as_tensor(),
                )
            });
            let logits = match &adapted {
                None => rows.apply_op1_no_bwd(&frozen())?,
                Some((adapted, a, b)) => rows.apply_op3_no_bwd(a, b, adapted)?,
            };
            let mut logits = logits.flatten_all()?.to_vec1::<f32>()?;
            for (row, target) in logits.chunks_exact_mut(spec.vocab_size).zip(targets) {
                let Some(target) = *target else {
                    row.fill(0.0);
                    continue;
                };
                let slopes = spec.logit_softcap.map(|cap| soften(row, cap as f32));
                loss += likelihood(row, target);
                if let Some(slopes) = slopes {
                    row.iter_mut().zip(slopes).for_each(|(grad, slope)| *grad *= slope);
                }
            }
            let Some((weight, gradients)) = &mut wanted else { continue };
            let grad = (Tensor::from_vec(logits, (targets.len(), spec.vocab_size), &Device::Cpu)? * *weight)?;
            grads.extend(match &adapted {
                None => frozen().bwd(&rows, &rows, &grad)?,
                Some((adapted, a, b)) => {
                    let (rows, a, b) = adapted.bwd(&rows, a, b, &grad, &grad)?;
                    if let (Some(a), Some(b)) = (a, b) {
                        add(gradients, place, &a, &b)?;
                    }
                    rows
                }
            });
        }
        if wanted.is_none() {
            return Ok((loss, None));
        }
        Ok((loss, norm.bwd(hidden, hidden, &Tensor::cat(&grads, 0)?)?))
    }
}

/// Bends logits to below `cap` and returns the slope of each.
fn soften(row: &mut [f32], cap: f32) -> Vec<f32> {
    row.iter_mut()
        .map(|x| {
            let bent = (*x / cap).tanh();
            *x = cap * bent;
            1.0 - bent * bent
        })
        .collect()
}

fn add(gradients: &mut Gradients, place: Place, a: &Tensor, b: &Tensor) -> Result<(), EngineError> {
    let (a, b) = (a.flatten_all()?.to_vec1::<f32>()?, b.flatten_all()?.to_vec1::<f32>()?);
    let sums = gradients.entry(place).or_insert_with(|| (vec![0.0; a.len()], vec![0.0; b.len()]));
    for (sum, more) in [(&mut sums.0, a), (&mut sums.1, b)] {
        sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
    }
    Ok(())
}

/// Widens all matrices but the embedding.
fn widen(model: &mut Model) -> Result<(), EngineError> {
    use super::linear::Linear;
    let widen = |linear: &mut Linear| -> Result<(), EngineError> {
        *linear = Linear::Dense(linear.dense()?);
        Ok(())
    };
    for layer in &mut model.layers {
        match &mut layer.projections {
            Projections::Separate(matrices) => matrices.iter_mut().try_for_each(widen)?,
            Projections::Fused(matrix) => widen(matrix)?,
        }
        match &mut layer.gated {
            Gated::Separate { gate, up } => [gate, up].into_iter().try_for_each(widen)?,
            Gated::Fused(matrix) => widen(matrix)?,
        }
        widen(&mut layer.attention_output)?;
        widen(&mut layer.down)?;
    }
    widen(&mut model.output)
}
