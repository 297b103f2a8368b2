//! Attention by its definition: all scores of all rows at once.
use super::{AttentionScratch, AttentionShape, KEY_TILE, KeyValuePages, Operand, PANEL, Product, room, walk::Walk};
use crate::Kernels;

impl Kernels {
    /// Writes what [`Kernels::attend`] writes, with every score in memory at once: what the other one
    /// is measured against.
    ///
    /// # Shapes
    ///
    /// As [`Kernels::attend`].
    ///
    /// # Numerics
    ///
    /// Both are f32, and differ by rounding: mean squared differences are at most 1e-10 of the mean
    /// square. The buffers grow to `4 (T G (S + D) + 2 S D)` bytes and a little more for S keys,
    /// instead of staying at some tiles.
    ///
    /// # Panics
    ///
    /// As [`Kernels::attend`].
    #[expect(clippy::too_many_arguments, reason = "one of them holds buffers, so that nothing is allocated")]
    pub fn attend_naively(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        cached: &dyn KeyValuePages,
        scratch: &mut AttentionScratch,
        out: &mut [f32],
    ) {
        let d = shape.head_dim;
        assert_eq!(queries.len(), out.len(), "attend: {} query values, room for {}", queries.len(), out.len());
        let walk = Walk::new(self, shape, queries, tokens, cached);
        let (rows, keys) = (tokens * walk.group, first + tokens);
        // Positions before the first one that any row sees are left out.
        let start = walk.seen(first).start / KEY_TILE * KEY_TILE;
        let (width, wide) = ((keys - start).next_multiple_of(KEY_TILE), d.next_multiple_of(PANEL));
        let scaled = walk.scaled(queries, &mut scratch.queries);
        let blocks = room(&mut scratch.blocks, d * KEY_TILE);
        let transposed = room(&mut scratch.keys, (width / KEY_TILE) * d * KEY_TILE);
        let values = room(&mut scratch.values, width * wide);
        let scores = room(&mut scratch.scores, rows * width);
        let sums = room(&mut scratch.sums, rows * wide);
        transposed.fill(0.0);
        values.fill(0.0);
        for index in 0..width / KEY_TILE {
            let base = start + index * KEY_TILE;
            let tokens = walk.seen(first).start.saturating_sub(base)..(keys - base).min(KEY_TILE);
            let keys = &mut transposed[index * d * KEY_TILE..][..d * KEY_TILE];
            let values = &mut values[index * KEY_TILE * wide..][..KEY_TILE * wide];
            walk.unpack(base / KEY_TILE, tokens, keys, values, blocks);
            (self.attention.multiply)(
                Operand { values: scaled, stride: d },
                Operand { values: keys, stride: KEY_TILE },
                &mut scores[index * KEY_TILE..],
                Product { m: rows, n: KEY_TILE, k: d, stride: width, accumulate: false },
            );
        }
        for (row, scores) in scores.chunks_exact_mut(width).enumerate() {
            let seen = walk.seen(first + row / walk.group);
            let (from, to) = (seen.start - start, seen.end - start);
            scores[..from].fill(0.0);
            scores[to..].fill(0.0);
            let scores = &mut scores[from..to];
            if let Some(cap) = shape.soft_cap {
                self.soft_cap(scores, cap);
            }
            self.softmax(scores, to - from);
        }
        (self.attention.multiply)(
            Operand { values: scores, stride: width },
            Operand { values, stride: wide },
            sums,
            Product { m: rows, n: wide, k: width, stride: wide, accumulate: false },
        );
        for (out, sums) in out.chunks_exact_mut(d).zip(sums.chunks_exact(wide)) {
            out.copy_from_slice(&sums[..d]);
        }
    }
}
