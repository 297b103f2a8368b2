//! What micro adapters add to the head.
use std::sync::Arc;

use super::SonaError;
use crate::engine::{HEAD_RANK, HeadRows, LowRank};

/// Additions of several micro adapters to the head, as one: they share their A, so `Σ s B` is of the same rank.
#[derive(Clone, Debug, PartialEq)]
pub struct Addition {
    /// None where nothing is added.
    rows: Option<Arc<HeadRows>>,
}

impl Addition {
    /// Returns one that adds nothing.
    #[must_use]
    pub fn none() -> Self {
        Self { rows: None }
    }

    /// Returns the sum of these additions to a head whose input has `width` values.
    ///
    /// # Errors
    ///
    /// If their shapes are not of one model, or their A not the same.
    pub fn of<'a>(parts: impl IntoIterator<Item = &'a LowRank>, width: usize) -> Result<Self, SonaError> {
        let mut sum: Option<(Vec<f32>, Vec<[f32; HEAD_RANK]>)> = None;
        for LowRank { rank, scale, a, b, magnitude: _ } in parts {
            if a.len() != rank * width || !(1..=HEAD_RANK).contains(rank) {
                return Err(SonaError::Width { what: "directions", found: a.len(), needed: width });
            }
            if b.iter().all(|value| value.abs() <= 0.0) {
                continue;
            }
            let mut directions = a.clone();
            directions.resize(HEAD_RANK * width, 0.0);
            let (of, rows) = sum.get_or_insert_with(|| (directions.clone(), vec![[0.0; HEAD_RANK]; b.len() / rank]));
            if *of != directions || b.len() != rank * rows.len() {
                return Err(SonaError::Width { what: "a micro adapter", found: b.len(), needed: rows.len() * rank });
            }
            let add = |(sum, value): (&mut f32, &f32)| *sum += scale * value;
            if *rank == HEAD_RANK {
                // As it lies, all at once.
                rows.as_flattened_mut().iter_mut().zip(b).for_each(add);
            } else {
                rows.iter_mut()
                    .zip(b.chunks_exact(*rank))
                    .for_each(|(row, more)| row.iter_mut().zip(more).for_each(add));
            }
        }
        let Some((a, rows)) = sum else { return Ok(Self::none()) };
        let is_other = |(_, row): &(u32, &[f32; HEAD_RANK])| row.iter().any(|value| value.abs() > 0.0);
        let moved: Vec<u32> = (0..).zip(&rows).filter(is_other).map(|(token, _)| token).collect();
        Ok(Self { rows: Some(Arc::new(HeadRows::new(a, &rows, &moved, 1.0))) })
    }

    /// Adds to the logits of a position, A h being `projected`; where nothing is added every bit stays as it is.
    ///
    /// # Panics
    ///
    /// If the logits are not of the model.
    pub fn apply(&self, projected: [f32; HEAD_RANK], logits: &mut [f32]) {
        let Some(rows) = &self.rows else { return };
        assert!(logits.len() == rows.vocab_size(), "{} logits, {} wanted", logits.len(), rows.vocab_size());
        rows.add(projected, 0, logits);
    }

    /// Returns it as an engine adds it where logits are computed ([`LanguageModel::attach_head`]).
    ///
    /// [`LanguageModel::attach_head`]: crate::engine::LanguageModel::attach_head
    #[must_use]
    pub fn rows(&self) -> Option<&Arc<HeadRows>> {
        self.rows.as_ref()
    }
}
