//! The phases of a decoder layer on the kernels.
//!
//! The residual stream and all that is computed from it lie in buffers that are kept from step to
//! step, so the values the walk hands from phase to phase are empty.
mod attention;

use attention::{Item, Part, Weighing};
use ruvlab_kernels::{Claims, Kernels, Matrix, Output, RopePairs};

use super::{
    AttentionMethod,
    adapters::Adapters,
    low_rank::Additions,
    model::Model,
    packed::Group,
    products::{Destination, Input, Product, Team, Then, room},
};
use crate::{
    engine::{EngineError, HEAD_RANK},
    kv::{PagedCache, Rotation},
    model::{
        decoder::{Executor, Segment, Step},
        rope::RopeLayout,
        sampler::TopK,
        spec::ModelSpec,
    },
};

/// A buffer that threads write parts of.
#[derive(Default)]
struct Buffer {
    values: Vec<f32>,
    claims: Claims,
}

impl Buffer {
    /// Returns the buffer as `[tokens, rows]`, to be written by columns.
    fn output(&mut self, tokens: usize, rows: usize) -> Output<'_> {
        Output::new(room(&mut self.values, tokens * rows), tokens, rows, &mut self.claims)
    }

    /// Returns the buffer as one row, to be written by stretches.
    fn flat(&mut self, length: usize) -> Output<'_> {
        self.output(1, length)
    }
}

/// Buffers kept from step to step.
#[derive(Default)]
pub(super) struct Workspace {
    hidden: Buffer,
    queries: Buffer,
    keys: Buffer,
    values: Buffer,
    attended: Buffer,
    /// Of the contexts that threads share.
    parts: Buffer,
    projected: Buffer,
    gate: Buffer,
    up: Buffer,
    logit_claims: Claims,
    /// Cosines and sines of the step's rows, for each kind of layers.
    rotations: Vec<[Vec<f32>; 2]>,
    items: Vec<Item>,
    shared: Vec<Part>,
    weighing: Weighing,
    /// An input of the head.
    head_input: Vec<f32>,
    /// A h of the rows that something is added to at the head.
    head_projected: Vec<[f32; HEAD_RANK]>,
}

/// What learning from a batch needs.
#[derive(Default)]
pub(super) struct Kept {
    /// The head's inputs.
    pub(super) hidden: Vec<f32>,
    /// Of the positions whose greatest logits alone were returned.
    pub(super) normalisers: Vec<f64>,
    /// All logits of those, if anybody wants them.
    pub(super) logits: Option<KeptLogits>,
}

impl Kept {
    pub(super) fn clear(&mut self) {
        self.hidden.clear();
        self.normalisers.clear();
        self.logits.iter_mut().for_each(|logits| logits.length = 0);
    }
}

/// Logits of a batch, in room that is used again without being written before.
#[derive(Default)]
pub(super) struct KeptLogits {
    buffer: Buffer,
    length: usize,
}

impl KeptLogits {
    pub(super) fn all(&self) -> &[f32] {
        &self.buffer.values[..self.length]
    }

    /// Returns room for those of more positions.
    fn grow(&mut self, rows: usize, vocab_size: usize) -> Output<'_> {
        let start = self.length;
        self.length += rows * vocab_size;
        let Buffer { values, claims } = &mut self.buffer;
        Output::new(&mut room(values, self.length)[start..], rows, vocab_size, claims)
    }
}

/// What the head gives of a step, and where it goes.
pub(super) enum HeadResults<'a> {
    /// All logits, `[logit_rows, V]`.
    Logits(&'a mut [f32]),
    /// The greatest ones, a list more for each of the rows.
    TopK { k: usize, lists: &'a mut Vec<TopK> },
}

/// Runs one step of a model.
pub(super) struct Walker<'a> {
    pub(super) model: &'a Model,
    pub(super) team: &'a mut Team,
    pub(super) work: &'a mut Workspace,
    pub(super) cache: &'a mut PagedCache,
    pub(super) adapters: &'a Adapters,
    pub(super) attention: AttentionMethod,
    /// Of the step.
    pub(super) rows: usize,
    pub(super) results: HeadResults<'a>,
    /// Where it goes what learning needs, after that of earlier steps, if anybody wants it.
    pub(super) kept: Option<&'a mut Kept>,
}

