//! The weights of a model, packed for the kernels.
use std::{ops::Range, sync::Arc};

use ruvlab_kernels::{Arena, AttentionShape, Format, Matrix, Pool, RowBytes, dequantize_row};

use crate::{
    engine::{
        EngineError, Target, WeightLoad,
        layer_kind::{self, LayerKind},
    },
    model::{
        families::{self, in_layer},
        spec::ModelSpec,
        weights::{Part, TensorType, Weights},
    },
};

/// A part of a model's files, as matrices lie in it.
#[derive(Debug)]
struct Mapped(Part);

impl RowBytes for Mapped {
    fn bytes(&self) -> &[u8] {
        self.0.bytes()
    }

    fn release(&self, range: Range<usize>) {
        self.0.release(range);
    }
}

/// A layer's weights.
pub(super) struct Layer {
    pub(super) attention_norm: Vec<f32>,
    /// Queries, keys, values.
    pub(super) projections: [Matrix; 3],
    pub(super) biases: Option<[Vec<f32>; 3]>,
    /// Of queries and keys, each head by itself.
    pub(super) head_norms: Option<[Vec<f32>; 2]>,
    pub(super) attention_output: Matrix,
    pub(super) post_attention_norm: Option<Vec<f32>>,
    pub(super) feed_forward_norm: Vec<f32>,
    pub(super) gate: Matrix,
    pub(super) up: Matrix,
    pub(super) down: Matrix,
    pub(super) post_feed_forward_norm: Option<Vec<f32>>,
    /// Its place in [`Model::kinds`].
    pub(super) kind: usize,
}

/// The weights of a model.
pub(super) struct Model {
    pub(super) spec: ModelSpec,
    pub(super) embedding: Matrix,
    pub(super) layers: Vec<Layer>,
    pub(super) kinds: Vec<LayerKind>,
    pub(super) output_norm: Vec<f32>,
    /// The embedding where there is none.
    pub(super) output: Option<Matrix>,
}

/// Returns the kernels' name of a file's format.
pub(in crate::engine) fn format(kind: TensorType) -> Format {
    match kind {
        TensorType::F32 => Format::F32,
        TensorType::F16 => Format::F16,
        TensorType::Bf16 => Format::Bf16,
        TensorType::Q4_0 => Format::Q4_0,
        TensorType::Q4_1 => Format::Q4_1,
        TensorType::Q5_0 => Format::Q5_0,
        TensorType::Q5_1 => Format::Q5_1,
        TensorType::Q8_0 => Format::Q8_0,
        TensorType::Q2K => Format::Q2K,
        TensorType::Q3K => Format::Q3K,
        TensorType::Q4K => Format::Q4K,
        TensorType::Q5K => Format::Q5K,
        TensorType::Q6K => Format::Q6K,
    }
}

/// Takes tensors out of a file, one after the other.
struct Packer<'a> {
    weights: &'a Weights,
    pool: &'a Pool,
    load: WeightLoad,
    arena: Arena,
}

impl<'a> Packer<'a> {
    /// Reserves exactly what the file's matrices take once they are packed.
    fn new(weights: &'a Weights, pool: &'a Pool, load: WeightLoad) -> Result<Self, EngineError> {
        let packed = |name: &str| load == WeightLoad::Packed || weights.stored(name).is_none();
        let matrices = weights.index().tensors.iter().filter(|(name, info)| info.shape.len() == 2 && packed(name));
        let bytes = matrices.map(|(name, info)| {
            let (rows, columns) = (info.shape[0], info.shape[1]);
            let packed = Matrix::packed_bytes(format(info.kind), rows, columns);
            // A matrix that holds several may be cut, and each part padded to whole groups of rows.
            packed
                .and_then(|packed| packed.checked_add(3 * Matrix::packed_bytes(format(info.kind), 1, columns)?))
                .ok_or_else(|| EngineError::Weights(format!("tensor {name:?} cannot be packed")))
        });
        let bytes = bytes.sum::<Result<usize, _>>()?;
        let arena = Arena::with_capacity(bytes).map_err(|error| EngineError::Weights(error.to_string()))?;
        Ok(Self { weights, pool, load, arena })
    }

    /// Returns the parts of a matrix that have so many rows each; the file's pages are given back, but
    /// of those that are used from there.
    fn matrices<const N: usize>(&mut self, name: &str, rows: [usize; N]) -> Result<[Matrix; N], EngineError> {
        let refuse = |error: &dyn std::fmt::Display| EngineError::Weights(format!("tensor {name:?}: {error}"));
        let info = self.weights.index().tensors.get(name).ok_or_else(|| refuse(&"missing"))?;
        let (columns, kind) = (info.shape[1], info.kind);
        if let Some((part, place)) = self.weights.stored(name).filter(|_| self.load == WeightLoad::Mapped) {
            let source: Arc<dyn RowBytes> = Arc::new(Mapped(part));
            let mut start = place.start;
            let mut parts = Vec::with_capacity(N);
            for rows in rows {
                let end = start + place.len() / info.shape[0] * rows;
                let mapped = Matrix::mapped(Arc::clone(&source), start..end, format(kind), rows, columns);
                parts.push(mapped.map_err(|error| refuse(&error))?);
                start = end;
            }
            return <[Matrix; N]>::try_from(parts).map_err(|_parts| refuse(&"too few parts"));
        }
        let bytes = self.weights.tensor_bytes(name).map_err(|error| refuse(&error))?;
        let mut start = 0;
        let mut parts = Vec::with_capacity(N);
        for rows in rows {
            let length = bytes.len() / info.shape[0] * rows;
            let part = bytes.get(start..start + length).ok_or_else(|| refuse(&"too short"))?;
            let packed = Matrix::pack_on(self.pool, &mut self.arena, format(kind), rows, columns, part);
            parts.push(packed.map_err(|error| refuse(&error))?);
            start += length;
        }
        drop(bytes);
        self.weights.release(name);
        let Ok(parts) = <[Matrix; N]>::try_from(parts) else { return Err(refuse(&"too few parts")) };
        Ok(parts)
    }

