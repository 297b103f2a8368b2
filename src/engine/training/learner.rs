//! The phases of a decoder layer, noting what the way back needs, and the way back.
//!
//! Sequences are whole: nothing is cached, and a step's segments begin at position 0.
use std::collections::BTreeMap;

use super::{
    Dropout,
    attention::Attention,
    changes::{Changed, Narrow, Pair, Sums},
    group::Group,
    layers::{Layer, Model},
    rows::{Turn, gate, gate_back, norm_row_back},
    workers::Workers,
};
use crate::{
    engine::{EngineError, places::Place},
    model::decoder::{Executor, Step},
};

/// What a layer made on its way.
#[derive(Default)]
pub(super) struct Tape {
    pub(super) input: Vec<f32>,
    normed: Vec<f32>,
    /// Queries and keys before their norms; nothing where there are none.
    raw: Vec<f32>,
    /// Rotated queries and keys, and values.
    heads: Vec<f32>,
    attended: Vec<f32>,
    /// Before its norm; nothing where there is none.
    projected: Vec<f32>,
    middle: Vec<f32>,
    middle_normed: Vec<f32>,
    both: Vec<f32>,
    gated: Vec<f32>,
    /// Before its norm; nothing where there is none.
    fed: Vec<f32>,
    narrows: Vec<Narrow>,
}

impl Tape {
    /// Returns the same without what can be computed again.
    pub(super) fn only_input(self) -> Self {
        Self { input: self.input, ..Self::default() }
    }
}

/// Runs layers of a step.
pub(super) struct Learner<'a> {
    model: &'a Model,
    pairs: &'a BTreeMap<Place, Pair>,
    workers: &'a Workers,
    step: &'a Step,
    dropout: Option<Dropout>,
    /// One for each kind of layer, in the order of their first.
    turns: Vec<(usize, Turn)>,
    /// Of the layer that ran last.
    pub(super) tape: Tape,
}

impl<'a> Learner<'a> {
    pub(super) fn new(
        model: &'a Model,
        pairs: &'a BTreeMap<Place, Pair>,
        workers: &'a Workers,
        step: &'a Step,
        dropout: Option<Dropout>,
    ) -> Self {
        let mut turns: Vec<(usize, Turn)> = Vec::new();
        for (index, layer) in model.layers.iter().enumerate() {
            if turns.iter().all(|(first, _)| !alike(&model.layers[*first], layer)) {
                let (cos, sin) = layer.frequencies.rotations(&step.positions);
                let turn = Turn { cos, sin, pairs: layer.frequencies.values.len(), layout: layer.layout };
                turns.push((index, turn));
            }
        }
        Self { model, pairs, workers, step, dropout, turns, tape: Tape::default() }
    }

    fn eps(&self) -> f32 {
        self.model.spec.rms_norm_eps as f32
    }

    fn changed(&self, layer: usize, group: &'a Group) -> Changed<'a> {
        let dropout = self.dropout.map(|dropout| (dropout, 0));
        Changed { group, layer, pairs: self.pairs, workers: self.workers, dropout }
    }

    fn attention(&self, layer: usize) -> Attention<'a> {
        Attention { spec: &self.model.spec, window: self.model.spec.windows[layer] }
    }

    /// Norms the heads of queries and keys and rotates them.
    fn turn(&self, index: usize, heads: &mut [f32]) {
        let (spec, layer) = (&self.model.spec, &self.model.layers[index]);
        let (d, eps, workers) = (spec.head_dim, self.eps(), self.workers);
        let turn = self.turns.iter().find(|(first, _)| alike(&self.model.layers[*first], layer));
        workers.rows(heads, (spec.heads + 2 * spec.kv_heads) * d, |row, all| {
            let (queries, rest) = all.split_at_mut(spec.heads * d);
            let keys = &mut rest[..spec.kv_heads * d];
            for (part, heads) in [queries, keys].into_iter().enumerate() {
                if let Some(norms) = &layer.head_norms {
                    let raw = heads.to_vec();
                    workers.kernels.rms_norm(&raw, &norms[part], eps, heads);
                }
                if let Some((_, turn)) = turn {
                    turn.rotate(row, heads, d, 1.0);
                }
            }
        });
    }