fn pairs(layout: RopeLayout) -> RopePairs {
    match layout {
        RopeLayout::Interleaved => RopePairs::Interleaved,
        RopeLayout::Halves => RopePairs::Halves,
    }
}

/// Rotates cached keys of a model.
pub(super) struct CachedRotation<'a> {
    pub(super) model: &'a Model,
    pub(super) kernels: &'a Kernels,
}

impl Rotation for CachedRotation<'_> {
    fn rotate(&self, layer: usize, keys: &mut [f32], by: u32) {
        let kind = &self.model.kinds[self.model.layers[layer].kind];
        // Without the magnitude, which the keys have already.
        let turn = |frequency: &f32| (by as f32 * frequency).sin_cos();
        let (sin, cos): (Vec<f32>, Vec<f32>) = kind.frequencies.values.iter().map(turn).unzip();
        self.kernels.rotate(keys, self.model.spec.head_dim, &cos, &sin, pairs(kind.layout));
    }
}

fn normed<'a>(spec: &ModelSpec, stream: &'a [f32], weight: &'a [f32]) -> Input<'a> {
    Input::Normed { stream, weight, eps: spec.rms_norm_eps as f32, rows: None }
}

impl Walker<'_> {
    /// Norms the heads of queries and keys where the model does, and rotates them.
    fn turn_heads(&mut self, layer: usize) {
        let rows = self.rows;
        let (spec, layer) = (&self.model.spec, &self.model.layers[layer]);
        let (team, work) = (&*self.team, &mut *self.work);
        let [cos, sin] = &work.rotations[layer.kind];
        let kind = &self.model.kinds[layer.kind];
        let half = kind.frequencies.values.len();
        let pairs = pairs(kind.layout);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let outputs = [(work.queries.flat(rows * queries), queries), (work.keys.flat(rows * keys), keys)];
        team.each_row(rows, &|row, scratch| {
            let (cos, sin) = (&cos[row * half..][..half], &sin[row * half..][..half]);
            for (part, (output, width)) in outputs.iter().enumerate() {
                let mut tile = output.tile(row * width..(row + 1) * width);
                let heads = tile.token(0);
                if let Some(norms) = &layer.head_norms {
                    let before = room(&mut scratch.row, *width);
                    before.copy_from_slice(heads);
                    team.kernels.rms_norm(before, &norms[part], spec.rms_norm_eps as f32, heads);
                }
                team.kernels.rotate(heads, spec.head_dim, cos, sin, pairs);
            }
        });
    }

    fn cache_heads(&mut self, layer: usize, step: &Step) {
        let width = self.model.spec.kv_heads * self.model.spec.head_dim;
        for Segment { sequence, rows, past } in &step.segments {
            for (index, row) in (*past..).zip(rows.clone()) {
                let range = row * width..(row + 1) * width;
                let (keys, values) = (&self.work.keys.values[range.clone()], &self.work.values.values[range]);
                self.cache.write(*sequence, layer, index, keys, values);
            }
        }
    }

    /// Adds the product of rows with a matrix to the stream, normed first where the model does.
    fn add_product(&mut self, input: From, matrix: &Matrix, group: Group, norm: Option<&[f32]>, next: Option<&Matrix>) {
        let Workspace { hidden, attended, projected, gate, .. } = &mut *self.work;
        let input = match input {
            From::Attended => &attended.values,
            From::Gate => &gate.values,
        };
        let output = projected.output(self.rows, matrix.rows());
        let stream = hidden.output(self.rows, matrix.rows());
        let then = if norm.is_some() { Then::Nothing } else { Then::AddTo(&stream) };
        let product = Product { matrix, destination: Destination::Output(&output), then };
        let additions = Additions { runs: &self.adapters.rows, group, next };
        self.team.multiply(Input::Plain(input), self.rows, matrix.columns(), &[product], additions);
        if let Some(weight) = norm {
            self.add_normed(weight);
        }
    }

    /// Adds the norms of what was projected to the stream.
    fn add_normed(&mut self, weight: &[f32]) {
        let (spec, team, rows) = (&self.model.spec, &*self.team, self.rows);
        let width = spec.hidden_size;
        let Workspace { hidden, projected, .. } = &mut *self.work;
        let (stream, projected) = (hidden.flat(rows * width), &projected.values);
        team.each_row(rows, &|row, scratch| {
            let range = row * width..(row + 1) * width;
            let out = room(&mut scratch.row, width);
            team.kernels.rms_norm(&projected[range.clone()], weight, spec.rms_norm_eps as f32, out);
            team.kernels.add(stream.tile(range).token(0), out);
        });
    }
}

