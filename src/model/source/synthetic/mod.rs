//! Synthetic weights: a published model's exact shape with seeded random numbers, for speed only.
//!
//! Time and memory of a step depend on shapes and storage types, not on what the numbers are. The
//! text such a model writes means nothing, and neither does its perplexity.
mod blocks;
mod shapes;
mod vocabulary;

use std::path::Path;

use indexmap::IndexMap;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use crate::model::weights::{
    TensorType, Value,
    write::{Layout, Planned, TensorSink, WriteError},
};
use shapes::{Architecture, RopeFactors, SHAPES, Shape};

/// The version of the generator: other numbers, or another file, for the same name.
pub const VERSION: u32 = 1;

/// The metadata key that marks a file of synthetic weights.
pub const MARK: &str = "ruvlab.synthetic";

/// Bytes made at a time.
const PIECE_BYTES: usize = 1 << 20;

/// Why there are no such weights.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SyntheticError {
    /// Not of the form `SHAPE:QUANT`.
    #[error("synthetic weights are named `synthetic:SHAPE:QUANT`, as in synthetic:qwen2.5-0.5b:q4_k, not {0:?}")]
    Form(String),
    /// No shape of that name.
    #[error("there is no shape {found:?} (there are: {})", shapes().collect::<Vec<_>>().join(", "))]
    Shape {
        /// What was asked for.
        found: String,
    },
    /// No storage type of that name.
    #[error("there is no storage type {found:?} (there are: {})",
        TensorType::all().map(TensorType::name).collect::<Vec<_>>().join(", "))]
    Kind {
        /// What was asked for.
        found: String,
    },
}

/// A shape and the type its matrices are stored in.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Synthetic {
    shape: &'static Shape,
    kind: TensorType,
}

/// Returns the names of all shapes.
pub fn shapes() -> impl Iterator<Item = &'static str> {
    SHAPES.iter().map(|shape| shape.name)
}

impl Synthetic {
    /// Returns the weights named `SHAPE:QUANT`, in any case.
    ///
    /// # Errors
    ///
    /// If there is no such shape or storage type; the message lists what there is.
    pub fn parse(name: &str) -> Result<Self, SyntheticError> {
        let (shape, kind) = name.split_once(':').ok_or_else(|| SyntheticError::Form(name.to_owned()))?;
        let (shape, kind) = (shape.to_lowercase(), kind.to_lowercase());
        let known = SHAPES.iter().find(|known| known.name == shape);
        Ok(Self {
            shape: known.ok_or(SyntheticError::Shape { found: shape })?,
            kind: TensorType::from_name(&kind).ok_or(SyntheticError::Kind { found: kind })?,
        })
    }

    /// Returns `SHAPE:QUANT`.
    #[must_use]
    pub fn name(&self) -> String {
        format!("{}:{}", self.shape.name, self.kind)
    }

    /// Returns the name of its file, which holds shape, storage type and version of the generator.
    #[must_use]
    pub fn file_name(&self) -> String {
        format!("{}-{}-v{VERSION}.gguf", self.shape.name, self.kind)
    }

    /// Returns the layout of its file.
    ///
    /// # Errors
    ///
    /// None for the shapes there are; the writer checks all the same.
    pub fn layout(&self) -> Result<Layout, WriteError> {
        let tensors = self.tensors().into_iter().map(|tensor| tensor.planned).collect();
        Layout::new(&self.metadata(), tensors)
    }

    /// Writes its file in constant memory; `progress` is told the bytes done and the bytes of all.
    ///
    /// # Errors
    ///
    /// If the file cannot be written.
    pub fn write(&self, path: &Path, progress: &mut dyn FnMut(u64, u64)) -> Result<(), WriteError> {
        let layout = self.layout()?;
        let tensors: IndexMap<String, Content> =
            self.tensors().into_iter().map(|tensor| (tensor.planned.name, tensor.content)).collect();
        let (mut done, total) = (layout.header().len() as u64, layout.size());
        let mut piece = vec![0; PIECE_BYTES];
        layout.write_file(path, |planned, sink| {
            let content = tensors.get(&planned.name).unwrap_or(&Content::Ones);
            self.fill(planned, content, &mut piece, sink, &mut |bytes| {
                done += bytes;
                progress(done, total);
            })
        })
    }

    fn fill(
        &self,
        planned: &Planned,
        content: &Content,
        piece: &mut [u8],
        sink: &mut TensorSink<'_>,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), WriteError> {
        let values: usize = planned.shape.iter().product();
        let sigma = match content {
            Content::Ones => return (0..values).try_for_each(|_| sink.push(&1.0f32.to_le_bytes())),
            Content::Given(given) => return given.iter().try_for_each(|value| sink.push(&value.to_le_bytes())),
            Content::Random(sigma) => *sigma,
        };
        let seed = blake3::hash(format!("{} {} {VERSION}", self.name(), planned.name).as_bytes());
        let mut random = ChaCha8Rng::from_seed(*seed.as_bytes());
        let block = planned.kind.block_bytes();
        let mut missing = values / planned.kind.block_values() * block;
        let whole = piece.len() / block * block;
        while missing > 0 {
            let bytes = missing.min(whole);
            blocks::fill(planned.kind, sigma, &mut random, &mut piece[..bytes]);
            sink.push(&piece[..bytes])?;
            progress(bytes as u64);
            missing -= bytes;
        }
        Ok(())
    }

