//! Everything that is tested from outside, in one binary: candle and polars are slow to link.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod adapter_files;
mod adapters;
mod allocations;
mod chat_templates;
mod cli;
mod continual;
mod divergence;
mod engines;
mod hub;
mod kv;
mod launches;
mod layering;
mod llama_cpp;
mod logits;
mod micro_lora;
mod native;
mod quantize;
mod recipes;
mod report;
mod results;
mod synthetic;
mod token_lines;
mod tokens;
mod training;
mod trainings;
mod transformers;
