//! An adapter packed for the kernels.
use std::{ops::Range, sync::OnceLock};

use ruvlab_kernels::{ActivationClass, Arena, Format, Matrix, dequantize_row, quantize_row};

use super::model::Model;
use crate::{
    engine::{Adapter, Choice, EngineError, LowRank, Place, Target, mixture::Choices},
    kv::PrefixKey,
};

/// Matrices that share their input, and so one product with A.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Group {
    /// Queries, keys, values of a layer.
    Heads(usize),
    /// The projection of what attended.
    Attended(usize),
    /// Gate and up.
    Gates(usize),
    /// Down.
    Down(usize),
    /// The head.
    Head,
}

impl Group {
    /// Returns the group that a token comes to next, the last layer's and the head's aside.
    pub(super) fn next(self) -> Option<Self> {
        match self {
            Self::Heads(layer) => Some(Self::Attended(layer)),
            Self::Attended(layer) => Some(Self::Gates(layer)),
            Self::Gates(layer) => Some(Self::Down(layer)),
            Self::Down(layer) => Some(Self::Heads(layer + 1)),
            Self::Head => None,
        }
    }
}

/// The most matrices of a group.
pub(super) const SLOTS: usize = 3;

/// The addition to one matrix of a group.
pub(super) struct Part {
    /// Of the results of the group's A.
    pub(super) ranks: Range<usize>,
    pub(super) scale: f32,
    /// `[O, rank]`.
    pub(super) b: Matrix,
    /// What the rows of the whole are multiplied by, where the change is a decomposed one.
    pub(super) factors: Option<Vec<f32>>,
    /// How rows choose among its ranks, where they are of several adapters.
    pub(super) choice: Option<Choice>,
}

/// The additions to the matrices of a group.
pub(super) struct Packed {
    /// The A of all parts, one below the other.
    pub(super) a: Matrix,
    /// In the order of the group's matrices.
    pub(super) parts: [Option<Part>; SLOTS],
}

impl Packed {
    /// Returns how many results A has.
    pub(super) fn ranks(&self) -> usize {
        self.a.rows()
    }
}

/// Groups in a layer.
const GROUPS: usize = 4;

/// The matrices of each, in the order of the group's.
const TARGETS: [&[Target]; GROUPS] =
    [&[Target::Query, Target::Key, Target::Value], &[Target::Output], &[Target::Gate, Target::Up], &[Target::Down]];

/// A packed adapter.
pub(super) struct PackedAdapter {
    /// What names it, where that was asked for.
    pub(super) key: OnceLock<PrefixKey>,
    layers: Vec<[Option<Packed>; GROUPS]>,
    head: Option<Packed>,
}

/// Whether numbers may be rounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rounding {
    /// They stay what they are, as the numbers of the matrices they are added to did.
    Exact,
    /// To 16 bits: next to matrices in blocks. All an adapter has is read at every token, and half as
    /// much is half the time.
    Half,
}

impl Rounding {
    /// Returns how the additions to a group's matrices are held.
    fn of(model: &Model, group: Group) -> Self {
        let layer = |layer: usize| &model.layers[layer];
        let in_blocks = |matrix: &Matrix| matrix.activation_class() == ActivationClass::Integer;
        let all = match group {
            Group::Heads(at) => layer(at).projections.iter().all(in_blocks),
            Group::Attended(at) => in_blocks(&layer(at).attention_output),
            Group::Gates(at) => in_blocks(&layer(at).gate) && in_blocks(&layer(at).up),
            Group::Down(at) => in_blocks(&layer(at).down),
            // What is added to logits is seen as it is, and the head is one matrix of hundreds.
            Group::Head => false,
        };
        if all { Self::Half } else { Self::Exact }
    }
}

/// The range in which f16 keeps eleven bits of a number; smaller ones it keeps to 3e-8.
const HALF_RANGE: f32 = 65504.0;

/// Returns numbers in the smallest type that holds them: exactly, where they may not be rounded. Adapters
/// trained or stored in 16 bits lose nothing.
fn encoded(values: &[f32], rounding: Rounding) -> Result<(Format, Vec<u8>), EngineError> {
    let mut bytes = vec![0; values.len() * 4];
    let mut back = vec![0.0; values.len()];
    let fits = rounding == Rounding::Half && values.iter().all(|value| value.abs() <= HALF_RANGE);
    for format in [Format::F16, Format::Bf16, Format::F32] {
        bytes.resize(values.len() * format.block_bytes(), 0);
        quantize_row(format, values, &mut bytes).map_err(|error| EngineError::Adapter(error.to_string()))?;
        dequantize_row(format, &bytes, &mut back);
        let kept = || values.iter().zip(&back).all(|(value, back)| value.to_bits() == back.to_bits());
        if fits || format == Format::F32 || kept() {
            return Ok((format, bytes));
        }
    }
    Ok((Format::F32, bytes))
}

