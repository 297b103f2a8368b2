//! Attention of a layer, shared among the threads.
use std::{cmp::Reverse, ops::Range};

use ruvlab_kernels::{Chunks, ContextPart, Output, part_values};

use super::{
    super::{
        AttentionMethod,
        model::Model,
        products::{FEW_ROWS, Scratch, Team, room},
    },
    Buffer, Walker, Workspace,
};
use crate::{
    kv::{CachedHead, PagedCache},
    model::decoder::{Segment, Step},
};

/// Query rows of one key head that attend together, about.
const QUERY_ROWS: usize = 96;

/// Query tokens and heads that attend together.
pub(super) struct Item {
    segment: usize,
    tokens: Range<usize>,
    kv_head: usize,
}

/// Keys of one head and one part of a context, for the one token of a segment.
pub(super) struct Part {
    segment: usize,
    kv_head: usize,
    part: usize,
}

impl Part {
    /// Returns it as the kernels take it.
    fn of<'a>(&self, step: &Step, cached: &'a CachedHead<'_>) -> ContextPart<'a> {
        ContextPart { cached, position: step.segments[self.segment].past, index: self.part }
    }
}

/// Keys of one head, and where the weight of its pages is written.
struct Weighed {
    segment: usize,
    kv_head: usize,
    pages: Range<usize>,
}

/// What the weight of pages is told from.
#[derive(Default)]
pub(super) struct Weighing {
    items: Vec<Weighed>,
    mass: Buffer,
}

impl Walker<'_> {
    pub(super) fn attend_all(&mut self, layer: usize, step: &Step) {
        let (model, team, cache) = (self.model, &*self.team, &*self.cache);
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
            cache,
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

    /// Adds up how much of the attention each page gets, where a policy goes by it. This takes the
    /// scores twice more, for their sums and then for their shares of these: nobody else pays for a
    /// policy that is studied. Heads are shared among the threads, and added in their order.
    pub(super) fn weigh(&mut self, layer: usize, step: &Step) {
        let (team, cache) = (&*self.team, &*self.cache);
        let spec = &self.model.spec;
        let (d, group) = (spec.head_dim, spec.heads / spec.kv_heads);
        let (shape, kernels, width) = (self.model.attention_shape(layer), team.kernels, group * d);
        let page_tokens = cache.page_tokens();
        let Workspace { queries: all, weighing: Weighing { items, mass }, .. } = &mut *self.work;
        items.clear();
        let mut length = 0;
        for (segment, Segment { rows, past, .. }) in step.segments.iter().enumerate() {
            let pages = (past + rows.len()).div_ceil(page_tokens);
            for kv_head in 0..spec.kv_heads {
                items.push(Weighed { segment, kv_head, pages: length..length + pages });
                // Threads write whole groups of eight.
                length += pages.next_multiple_of(8);
            }
        }
        let (items, all) = (&*items, &all.values);
        let (output, chunks) = (mass.flat(length), Chunks::new(items.len(), 1));
        team.pool.run(&|worker| {
            let Scratch { queries, attended, attention, row, .. } = &mut *team.scratch(worker);
            while let Some(chunk) = chunks.next() {
                let Weighed { segment, kv_head, pages } = &items[chunk.start];
                let Segment { sequence, rows, past } = &step.segments[*segment];
                let tokens = rows.len();
                let (queries, out) = (room(queries, tokens * width), room(attended, tokens * width));
                for (row, queries) in rows.clone().zip(queries.chunks_exact_mut(width)) {
                    let start = (row * spec.heads + kv_head * group) * d;
                    queries.copy_from_slice(&all[start..start + width]);
                }
                let (sums, mass) = room(row, tokens * group + past + tokens).split_at_mut(tokens * group);
                mass.fill(0.0);
                let Some(cached) = cache.head(*sequence, layer, *kv_head) else { return };
                kernels.attend_saving(&shape, queries, tokens, *past, &cached, attention, out, sums);
                kernels.add_attention_mass(&shape, queries, tokens, *past, sums, &cached, attention, mass);
                let mut tile = output.tile(pages.start..pages.start + pages.len().next_multiple_of(8));
                for (of_page, mass) in tile.token(0).iter_mut().zip(mass.chunks(page_tokens)) {
                    *of_page = mass.iter().map(|mass| f64::from(*mass)).sum::<f64>() as f32;
                }
            }
        });
        for Weighed { segment, pages, .. } in items {
            for (page, mass) in mass.values[pages.clone()].iter().enumerate() {
                self.cache.add_mass(step.segments[*segment].sequence, page, f64::from(*mass));
            }
        }
    }

    /// Lets one token of each segment attend, its context shared among the threads by parts. The
    /// parts are those that the kernel takes by itself, so the result is the same for any number of
    /// threads.
    fn attend_parts(&mut self, layer: usize, step: &Step) {
        let (model, team, cache) = (self.model, &*self.team, &*self.cache);
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
        let (shared, queries, workers) = (&*shared, &queries.values, team.pool.threads());
        // Whoever comes first takes the next: what is left at the end is one part at most. Before that a thread
        // takes its next one early, so that memory brings what it begins with.
        let (output, chunks) = (parts.flat(shared.len() * length), Chunks::new(shared.len(), 1));
        team.pool.run(&|worker| {
            let scratch = &mut team.scratch(worker).attention;
            let head = |at: usize| {
                let Part { segment, kv_head, .. } = shared[at];
                cache.head(step.segments[segment].sequence, layer, kv_head)
            };
            let mut next = chunks.next();
            while let Some(chunk) = next {
                next = if chunk.end + 2 * workers <= shared.len() { chunks.next() } else { None };
                let Part { segment, kv_head, .. } = shared[chunk.start];
                let queries =
                    &queries[(step.segments[segment].rows.start * spec.kv_heads + kv_head) * width..][..width];
                let Some(cached) = head(chunk.start) else { return };
                let part = shared[chunk.start].of(step, &cached);
                let cached = next.as_ref().and_then(|next| head(next.start));
                let following =
                    next.as_ref().zip(cached.as_ref()).map(|(next, cached)| shared[next.start].of(step, cached));
                let mut tile = output.tile(chunk.start * length..(chunk.start + 1) * length);
                team.kernels.attend_part(&shape, queries, part, following, scratch, tile.token(0));
                next = next.or_else(|| chunks.next());
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
}

/// What all threads need to attend in one layer.
struct Attention<'a> {
    model: &'a Model,
    team: &'a Team,
    cache: &'a PagedCache,
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
        let shape = self.model.attention_shape(self.layer);
        let key_head = heads.start / (spec.heads / spec.kv_heads);
        // Every sequence of the step was found when room was made for it.
        let Some(cached) = self.cache.head(*sequence, self.layer, key_head) else { return };
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
