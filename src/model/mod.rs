//! What a model is, apart from who computes it: shapes, families, tokens, files.
//!
//! Shape letters, here and everywhere: B batch, T query tokens, S cached tokens, H query heads,
//! K key/value heads, D head width, E model width, V vocabulary.
pub mod chat_template;
pub mod decoder;
pub mod families;
pub mod rope;
pub mod sampler;
pub mod source;
pub mod spec;
pub mod tokenizer;
pub mod weights;
