//! The phases of a decoder layer on the kernels.
//!
//! The residual stream and all that is computed from it lie in buffers that are kept from step to
//! step, so the values the walk hands from phase to phase are empty.
use std::{cmp::Reverse, ops::Range};

use ruvlab_kernels::{Chunks, Claims, Matrix, Output, RopePairs, part_values};

use super::{
    AttentionMethod,
    cache::Cache,
    model::Model,
    products::{FEW_ROWS, Input, Product, Scratch, Team, Then, room},
};
use crate::{
    engine::{EngineError, sequences::Sequences},
    model::{
        decoder::{Executor, Segment, Step},
        rope::RopeLayout,
        spec::ModelSpec,
    },
};

/// Query rows of one key head that attend together, about.
const QUERY_ROWS: usize = 96;

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

/// Query tokens and heads that attend together.
struct Item {
    segment: usize,
    tokens: Range<usize>,
    kv_head: usize,
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
}

/// Keys of one head and one part of a context, for the one token of a segment.
struct Part {
    segment: usize,
    kv_head: usize,
    part: usize,
}

/// Runs one step of a model.
pub(super) struct Walker<'a> {
    pub(super) model: &'a Model,
    pub(super) team: &'a mut Team,
    pub(super) work: &'a mut Workspace,
    pub(super) sequences: &'a mut Sequences<Cache>,
    pub(super) attention: AttentionMethod,
    /// Of the step.
    pub(super) rows: usize,
    /// `[logit_rows, V]`.
    pub(super) logits: &'a mut [f32],
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
        let pairs = match kind.layout {
            RopeLayout::Interleaved => RopePairs::Interleaved,
            RopeLayout::Halves => RopePairs::Halves,
        };
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

    fn cache_heads(&mut self, layer: usize, step: &Step) -> Result<(), EngineError> {
        let width = self.model.spec.kv_heads * self.model.spec.head_dim;
        for Segment { sequence, rows, past } in &step.segments {
            let cache = &mut self.sequences.get_mut(*sequence)?.state;
            for (position, row) in (*past..).zip(rows.clone()) {
                let range = row * width..(row + 1) * width;
                let (keys, values) = (&self.work.keys.values[range.clone()], &self.work.values.values[range]);
                cache.write(self.team.kernels, layer, position, keys, values);
            }
        }
        Ok(())
    }

    fn attend_all(&mut self, layer: usize, step: &Step) {
        let (model, team, sequences) = (self.model, &*self.team, &*self.sequences);
        let (spec, rows) = (&model.spec, step.tokens.len());
        let single = rows <= FEW_ROWS && step.segments.iter().all(|segment| segment.rows.len() == 1);
        if self.attention == AttentionMethod::Flash && single {
            let shape = model.attention_shape(layer);
            if step.segments.iter().any(|segment| shape.parts(segment.past).len() > 1) {
                return self.attend_parts(layer, step);
            }
        }
        let group = spec.heads / spec.kv_heads;
        let width = spec.heads * spec.head_dim;
        let Workspace { queries, attended, items, .. } = &mut *self.work;
        let attention = Attention {
            model,
            team,
            sequences,
            method: self.attention,
            layer,
            step,
            queries: &queries.values[..rows * width],
            attended: attended.flat(rows * width),
        };
        if rows <= FEW_ROWS {
            // Heads in equal shares; heads of one group stay together where they can.
            let (total, workers) = (step.segments.len() * spec.heads, team.pool.threads());
            team.pool.run(&|worker| {
                let scratch = &mut team.scratch(worker);
                let (mut at, end) = (total * worker / workers, total * (worker + 1) / workers);
                while at < end {
                    let (segment, head) = (at / spec.heads, at % spec.heads);
                    let count = (group - head % group).min(end - at);
                    let tokens = 0..step.segments[segment].rows.len();
                    attention.run(segment, tokens, head..head + count, scratch);
                    at += count;
                }
            });
            return;
        }
        items.clear();
        for (segment, Segment { rows, .. }) in step.segments.iter().enumerate() {
            let tile = match self.attention {
                AttentionMethod::Flash => (QUERY_ROWS / group).clamp(8, 64),
                AttentionMethod::Naive => rows.len(),
            };
            for start in (0..rows.len()).step_by(tile) {
                let tokens = start..(start + tile).min(rows.len());
                items.extend((0..spec.kv_heads).map(|kv_head| Item { segment, tokens: tokens.clone(), kv_head }));
            }
        }
        // What sees most keys takes longest: first, so that no thread is left with it at the end.
        items.sort_unstable_by_key(|item| Reverse(step.segments[item.segment].past + item.tokens.end));
        let chunks = Chunks::new(items.len(), 1);
        team.pool.run(&|worker| {
            let scratch = &mut team.scratch(worker);
            while let Some(chunk) = chunks.next() {
                let Item { segment, tokens, kv_head } = &items[chunk.start];
                attention.run(*segment, tokens.clone(), kv_head * group..(kv_head + 1) * group, scratch);
            }
        });
    }

    /// Lets one token of each segment attend, its context shared among the threads by parts. The
    /// parts are those that the kernel takes by itself, so the result is the same for any number of
    /// threads.
    fn attend_parts(&mut self, layer: usize, step: &Step) {
        let (model, team, sequences) = (self.model, &*self.team, &*self.sequences);
        let spec = &model.spec;
        let group = spec.heads / spec.kv_heads;
        let (d, width, length) = (spec.head_dim, group * spec.head_dim, part_values(spec.head_dim, group));
        let shape = model.attention_shape(layer);
        let Workspace { queries, attended, parts, shared, .. } = &mut *self.work;
        shared.clear();
        for (segment, Segment { past, .. }) in step.segments.iter().enumerate() {
            for kv_head in 0..spec.kv_heads {
                shared.extend(shape.parts(*past).map(|part| Part { segment, kv_head, part }));
            }
        }
        let (shared, queries) = (&*shared, &queries.values);
        // Whoever comes first takes the next: what is left at the end is one part at most.
        let (output, chunks) = (parts.flat(shared.len() * length), Chunks::new(shared.len(), 1));
        team.pool.run(&|worker| {
            let scratch = &mut team.scratch(worker).attention;
            while let Some(chunk) = chunks.next() {
                let Part { segment, kv_head, part } = shared[chunk.start];
                let Segment { sequence, rows, past } = &step.segments[segment];
                // Every sequence of the step was found when its keys were cached.
                let Ok(sequence) = sequences.get(*sequence) else { return };
                let queries = &queries[(rows.start * spec.kv_heads + kv_head) * width..][..width];
                let cached = sequence.state.head(layer, kv_head);
                let mut tile = output.tile(chunk.start * length..(chunk.start + 1) * length);
                team.kernels.attend_part(&shape, queries, *past, part, &cached, scratch, tile.token(0));
            }
        });
        let attended = room(&mut attended.values, step.tokens.len() * spec.kv_heads * width);
        let mut rest = &parts.values[..shared.len() * length];
        for Segment { rows, past, .. } in &step.segments {
            for kv_head in 0..spec.kv_heads {
                let (own, others) = rest.split_at(shape.parts(*past).len() * length);
                let out = &mut attended[(rows.start * spec.kv_heads + kv_head) * width..][..width];
                team.kernels.merge_parts(d, own, out, None);
                rest = others;
            }
        }
    }

    /// Adds the product of rows with a matrix to the stream, normed first where the model does.
    fn add_product(&mut self, input: From, matrix: &Matrix, norm: Option<&[f32]>) {
        let Workspace { hidden, attended, projected, gate, .. } = &mut *self.work;
        let input = match input {
            From::Attended => &attended.values,
            From::Gate => &gate.values,
        };
        let output = projected.output(self.rows, matrix.rows());
        let stream = hidden.output(self.rows, matrix.rows());
        let then = if norm.is_some() { Then::Nothing } else { Then::AddTo(&stream) };
        let product = Product { matrix, output: &output, then };
        self.team.multiply(Input::Plain(input), self.rows, matrix.columns(), &[product]);
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

/// What all threads need to attend in one layer.
struct Attention<'a> {
    model: &'a Model,
    team: &'a Team,
    sequences: &'a Sequences<Cache>,
    method: AttentionMethod,
    layer: usize,
    step: &'a Step,
    queries: &'a [f32],
    attended: Output<'a>,
}