    fn metadata(&self) -> IndexMap<String, Value> {
        let shape = self.shape;
        let architecture = shape.architecture.name();
        let number = |n: usize| Value::Unsigned(n as u64);
        let mut metadata = IndexMap::from([
            ("general.architecture".to_owned(), Value::Text(architecture.to_owned())),
            ("general.name".to_owned(), Value::Text(format!("{} (synthetic weights)", shape.name))),
            ("general.description".to_owned(), Value::Text("random weights, for measuring speed only".to_owned())),
            ("general.file_type".to_owned(), Value::Unsigned(self.kind.file_type().into())),
            ("general.quantization_version".to_owned(), Value::Unsigned(2)),
            (MARK.to_owned(), Value::Unsigned(VERSION.into())),
        ]);
        let mut set = |key: &str, value: Value| {
            metadata.insert(format!("{architecture}.{key}"), value);
        };
        set("block_count", number(shape.layers));
        set("context_length", Value::Unsigned(shape.context_length));
        set("embedding_length", number(shape.hidden_size));
        set("feed_forward_length", number(shape.intermediate_size));
        set("attention.head_count", number(shape.heads));
        set("attention.head_count_kv", number(shape.kv_heads));
        set("attention.layer_norm_rms_epsilon", Value::Float(shape.rms_norm_eps));
        set("rope.freq_base", Value::Float(shape.rope_theta));
        if shape.architecture != Architecture::Qwen2 {
            set("rope.dimension_count", number(shape.rope_dim));
        }
        if shape.architecture == Architecture::Llama {
            set("vocab_size", number(shape.vocab_size));
        }
        if shape.sliding_window > 0 {
            set("attention.sliding_window", Value::Unsigned(shape.sliding_window));
        }
        if let RopeFactors::Long { original_context, .. } = shape.rope_factors {
            // transformers, `_compute_longrope_parameters`: what attention is scaled by.
            let factor = shape.context_length as f64 / original_context as f64;
            let attention = (1.0 + factor.ln() / (original_context as f64).ln()).sqrt();
            set("rope.scaling.original_context_length", Value::Unsigned(original_context));
            set("rope.scaling.attn_factor", Value::Float(attention));
        }
        metadata.extend(vocabulary::metadata(shape.vocab_size));
        metadata
    }

    /// Returns every tensor in the order llama.cpp's converter writes them.
    fn tensors(&self) -> Vec<Tensor> {
        let shape = self.shape;
        let (e, f, v) = (shape.hidden_size, shape.intermediate_size, shape.vocab_size);
        let (q, kv) = (shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim);
        let plain = |columns: usize| 1.0 / (columns as f32).sqrt();
        // What is added to the residual stream shrinks with depth, as in GPT-2, so that it stays near 1.
        let added = |columns: usize| plain(columns) / ((2 * shape.layers) as f32).sqrt();
        let matrix = |name: String, rows: usize, columns: usize, sigma: f32| Tensor {
            planned: Planned { name, kind: self.kind.fitting(columns), shape: vec![rows, columns] },
            content: Content::Random(sigma),
        };
        let vector = |name: String, length: usize, content: Content| Tensor {
            planned: Planned { name, kind: TensorType::F32, shape: vec![length] },
            content,
        };
        let mut tensors = Vec::new();
        for (name, factors) in shape.rope_factors.tensors(shape.rope_dim, shape.rope_theta) {
            tensors.push(vector(name.to_owned(), factors.len(), Content::Given(factors)));
        }
        if !shape.tied {
            tensors.push(matrix("output.weight".to_owned(), v, e, plain(e)));
        }
        tensors.push(matrix("token_embd.weight".to_owned(), v, e, plain(e)));
        for layer in 0..shape.layers {
            let name = |part: &str| format!("blk.{layer}.{part}");
            tensors.push(vector(name("attn_norm.weight"), e, Content::Ones));
            if shape.architecture == Architecture::Phi3 {
                tensors.push(matrix(name("attn_qkv.weight"), q + 2 * kv, e, plain(e)));
            } else {
                for (part, rows) in [("attn_q", q), ("attn_k", kv), ("attn_v", kv)] {
                    tensors.push(matrix(name(&format!("{part}.weight")), rows, e, plain(e)));
                    if shape.architecture == Architecture::Qwen2 {
                        tensors.push(vector(name(&format!("{part}.bias")), rows, Content::Random(0.1)));
                    }
                }
            }
            tensors.push(matrix(name("attn_output.weight"), e, q, added(q)));
            tensors.push(vector(name("ffn_norm.weight"), e, Content::Ones));
            if shape.architecture == Architecture::Phi3 {
                tensors.push(matrix(name("ffn_up.weight"), 2 * f, e, plain(e)));
            } else {
                tensors.push(matrix(name("ffn_gate.weight"), f, e, plain(e)));
                tensors.push(matrix(name("ffn_up.weight"), f, e, plain(e)));
            }
            tensors.push(matrix(name("ffn_down.weight"), e, f, added(f)));
        }
        tensors.push(vector("output_norm.weight".to_owned(), e, Content::Ones));
        tensors
    }
}

struct Tensor {
    planned: Planned,
    content: Content,
}

/// What a tensor holds.
enum Content {
    /// Ones.
    Ones,
    /// These.
    Given(Vec<f32>),
    /// Random numbers of this standard deviation.
    Random(f32),
}

#[cfg(test)]
mod tests;
