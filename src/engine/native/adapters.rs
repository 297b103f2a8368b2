//! Which sequence has which adapter.
use std::{collections::BTreeMap, ops::Range, sync::Arc};

use super::{model::Model, packed::PackedAdapter};
use crate::{
    engine::{
        Adapter, Choice, EngineError, HeadRows, LowRank, Member, Place, SequenceId, attached::Attached,
        mixture::Choices,
    },
    kv::{PrefixKey, prefix_root},
    model::decoder::Step,
};

/// Rows of a step that have an adapter.
pub(super) type Run = (Range<usize>, Arc<PackedAdapter>);

/// The adapters in use.
#[derive(Default)]
pub(super) struct Adapters {
    packed: Attached<PackedAdapter>,
    /// Rows added to a sequence's logits.
    heads: BTreeMap<SequenceId, Arc<HeadRows>>,
    /// Of the rows of the step.
    pub(super) rows: Vec<Run>,
    /// Of the rows that give logits.
    pub(super) logit_rows: Vec<Run>,
    /// What is added to logits, row by row of those that give any.
    pub(super) logit_heads: Vec<(usize, Arc<HeadRows>)>,
}

impl Adapters {
    pub(super) fn attach(
        &mut self,
        model: &Model,
        sequence: SequenceId,
        adapter: Option<(&Arc<Adapter>, &Choices)>,
    ) -> Result<(), EngineError> {
        self.packed
            .attach(&model.spec, sequence, adapter, |adapter, choices| PackedAdapter::new(adapter, choices, model))
    }

    /// Returns what names a sequence's adapter by its numbers: a version of it has a name of its own, and
    /// a copy the same.
    pub(super) fn key(&self, sequence: SequenceId, adapter: &Adapter, choices: &Choices) -> Option<PrefixKey> {
        Some(*self.packed.get(sequence)?.key.get_or_init(|| name(adapter, choices)))
    }

    /// Gives a sequence what another has.
    pub(super) fn copy(&mut self, from: SequenceId, to: SequenceId) {
        self.packed.copy(from, to);
        if let Some(rows) = self.heads.get(&from) {
            self.heads.insert(to, Arc::clone(rows));
        }
    }

    pub(super) fn detach(&mut self, sequence: SequenceId) {
        self.packed.detach(sequence);
    }

    /// Takes all from a sequence that it was given.
    pub(super) fn close(&mut self, sequence: SequenceId) {
        self.detach(sequence);
        self.attach_head(sequence, None);
    }

    /// Gives a sequence rows of the head, or none.
    pub(super) fn attach_head(&mut self, sequence: SequenceId, rows: Option<Arc<HeadRows>>) {
        match rows {
            Some(rows) => _ = self.heads.insert(sequence, rows),
            None => _ = self.heads.remove(&sequence),
        }
    }

    /// Finds the rows of a step that have adapters; neighbours that share one are one run.
    pub(super) fn lay_out(&mut self, step: &Step) {
        let Self { packed, heads, rows, logit_rows, logit_heads } = self;
        rows.clear();
        logit_rows.clear();
        logit_heads.clear();
        if packed.is_empty() && heads.is_empty() {
            return;
        }
        let mut logits = 0;
        for segment in &step.segments {
            let wanted = step.logit_rows[logits..].iter().take_while(|row| (**row as usize) < segment.rows.end).count();
            if let Some(adapter) = packed.get(segment.sequence) {
                extend(rows, segment.rows.clone(), adapter);
                extend(logit_rows, logits..logits + wanted, adapter);
            }
            if let Some(head) = heads.get(&segment.sequence) {
                logit_heads.extend((logits..logits + wanted).map(|row| (row, Arc::clone(head))));
            }
            logits += wanted;
        }
    }
}

fn name(adapter: &Adapter, choices: &Choices) -> PrefixKey {
    let bytes = |values: &[f32]| values.iter().flat_map(|value| value.to_le_bytes()).collect::<Vec<_>>();
    let mut parts = Vec::with_capacity(4 * adapter.len());
    for (Place { layer, target }, LowRank { rank, scale, a, b, magnitude }) in adapter {
        parts.push(format!("{layer} {target:?} {rank} {:08x}", scale.to_bits()).into_bytes());
        parts.extend([bytes(a), bytes(b), bytes(magnitude.as_deref().unwrap_or_default())]);
    }
    for (Place { layer, target }, Choice { members, top_k, temperature }) in choices {
        parts.push(format!("{layer} {target:?} {top_k} {:08x}", temperature.to_bits()).into_bytes());
        for Member { ranks, scale, prototype } in members {
            parts.push(format!("{ranks:?} {:08x}", scale.to_bits()).into_bytes());
            parts.push(bytes(prototype));
        }
    }
    prefix_root(&parts.iter().map(Vec::as_slice).collect::<Vec<_>>())
}

fn extend(runs: &mut Vec<Run>, rows: Range<usize>, adapter: &Arc<PackedAdapter>) {
    match runs.last_mut() {
        _ if rows.is_empty() => {}
        Some((last, same)) if last.end == rows.start && Arc::ptr_eq(same, adapter) => last.end = rows.end,
        _ => runs.push((rows, Arc::clone(adapter))),
    }
}
