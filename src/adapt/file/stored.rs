//! Where a model's matrices lie in its GGUF file.
use std::ops::Range;

use crate::{
    engine::{Place, Target},
    model::{
        families::{self, in_layer},
        spec::ModelSpec,
    },
};

/// A matrix's place in the file: a tensor, or some rows of one that holds several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The tensor's name.
    pub tensor: String,
    /// The matrix's rows in it.
    pub rows: Range<usize>,
    /// All rows it has.
    pub of: usize,
}

impl Stored {
    /// Returns where a matrix lies; none if the model's family is not known, or has it not.
    #[must_use]
    pub fn of(spec: &ModelSpec, place: Place) -> Option<Self> {
        let family = families::find(&spec.architecture).filter(|_| place.is_in(spec))?;
        let names = &family.layer;
        let rows = |target: Target| target.shape(spec).0;
        let (fused, parts): (&str, &[Target]) = match place.target {
            Target::Query | Target::Key | Target::Value if spec.fused_query_key_value => {
                (names.query_key_value, &[Target::Query, Target::Key, Target::Value])
            }
            Target::Gate | Target::Up if spec.fused_gate_up => (names.up, &[Target::Gate, Target::Up]),
            Target::Head => {
                let tensor = if spec.tied_embeddings { family.model.token_embedding } else { family.model.output };
                let of = rows(Target::Head);
                return Some(Self { tensor: tensor.to_owned(), rows: 0..of, of });
            }
            target => {
                let name = match target {
                    Target::Query => names.query,
                    Target::Key => names.key,
                    Target::Value => names.value,
                    Target::Output => names.attention_output,
                    Target::Gate => names.gate,
                    Target::Up => names.up,
                    Target::Down | Target::Head => names.down,
                };
                let of = rows(target);
                return Some(Self { tensor: in_layer(place.layer, name), rows: 0..of, of });
            }
        };
        let start = parts.iter().take_while(|part| **part != place.target).map(|part| rows(*part)).sum();
        let of = parts.iter().map(|part| rows(*part)).sum();
        Some(Self { tensor: in_layer(place.layer, fused), rows: start..start + rows(place.target), of })
    }
}
