//! The matrices of a model that adapters can add to.
use std::fmt;

use crate::model::spec::ModelSpec;

/// A linear layer an adapter can attach to, in the order a decoder layer uses them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Target {
    /// Queries.
    Query,
    /// Keys.
    Key,
    /// Values.
    Value,
    /// The projection of what was attended.
    Output,
    /// The gate of the feed-forward layer.
    Gate,
    /// Its other half.
    Up,
    /// The way back from it.
    Down,
    /// The head, which has no layer.
    Head,
}

impl Target {
    /// Every target.
    pub const ALL: [Self; 8] =
        [Self::Query, Self::Key, Self::Value, Self::Output, Self::Gate, Self::Up, Self::Down, Self::Head];

    /// Returns the matrix's shape, rows out and columns in: `[O, I]`.
    #[must_use]
    pub fn shape(self, spec: &ModelSpec) -> (usize, usize) {
        let (e, f, v) = (spec.hidden_size, spec.intermediate_size, spec.vocab_size);
        let (q, k) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        match self {
            Self::Query => (q, e),
            Self::Key | Self::Value => (k, e),
            Self::Output => (e, q),
            Self::Gate | Self::Up => (f, e),
            Self::Down => (e, f),
            Self::Head => (v, e),
        }
    }
}

/// One matrix of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// The layer, from 0; the head counts as one layer more than there are.
    pub layer: usize,
    /// Which of its matrices.
    pub target: Target,
}

impl Place {
    /// Returns the places of these targets in all layers.
    #[must_use]
    pub fn all(spec: &ModelSpec, targets: &[Target]) -> Vec<Self> {
        let layers =
            |target: Target| if target == Target::Head { spec.layers..spec.layers + 1 } else { 0..spec.layers };
        targets.iter().flat_map(|&target| layers(target).map(move |layer| Self { layer, target })).collect()
    }

    /// Returns whether a model has such a matrix.
    #[must_use]
    pub fn is_in(self, spec: &ModelSpec) -> bool {
        if self.target == Target::Head { self.layer == spec.layers } else { self.layer < spec.layers }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.target {
            Target::Query => "query",
            Target::Key => "key",
            Target::Value => "value",
            Target::Output => "attention output",
            Target::Gate => "gate",
            Target::Up => "up",
            Target::Down => "down",
            Target::Head => return f.write_str("head"),
        };
        write!(f, "{name} of layer {}", self.layer)
    }
}