    /// Replaces the gradient of what [`Self::turn`] made by that of what it was given.
    fn turn_back(&self, index: usize, raw: &[f32], grad: &mut [f32]) {
        let (spec, layer) = (&self.model.spec, &self.model.layers[index]);
        let (d, eps) = (spec.head_dim, self.eps());
        let width = (spec.heads + 2 * spec.kv_heads) * d;
        let turn = self.turns.iter().find(|(first, _)| alike(&self.model.layers[*first], layer));
        self.workers.rows(grad, width, |row, all| {
            let turning = (spec.heads + spec.kv_heads) * d;
            if let Some((_, turn)) = turn {
                turn.rotate(row, &mut all[..turning], d, -1.0);
            }
            let Some(norms) = &layer.head_norms else { return };
            let raw = &raw[row * width..][..turning];
            for (head, (grad, raw)) in all[..turning].chunks_exact_mut(d).zip(raw.chunks_exact(d)).enumerate() {
                norm_row_back(raw, &norms[usize::from(head >= spec.heads)], eps, grad);
            }
        });
    }

    /// Adds the gradients of a layer's changes, and returns that of its input if it is wanted.
    pub(super) fn backward(
        &self,
        index: usize,
        tape: Tape,
        grad: &[f32],
        wants_input: bool,
        sums: &mut Sums,
    ) -> Result<Option<Vec<f32>>, EngineError> {
        let (spec, layer, workers, eps) = (&self.model.spec, &self.model.layers[index], self.workers, self.eps());
        let projections = self.changed(index, &layer.projections);
        let output = self.changed(index, &layer.attention_output);
        let gates = self.changed(index, &layer.gated);
        let down = self.changed(index, &layer.down);
        // What each of them must hand on.
        let below_output = wants_input || projections.learns();
        let below_gates = below_output || output.learns();
        let below_down = below_gates || gates.learns();

        let fed = layer.post_feed_forward_norm.as_ref().map(|weight| {
            let mut grad = grad.to_vec();
            workers.norm_back(&tape.fed, weight, eps, &mut grad);
            grad
        });
        let fed = fed.as_deref().unwrap_or(grad);
        let Some(gated) = down.backward(&tape.gated, fed, &tape.narrows, below_down, sums)? else {
            return Ok(None);
        };
        let f = spec.intermediate_size;
        let mut both = tape.both;
        workers.rows(&mut both, 2 * f, |row, both| {
            let mut room = vec![0.0; f];
            gate_back(workers.kernels, spec.activation, both, &gated[row * f..][..f], &mut room);
        });
        let normed = gates.backward(&tape.middle_normed, &both, &tape.narrows, below_gates, sums)?;
        let Some(mut middle) = normed else { return Ok(None) };
        workers.norm_back(&tape.middle, &layer.feed_forward_norm, eps, &mut middle);
        workers.add(&mut middle, grad);

        let projected = layer.post_attention_norm.as_ref().map(|weight| {
            let mut grad = middle.clone();
            workers.norm_back(&tape.projected, weight, eps, &mut grad);
            grad
        });
        let projected = projected.as_ref().unwrap_or(&middle);
        let attended = output.backward(&tape.attended, projected, &tape.narrows, below_output, sums)?;
        let Some(attended) = attended else { return Ok(None) };
        let mut heads = self.attention(index).backward(workers, &tape.heads, &attended, &self.step.segments);
        self.turn_back(index, &tape.raw, &mut heads);
        let normed = projections.backward(&tape.normed, &heads, &tape.narrows, wants_input, sums)?;
        let Some(mut input) = normed else { return Ok(None) };
        workers.norm_back(&tape.input, &layer.attention_norm, eps, &mut input);
        workers.add(&mut input, &middle);
        Ok(Some(input))
    }
}