impl Attention<'_> {
    /// Lets some heads of one key head attend, for some tokens of a segment.
    fn run(&self, segment: usize, tokens: Range<usize>, heads: Range<usize>, scratch: &mut Scratch) {
        let spec = &self.model.spec;
        let Segment { sequence, rows, past } = &self.step.segments[segment];
        // Every sequence of the step was found when its keys were cached.
        let Ok(sequence) = self.sequences.get(*sequence) else { return };
        let shape = self.model.attention_shape(self.layer);
        let cached = sequence.state.head(self.layer, heads.start / (spec.heads / spec.kv_heads));
        let (first, width) = (past + tokens.start, heads.len() * spec.head_dim);
        let range = |token: usize| {
            let start = ((rows.start + token) * spec.heads + heads.start) * spec.head_dim;
            start..start + width
        };
        let attend = |queries: &[f32], out: &mut [f32], scratch| {
            let (kernels, count) = (self.team.kernels, tokens.len());
            match self.method {
                AttentionMethod::Flash => kernels.attend(&shape, queries, count, first, &cached, scratch, out),
                AttentionMethod::Naive => kernels.attend_naively(&shape, queries, count, first, &cached, scratch, out),
            }
        };
        let Scratch { queries, attended, attention, .. } = scratch;
        if tokens.len() == 1 {
            let range = range(tokens.start);
            return attend(&self.queries[range.clone()], self.attended.tile(range).token(0), attention);
        }
        let (queries, out) = (room(queries, tokens.len() * width), room(attended, tokens.len() * width));
        for (token, queries) in tokens.clone().zip(queries.chunks_exact_mut(width)) {
            queries.copy_from_slice(&self.queries[range(token)]);
        }
        attend(queries, out, attention);
        for (token, out) in tokens.clone().zip(out.chunks_exact(width)) {
            self.attended.tile(range(token)).token(0).copy_from_slice(out);
        }
    }
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
        let (spec, layer) = (&model.spec, &model.layers[layer]);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let work = &mut *self.work;
        let outputs =
            [work.queries.output(rows, queries), work.keys.output(rows, keys), work.values.output(rows, keys)];
        let product = |i: usize| Product {
            matrix: &layer.projections[i],
            output: &outputs[i],
            then: layer.biases.as_ref().map_or(Then::Nothing, |biases| Then::Bias(&biases[i])),
        };
        let input = normed(spec, &work.hidden.values, &layer.attention_norm);
        self.team.multiply(input, rows, spec.hidden_size, &[product(0), product(1), product(2)]);
        Ok(())
    }

    fn attend(&mut self, layer: usize, (): (), step: &Step) -> Result<(), EngineError> {
        self.turn_heads(layer);
        self.cache_heads(layer, step)?;
        self.attend_all(layer, step);
        Ok(())
    }

    fn add_attention(&mut self, layer: usize, (): (), (): ()) -> Result<(), EngineError> {
        let layer = &self.model.layers[layer];
        self.add_product(From::Attended, &layer.attention_output, layer.post_attention_norm.as_deref());
        Ok(())
    }

    fn add_feed_forward(&mut self, layer: usize, (): ()) -> Result<(), EngineError> {
        let (spec, layer) = (&self.model.spec, &self.model.layers[layer]);
        let Workspace { hidden, gate, up, .. } = &mut *self.work;
        let output = gate.output(self.rows, spec.intermediate_size);
        let other = up.output(self.rows, spec.intermediate_size);
        let then = Then::Gate { up: &layer.up, output: &other, activation: spec.activation };
        let product = Product { matrix: &layer.gate, output: &output, then };
        let input = normed(spec, &hidden.values, &layer.feed_forward_norm);
        self.team.multiply(input, self.rows, spec.hidden_size, &[product]);
        self.add_product(From::Gate, &layer.down, layer.post_feed_forward_norm.as_deref());
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
        let output = Output::new(self.logits, rows, spec.vocab_size, &mut work.logit_claims);
        let then = spec.logit_softcap.map_or(Then::Nothing, |cap| Then::SoftCap(cap as f32));
        let matrix = model.output.as_ref().unwrap_or(&model.embedding);
        self.team.multiply(input, rows, spec.hidden_size, &[Product { matrix, output: &output, then }]);
        Ok(())
    }
}
