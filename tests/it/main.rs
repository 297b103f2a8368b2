//! Everything that is tested from outside, in one binary: candle and polars are slow to link.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]
mod allocations;
mod cli;
mod engines;
mod layering;
mod native;
mod recipes;
mod report;
mod results;
mod token_lines;
mod tokens;