fn alike(one: &Layer, other: &Layer) -> bool {
    one.frequencies == other.frequencies && one.layout == other.layout
}

impl Executor for Learner<'_> {
    type Hidden = Vec<f32>;
    type Heads = Vec<f32>;
    type Attended = Vec<f32>;
    type Logits = Vec<f32>;
    type Error = EngineError;

    fn embed(&mut self, step: &Step) -> Result<Vec<f32>, EngineError> {
        Ok(self.model.embed(&step.tokens))
    }

    fn heads(&mut self, index: usize, hidden: &Vec<f32>, _: &Step) -> Result<Vec<f32>, EngineError> {
        let layer = &self.model.layers[index];
        self.tape = Tape { input: hidden.clone(), ..Tape::default() };
        self.tape.normed = self.workers.norm(hidden, &layer.attention_norm, self.eps());
        let mut narrows = Vec::new();
        let mut heads = self.changed(index, &layer.projections).forward(&self.tape.normed, &mut narrows)?;
        self.tape.narrows = narrows;
        if let Some(biases) = &layer.biases {
            self.workers.rows(&mut heads, biases.len(), |_, row| self.workers.kernels.add(row, biases));
        }
        if layer.head_norms.is_some() {
            self.tape.raw.clone_from(&heads);
        }
        self.turn(index, &mut heads);
        Ok(heads)
    }

    fn attend(&mut self, layer: usize, heads: Vec<f32>, step: &Step) -> Result<Vec<f32>, EngineError> {
        let attended = self.attention(layer).forward(self.workers, &heads, &step.segments);
        self.tape.heads = heads;
        Ok(attended)
    }

    fn add_attention(
        &mut self,
        index: usize,
        mut hidden: Vec<f32>,
        attended: Vec<f32>,
    ) -> Result<Vec<f32>, EngineError> {
        let layer = &self.model.layers[index];
        let changed = self.changed(index, &layer.attention_output);
        let projected = changed.forward(&attended, &mut self.tape.narrows)?;
        self.tape.attended = attended;
        match &layer.post_attention_norm {
            None => self.workers.add(&mut hidden, &projected),
            Some(weight) => {
                self.workers.add(&mut hidden, &self.workers.norm(&projected, weight, self.eps()));
                self.tape.projected = projected;
            }
        }
        Ok(hidden)
    }

    fn add_feed_forward(&mut self, index: usize, mut hidden: Vec<f32>) -> Result<Vec<f32>, EngineError> {
        let (spec, layer, workers) = (&self.model.spec, &self.model.layers[index], self.workers);
        self.tape.middle.clone_from(&hidden);
        self.tape.middle_normed = workers.norm(&hidden, &layer.feed_forward_norm, self.eps());
        let changed = self.changed(index, &layer.gated);
        let both = changed.forward(&self.tape.middle_normed, &mut self.tape.narrows)?;
        let f = spec.intermediate_size;
        let mut gated = vec![0.0; both.len() / 2];
        let row_of = |row: usize| &both[row * 2 * f..][..2 * f];
        workers.rows(&mut gated, f, |row, out| gate(workers.kernels, spec.activation, row_of(row), out));
        self.tape.both = both;
        let fed = self.changed(index, &layer.down).forward(&gated, &mut self.tape.narrows)?;
        self.tape.gated = gated;
        match &layer.post_feed_forward_norm {
            None => workers.add(&mut hidden, &fed),
            Some(weight) => {
                workers.add(&mut hidden, &workers.norm(&fed, weight, self.eps()));
                self.tape.fed = fed;
            }
        }
        Ok(hidden)
    }

    fn head(&mut self, hidden: Vec<f32>, _: &Step) -> Result<Vec<f32>, EngineError> {
        // Normed only: logits are made in chunks, by whoever scores them.
        Ok(self.workers.norm(&hidden, &self.model.output_norm, self.eps()))
    }
}
