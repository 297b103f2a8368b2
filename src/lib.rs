//! The lab bench for local-LLM research.
//!
//! Data goes one way: `Recipe -> Plan -> Event stream -> Samples -> RunRecord -> Report`.
#![deny(unsafe_code)]

pub mod adapt;
pub mod cli;
pub mod clock;
pub mod diag;
pub mod engine;
pub mod event;
pub mod exit;
pub mod host;
pub mod kv;
pub mod metrics;
pub mod model;
pub mod plan;
pub mod recipe;
pub mod report;
pub mod results;
pub mod run;
pub mod sona;
pub mod text;
pub mod ui;
pub mod units;
pub mod workload;