/// Where the rows of a product lie.
#[derive(Clone, Copy)]
enum From {
    Attended,
    Gate,
}

impl Executor for Walker<'_> {
    type Hidden = ();
    type Heads = ();
    type Attended = ();
    type Logits = ();
    type Error = EngineError;

    fn embed(&mut self, step: &Step) -> Result<(), EngineError> {
        let (model, team, work) = (self.model, &*self.team, &mut *self.work);
        let (width, scale) = (model.spec.hidden_size, model.spec.embedding_scale);
        let stream = work.hidden.flat(step.tokens.len() * width);
        team.each_row(step.tokens.len(), &|row, _| {
            let mut tile = stream.tile(row * width..(row + 1) * width);
            model.embedding.row(step.tokens[row] as usize, tile.token(0));
            if scale != 1.0 {
                team.kernels.scale(tile.token(0), scale);
            }
        });
        work.rotations.resize_with(model.kinds.len(), Default::default);
        for (kind, [cos, sin]) in model.kinds.iter().zip(&mut work.rotations) {
            let length = step.positions.len() * kind.frequencies.values.len();
            kind.frequencies.rotations_into(&step.positions, room(cos, length), room(sin, length));
        }
        Ok(())
    }

    fn heads(&mut self, layer: usize, (): &(), _: &Step) -> Result<(), EngineError> {
        let (model, rows) = (self.model, self.rows);
        let group = Group::Heads(layer);
        let (spec, layer) = (&model.spec, &model.layers[layer]);
        let additions = Additions { runs: &self.adapters.rows, group, next: Some(&layer.attention_output) };
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let work = &mut *self.work;
        let outputs =
            [work.queries.output(rows, queries), work.keys.output(rows, keys), work.values.output(rows, keys)];
        let product = |i: usize| Product {
            matrix: &layer.projections[i],
            destination: Destination::Output(&outputs[i]),
            then: layer.biases.as_ref().map_or(Then::Nothing, |biases| Then::Bias(&biases[i])),
        };
        let input = normed(spec, &work.hidden.values, &layer.attention_norm);
        self.team.multiply(input, rows, spec.hidden_size, &[product(0), product(1), product(2)], additions);
        Ok(())
    }

    fn attend(&mut self, layer: usize, (): (), step: &Step) -> Result<(), EngineError> {
        self.turn_heads(layer);
        self.cache_heads(layer, step);
        self.attend_all(layer, step);
        if self.cache.weighs() {
            self.weigh(layer, step);
        }
        Ok(())
    }

    fn add_attention(&mut self, layer: usize, (): (), (): ()) -> Result<(), EngineError> {
        let group = Group::Attended(layer);
        let layer = &self.model.layers[layer];
        let norm = layer.post_attention_norm.as_deref();
        self.add_product(From::Attended, &layer.attention_output, group, norm, Some(&layer.gate));
        Ok(())
    }

    fn add_feed_forward(&mut self, layer: usize, (): ()) -> Result<(), EngineError> {
        let (group, down) = (Group::Gates(layer), Group::Down(layer));
        let following = self.model.layers.get(layer + 1).map(|layer| &layer.projections[0]);
        let (spec, layer) = (&self.model.spec, &self.model.layers[layer]);
        let additions = Additions { runs: &self.adapters.rows, group, next: Some(&layer.down) };
        let Workspace { hidden, gate, up, .. } = &mut *self.work;
        let output = gate.output(self.rows, spec.intermediate_size);
        let other = up.output(self.rows, spec.intermediate_size);
        let then = Then::Gate { up: &layer.up, output: &other, activation: spec.activation };
        let product = Product { matrix: &layer.gate, destination: Destination::Output(&output), then };
        let input = normed(spec, &hidden.values, &layer.feed_forward_norm);
        self.team.multiply(input, self.rows, spec.hidden_size, &[product], additions);
        self.add_product(From::Gate, &layer.down, down, layer.post_feed_forward_norm.as_deref(), following);
        Ok(())
    }

    fn head(&mut self, (): (), step: &Step) -> Result<(), EngineError> {
        let (model, rows) = (self.model, step.logit_rows.len());
        let spec = &model.spec;
        let work = &mut *self.work;
        let input = Input::Normed {
            stream: &work.hidden.values,
            weight: &model.output_norm,
            eps: spec.rms_norm_eps as f32,
            rows: Some(&step.logit_rows),
        };
        let (kernels, width) = (self.team.kernels, spec.hidden_size);
        if let Some(Kept { hidden, .. }) = &mut self.kept {
            let start = hidden.len();
            hidden.resize(start + rows * width, 0.0);
            for (row, out) in (0..).zip(hidden[start..].chunks_exact_mut(width)) {
                out.copy_from_slice(input.row(kernels, row, width, &mut work.head_input));
            }
        }
        work.head_projected.clear();
        for (row, rows) in &self.adapters.logit_heads {
            work.head_projected.push(rows.project(input.row(kernels, *row, width, &mut work.head_input)));
        }
        let soft_cap = spec.logit_softcap.map(|cap| cap as f32);
        let then = || Then::Head { soft_cap, rows: &self.adapters.logit_heads, projected: &work.head_projected };
        let matrix = model.output.as_ref().unwrap_or(&model.embedding);
        let additions = Additions { runs: &self.adapters.logit_rows, group: Group::Head, next: None };
        match &mut self.results {
            HeadResults::Logits(values) => {
                let output = Output::new(values, rows, spec.vocab_size, &mut work.logit_claims);
                let product = Product { matrix, destination: Destination::Output(&output), then: then() };
                self.team.multiply(input, rows, spec.hidden_size, &[product], additions);
            }
            HeadResults::TopK { k, lists } => {
                let workers = self.team.pool.threads();
                let normalise = self.kept.is_some();
                (0..workers).for_each(|worker| self.team.scratch(worker).selection.begin(rows, *k, normalise));
                let logits = self.kept.as_mut().and_then(|kept| kept.logits.as_mut());
                let logits = logits.map(|logits| logits.grow(rows, spec.vocab_size));
                let destination = Destination::Selection(logits.as_ref());
                let product = Product { matrix, destination, then: then() };
                self.team.multiply(input, rows, spec.hidden_size, &[product], additions);
                let start = lists.len();
                lists.resize_with(start + rows, || TopK::new(*k));
                let (lists, mut none) = (&mut lists[start..], Vec::new());
                let normalisers = self.kept.as_mut().map_or(&mut none, |kept| &mut kept.normalisers);
                let start = normalisers.len();
                normalisers.resize(start + if normalise { rows } else { 0 }, f64::NEG_INFINITY);
                for worker in 0..workers {
                    self.team.scratch(worker).selection.merge_into(lists, &mut normalisers[start..]);
                }
            }
        }
        Ok(())
    }
}
