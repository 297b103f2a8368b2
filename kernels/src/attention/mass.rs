//! How much of the attention each key gets.
use super::{
    AttentionScratch, AttentionShape, Cached, KEY_TILE, KeyValuePages, room,
    walk::{Walk, visible},
};
use crate::Kernels;

impl Kernels {
    /// Adds to each key's mass the weights it has in the softmax of each query row:
    /// `mass[s] += Σ_q exp(score[q, s] − log_sum_exps[q])`.
    ///
    /// It computes the scores anew from the logarithms that [`Kernels::attend_saving`] wrote, so
    /// attention costs nothing more where nobody asks for this. The masses of a row add up to 1.
    ///
    /// # Shapes
    ///
    /// As [`Kernels::attend_saving`]; `mass` is `[S]`, of at least the positions seen.
    ///
    /// # Panics
    ///
    /// As [`Kernels::attend`].
    #[expect(clippy::too_many_arguments, reason = "one of them holds buffers, so that nothing is allocated")]
    pub fn add_attention_mass(
        &self,
        shape: &AttentionShape,
        queries: &[f32],
        tokens: usize,
        first: usize,
        log_sum_exps: &[f32],
        cached: &dyn KeyValuePages,
        scratch: &mut AttentionScratch,
        mass: &mut [f32],
    ) {
        let walk = Walk::new(self, shape, queries, tokens, cached);
        let (d, group) = (shape.head_dim, walk.group);
        assert_eq!(log_sum_exps.len(), tokens * group, "mass: {} sums of exponentials", log_sum_exps.len());
        let scaled = walk.scaled(queries, &mut scratch.queries);
        let wide = room(&mut scratch.blocks, KEY_TILE * d);
        let scores = room(&mut scratch.scores, (group + 1) * KEY_TILE);
        let rows = scaled.chunks_exact(group * d).zip(log_sum_exps.chunks_exact(group));
        for (token, (queries, log_sum_exps)) in rows.enumerate() {
            let seen = walk.seen(first + token);
            for tile in seen.start / KEY_TILE..seen.end.div_ceil(KEY_TILE) {
                let visible = visible(&seen, tile);
                let (start, count) = (tile * KEY_TILE + visible.start, visible.len());
                for (page, at) in walk.pages(tile, visible) {
                    walk.score(queries, page.keys, wide, &mut scores[at..][..group * KEY_TILE], Cached::NOTHING);
                }
                for (scores, log_sum_exp) in scores.chunks_exact_mut(KEY_TILE).zip(log_sum_exps) {
                    let scores = &mut scores[..count];
                    if let Some(cap) = shape.soft_cap {
                        self.soft_cap(scores, cap);
                    }
                    (self.softmax.exponentials)(scores, *log_sum_exp);
                    self.add(&mut mass[start..][..count], scores);
                }
            }
        }
    }
}
