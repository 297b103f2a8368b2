//! Layers that attend alike.
use crate::model::{
    rope::{Frequencies, RopeLayout},
    spec::ModelSpec,
};

/// What layers have in common that attend alike: their window, and how they rotate.
#[derive(PartialEq)]
pub(super) struct LayerKind {
    pub(super) window: Option<usize>,
    pub(super) frequencies: Frequencies,
    pub(super) layout: RopeLayout,
}

/// Returns the kinds of a model with room for so many tokens, and the place of each layer's among them.
pub(super) fn kinds(spec: &ModelSpec, room: usize) -> (Vec<LayerKind>, Vec<usize>) {
    let mut kinds: Vec<LayerKind> = Vec::new();
    let place = |layer: usize| {
        let rope = spec.rope(layer);
        let kind = LayerKind { window: spec.windows[layer], frequencies: rope.frequencies(room), layout: rope.layout };
        kinds.iter().position(|known| *known == kind).unwrap_or_else(|| {
            kinds.push(kind);
            kinds.len() - 1
        })
    };
    let places = (0..spec.layers).map(place).collect();
    (kinds, places)
}