    fn matrix(&mut self, name: &str) -> Result<Matrix, EngineError> {
        let rows = self.weights.index().tensors.get(name).map_or(0, |info| info.shape[0]);
        let [matrix] = self.matrices(name, [rows])?;
        Ok(matrix)
    }

    fn vector(&self, name: &str) -> Result<Vec<f32>, EngineError> {
        let missing = || EngineError::Weights(format!("tensor {name:?} is missing"));
        let info = self.weights.index().tensors.get(name).ok_or_else(missing)?;
        let bytes = self.weights.tensor_bytes(name).map_err(|error| EngineError::Weights(error.to_string()))?;
        let mut out = vec![0.0; info.values()];
        dequantize_row(format(info.kind), &bytes, &mut out);
        Ok(out)
    }

    fn layer(
        &mut self,
        spec: &ModelSpec,
        names: &families::LayerTensors,
        i: usize,
        kind: usize,
    ) -> Result<Layer, EngineError> {
        let name = |part: &str| in_layer(i, part);
        let (queries, keys) = (spec.heads * spec.head_dim, spec.kv_heads * spec.head_dim);
        let projections = if spec.fused_query_key_value {
            self.matrices(&name(names.query_key_value), [queries, keys, keys])?
        } else {
            [self.matrix(&name(names.query))?, self.matrix(&name(names.key))?, self.matrix(&name(names.value))?]
        };
        let attention_output = self.matrix(&name(names.attention_output))?;
        let [gate, up] = if spec.fused_gate_up {
            self.matrices(&name(names.up), [spec.intermediate_size; 2])?
        } else {
            [self.matrix(&name(names.gate))?, self.matrix(&name(names.up))?]
        };
        let down = self.matrix(&name(names.down))?;
        let vector = |part: &str| self.vector(&name(part));
        Ok(Layer {
            attention_norm: vector(names.attention_norm)?,
            projections,
            biases: if spec.attention_bias {
                Some([vector(names.query_bias)?, vector(names.key_bias)?, vector(names.value_bias)?])
            } else {
                None
            },
            head_norms: if spec.head_norms { Some([vector(names.query_norm)?, vector(names.key_norm)?]) } else { None },
            attention_output,
            post_attention_norm: spec.post_norms.then(|| vector(names.post_attention_norm)).transpose()?,
            feed_forward_norm: vector(names.feed_forward_norm)?,
            gate,
            up,
            down,
            post_feed_forward_norm: spec.post_norms.then(|| vector(names.post_feed_forward_norm)).transpose()?,
            kind,
        })
    }
}

impl Model {
    /// Returns how the heads of a layer attend.
    pub(super) fn attention_shape(&self, layer: usize) -> AttentionShape {
        AttentionShape {
            head_dim: self.spec.head_dim,
            scale: self.spec.attention_scale as f32,
            soft_cap: self.spec.attention_softcap.map(|cap| cap as f32),
            window: self.kinds[self.layers[layer].kind].window,
        }
    }

    /// Returns the matrix of a target in a layer.
    pub(super) fn matrix(&self, layer: usize, target: Target) -> &Matrix {
        let head = self.output.as_ref().unwrap_or(&self.embedding);
        let Some(layer) = self.layers.get(layer) else { return head };
        let [queries, keys, values] = &layer.projections;
        match target {
            Target::Query => queries,
            Target::Key => keys,
            Target::Value => values,
            Target::Output => &layer.attention_output,
            Target::Gate => &layer.gate,
            Target::Up => &layer.up,
            Target::Down => &layer.down,
            Target::Head => head,
        }
    }

    /// Returns the model with room for `room` tokens a sequence.
    ///
    /// Matrices are packed in the order of use, each right after it was read: beside the packed
    /// weights there is never more than one tensor of the file in memory.
    pub(super) fn load(weights: &Weights, room: usize, pool: &Pool, load: WeightLoad) -> Result<Self, EngineError> {
        let spec = weights.spec().clone();
        let unknown = || EngineError::Weights(format!("architecture {:?} is not supported", spec.architecture));
        let family = families::find(&spec.architecture).ok_or_else(unknown)?;
        let mut packer = Packer::new(weights, pool, load)?;
        let embedding = packer.matrix(family.model.token_embedding)?;
        let (kinds, places) = layer_kind::kinds(&spec, room);
        let mut layers = Vec::with_capacity(spec.layers);
        for (i, kind) in places.into_iter().enumerate() {
            layers.push(packer.layer(&spec, &family.layer, i, kind)?);
        }
        Ok(Self {
            layers,
            kinds,
            output_norm: packer.vector(family.model.output_norm)?,
            output: if spec.tied_embeddings { None } else { Some(packer.matrix(family.model.output)?) },
            embedding,
            spec,
        })
    }
}