/// Room in an arena for what is no more than so many numbers, in so many matrices.
fn room(parts: &[&LowRank]) -> usize {
    let padded = |rows: usize, columns: usize| rows.next_multiple_of(8) * columns * 4 + 512;
    parts
        .iter()
        .map(|part| padded(part.b.len() / part.rank, part.rank) + padded(part.rank, part.a.len() / part.rank))
        .sum()
}

fn pack(
    arena: &mut Arena,
    rounding: Rounding,
    rows: usize,
    columns: usize,
    values: &[f32],
) -> Result<Matrix, EngineError> {
    let (format, bytes) = encoded(values, rounding)?;
    Matrix::pack(arena, format, rows, columns, &bytes).map_err(|error| EngineError::Adapter(error.to_string()))
}

fn pack_as(
    arena: &mut Arena,
    format: Format,
    rows: usize,
    columns: usize,
    values: &[f32],
) -> Result<Matrix, EngineError> {
    let mut bytes = vec![0; values.len() / format.block_values() * format.block_bytes()];
    quantize_row(format, values, &mut bytes).map_err(|error| EngineError::Adapter(error.to_string()))?;
    Matrix::pack(arena, format, rows, columns, &bytes).map_err(|error| EngineError::Adapter(error.to_string()))
}

/// How A is held next to matrices in blocks: finely, and multiplied with the activations that the group's own
/// matrices use, in integers, straight from where it lies. A sum over a long row of floats, a few rows at a time,
/// would wait for each addition.
const BLOCKS: Format = Format::Q13_0;

/// A matrix with what is added to it, and how rows choose among that.
type Addition<'a> = (Option<&'a LowRank>, Option<&'a Choice>, &'a Matrix);

/// Packs the additions to the matrices of a group.
fn pack_group(arena: &mut Arena, rounding: Rounding, members: &[Addition<'_>]) -> Result<Option<Packed>, EngineError> {
    let ranks: usize = members.iter().filter_map(|(member, ..)| Some((*member)?.rank)).sum();
    let mut a = Vec::new();
    let (mut parts, mut start) = ([const { None }; SLOTS], 0);
    for (part, (member, choice, matrix)) in parts.iter_mut().zip(members.iter().copied()) {
        let Some(member) = member else { continue };
        let LowRank { rank, scale, a: rows, b, .. } = member;
        a.extend_from_slice(rows);
        let b = pack(arena, rounding, b.len() / rank, *rank, b)?;
        let factors = member.factors(|row, out| matrix.row(row, out));
        *part = Some(Part { ranks: start..start + rank, scale: *scale, b, factors, choice: choice.cloned() });
        start += rank;
    }
    if ranks == 0 {
        return Ok(None);
    }
    let columns = a.len() / ranks;
    let in_range = || a.iter().all(|value| value.abs() <= HALF_RANGE);
    let in_blocks = rounding == Rounding::Half && columns.is_multiple_of(BLOCKS.block_values()) && in_range();
    let a = if in_blocks {
        pack_as(arena, BLOCKS, ranks, columns, &a)?
    } else {
        pack(arena, rounding, ranks, columns, &a)?
    };
    Ok(Some(Packed { a, parts }))
}

impl PackedAdapter {
    pub(super) fn new(adapter: &Adapter, choices: &Choices, model: &Model) -> Result<Self, EngineError> {
        let layers = model.layers.len();
        let of = |layer: usize, targets: &[Target]| {
            let member = |&target: &Target| {
                let place = Place { layer, target };
                (adapter.get(&place), choices.get(&place), model.matrix(layer, target))
            };
            targets.iter().map(member).collect::<Vec<_>>()
        };
        let all: Vec<&LowRank> = adapter.values().collect();
        let mut arena = Arena::with_capacity(room(&all)).map_err(|error| EngineError::Adapter(error.to_string()))?;
        let mut packed_layers = Vec::with_capacity(layers);
        for layer in 0..layers {
            let mut packed = [const { None }; GROUPS];
            let groups = [Group::Heads(layer), Group::Attended(layer), Group::Gates(layer), Group::Down(layer)];
            for ((packed, targets), group) in packed.iter_mut().zip(TARGETS).zip(groups) {
                *packed = pack_group(&mut arena, Rounding::of(model, group), &of(layer, targets))?;
            }
            packed_layers.push(packed);
        }
        let head = pack_group(&mut arena, Rounding::of(model, Group::Head), &of(layers, &[Target::Head]))?;
        Ok(Self { key: OnceLock::new(), layers: packed_layers, head })
    }

    /// Returns the additions to a group; none of a layer that there is not.
    pub(super) fn group(&self, group: Group) -> Option<&Packed> {
        let layer = |layer: usize, at: usize| self.layers.get(layer)?[at].as_ref();
        match group {
            Group::Heads(at) => layer(at, 0),
            Group::Attended(at) => layer(at, 1),
            Group::Gates(at) => layer(at, 2),
            Group::Down(at) => layer(at, 3),
            Group::Head => self.head.as_ref(),
        }
    }
}
