//! Attention within whole sequences, and back.
//!
//! Weights are computed again on the way back: they would be the largest thing that is kept.
use std::ops::Range;

use super::{
    low_rank::{Columns, axpy, transposed},
    workers::Workers,
};
use crate::model::{decoder::Segment, spec::ModelSpec};

/// How a layer attends.
#[derive(Clone, Copy)]
pub(super) struct Attention<'a> {
    pub(super) spec: &'a ModelSpec,
    pub(super) window: Option<usize>,
}

/// The query heads of one key head in one sequence.
struct Task {
    rows: Range<usize>,
    key_head: usize,
}

/// What one query head needs again and again.
struct Room {
    weights: Vec<f32>,
    slopes: Vec<f32>,
    grads: Vec<f32>,
}

impl Room {
    fn new(t: usize) -> Self {
        Self { weights: vec![0.0; t], slopes: vec![1.0; t], grads: vec![0.0; t] }
    }
}

impl Attention<'_> {
    fn group(self) -> usize {
        self.spec.heads / self.spec.kv_heads
    }

    fn width(self) -> usize {
        (self.spec.heads + 2 * self.spec.kv_heads) * self.spec.head_dim
    }

    fn tasks(self, segments: &[Segment]) -> impl Iterator<Item = Task> {
        let heads = 0..self.spec.kv_heads;
        segments.iter().flat_map(move |segment| {
            let rows = segment.rows.clone();
            heads.clone().map(move |key_head| Task { rows: rows.clone(), key_head })
        })
    }

    /// Returns a head, `[T, D]`: queries first, then keys, then values.
    fn head(self, all: &[f32], rows: &Range<usize>, head: usize) -> Vec<f32> {
        let (d, stride) = (self.spec.head_dim, self.width());
        let values = &all[rows.start * stride..rows.end * stride];
        Columns { values, stride, first: head * d, width: d }.copied()
    }

    /// Leaves the weights of a query, and the slopes where scores are bent, and returns which tokens it sees.
    fn weigh(
        self,
        workers: &Workers,
        (query, position): (&[f32], usize),
        keys: &[f32],
        room: &mut Room,
    ) -> Range<usize> {
        let t = keys.len() / self.spec.head_dim;
        let first = self.window.map_or(0, |window| (position + 1).saturating_sub(window));
        let seen = first..position + 1;
        let weights = &mut room.weights[seen.clone()];
        weights.fill(0.0);
        for (x, keys) in query.iter().zip(keys.chunks_exact(t)) {
            axpy(weights, *x, &keys[seen.clone()]);
        }
        workers.kernels.scale(weights, self.spec.attention_scale as f32);
        if let Some(cap) = self.spec.attention_softcap {
            let cap = cap as f32;
            workers.kernels.soft_cap(weights, cap);
            let slopes = room.slopes[seen.clone()].iter_mut().zip(&*weights);
            slopes.for_each(|(slope, x)| *slope = 1.0 - (x / cap) * (x / cap));
        }
        workers.kernels.softmax(weights, weights.len());
        seen
    }

    /// Returns what is attended, `[N, H D]`, given rotated queries, keys and values `[N, (H + 2 K) D]`.
    pub(super) fn forward(self, workers: &Workers, all: &[f32], segments: &[Segment]) -> Vec<f32> {
        let (d, g) = (self.spec.head_dim, self.group());
        let n = all.len() / self.width();
        let mut by_head = vec![0.0; n * self.spec.heads * d];
        let mut rest = by_head.as_mut_slice();
        let mut tasks = Vec::new();
        for task in self.tasks(segments) {
            let (out, after) = rest.split_at_mut(task.rows.len() * g * d);
            tasks.push((task, out));
            rest = after;
        }
        workers.each(tasks.into_iter(), |(Task { rows, key_head }, out)| {
            let t = rows.len();
            let keys = transposed(&self.head(all, &rows, self.spec.heads + key_head), d);
            let values = self.head(all, &rows, self.spec.heads + self.spec.kv_heads + key_head);
            let mut room = Room::new(t);
            for (i, out) in out.chunks_exact_mut(t * d).enumerate() {
                let queries = self.head(all, &rows, key_head * g + i);
                for (position, (query, out)) in queries.chunks_exact(d).zip(out.chunks_exact_mut(d)).enumerate() {
                    let seen = self.weigh(workers, (query, position), &keys, &mut room);
                    for (weight, value) in
                        room.weights[seen.clone()].iter().zip(values[seen.start * d..].chunks_exact(d))
                    {
                        axpy(out, *weight, value);
                    }
                }
            }
        });
        // From [sequence, head, T, D] to rows.
        let mut out = vec![0.0; by_head.len()];
        let width = self.spec.heads * d;
        let mut from = 0;
        for Task { rows, key_head } in self.tasks(segments) {
            for i in 0..g {
                for row in rows.clone() {
                    out[row * width + (key_head * g + i) * d..][..d].copy_from_slice(&by_head[from..from + d]);
                    from += d;
                }
            }
        }
        out
    }

    /// Returns the gradient of rotated queries, keys and values, given that of what was attended.
    pub(super) fn backward(self, workers: &Workers, all: &[f32], grad: &[f32], segments: &[Segment]) -> Vec<f32> {
        let (d, g) = (self.spec.head_dim, self.group());
        let n = all.len() / self.width();
        // Of each task: G query heads, a key head, a value head.
        let mut by_head = vec![0.0; n * self.spec.kv_heads * (g + 2) * d];
        let mut rest = by_head.as_mut_slice();
        let mut tasks = Vec::new();
        for task in self.tasks(segments) {
            let (out, after) = rest.split_at_mut(task.rows.len() * (g + 2) * d);
            tasks.push((task, out));
            rest = after;
        }
        workers.each(tasks.into_iter(), |(task, out)| self.task_back(workers, all, grad, &task, out));
        let mut out = vec![0.0; all.len()];
        let mut from = 0;
        for Task { rows, key_head } in self.tasks(segments) {
            let queries = (0..g).map(|i| key_head * g + i);
            for head in queries.chain([self.spec.heads + key_head, self.spec.heads + self.spec.kv_heads + key_head]) {
                for row in rows.clone() {
                    out[row * self.width() + head * d..][..d].copy_from_slice(&by_head[from..from + d]);
                    from += d;
                }
            }
        }
        out
    }

    fn task_back(self, workers: &Workers, all: &[f32], grad: &[f32], task: &Task, out: &mut [f32]) {
        let (d, g) = (self.spec.head_dim, self.group());
        let Task { rows, key_head } = task;
        let t = rows.len();
        let keys = self.head(all, rows, self.spec.heads + key_head);
        let keys_across = transposed(&keys, d);
        let values_across = transposed(&self.head(all, rows, self.spec.heads + self.spec.kv_heads + key_head), d);
        let (query_grads, rest) = out.split_at_mut(g * t * d);
        let (key_grads, value_grads) = rest.split_at_mut(t * d);
        let scale = self.spec.attention_scale as f32;
        let mut room = Room::new(t);
        for (i, query_grads) in query_grads.chunks_exact_mut(t * d).enumerate() {
            let head = key_head * g + i;
            let queries = self.head(all, rows, head);
            for (position, (query, query_grad)) in
                queries.chunks_exact(d).zip(query_grads.chunks_exact_mut(d)).enumerate()
            {
                let seen = self.weigh(workers, (query, position), &keys_across, &mut room);
                let out = &grad[(rows.start + position) * self.spec.heads * d + head * d..][..d];
                let Room { weights, slopes, grads } = &mut room;
                let (weights, slopes, grads) =
                    (&weights[seen.clone()], &slopes[seen.clone()], &mut grads[seen.clone()]);
                grads.fill(0.0);
                for (x, values) in out.iter().zip(values_across.chunks_exact(t)) {
                    axpy(grads, *x, &values[seen.clone()]);
                }
                let mean: f32 = weights.iter().zip(&*grads).map(|(w, g)| w * g).sum();
                for ((grad, weight), slope) in grads.iter_mut().zip(weights).zip(slopes) {
                    *grad = weight * (*grad - mean) * slope * scale;
                }
                let at = seen.start * d..seen.end * d;
                let per_key = keys[at.clone()].chunks_exact(d).zip(key_grads[at.clone()].chunks_exact_mut(d));
                let per_key = per_key.zip(value_grads[at].chunks_exact_mut(d)).zip(weights.iter().zip(&*grads));
                for (((key, key_grad), value_grad), (weight, grad)) in per_key {
                    axpy(query_grad, *grad, key);
                    axpy(key_grad, *grad, query);
                    axpy(value_grad, *weight, out);
                }
            }
        }
    }
}
