//! What a model is, apart from who computes it: shapes, families, tokens, files.
//!
//! Shape letters, here and everywhere: B batch, T query tokens, S cached tokens, H query heads,
//! K key/value heads, D head width, E model width, V vocabulary.
pub mod cache;
pub mod decoder;
pub mod families;
pub mod hub;
pub mod locate;
pub mod pins;
pub mod rope;
pub mod sampler;
pub mod source;
pub mod spec;
pub mod synthetic;
pub mod tokenizer;
pub mod weights;
