//! Requests through a cache that may be full: who is let in, who waits, and who has to begin again.
use std::collections::VecDeque;

use crate::{
    clock::Stopwatch,
    engine::{Chunk, EngineError, LanguageModel, LogitRows, Logits, SequenceId},
    kv::{CacheReport, Transition},
};

/// A request: tokens that are known beforehand, so that what is computed does not depend on the cache.
pub(super) struct Request {
    pub(super) tokens: Vec<u32>,
    /// How many of them are given at once at first.
    pub(super) prompt: usize,
    /// How many are given at once after that.
    pub(super) piece: usize,
}

/// Part of a request in a step.
pub(super) struct Part {
    pub(super) request: usize,
    /// The place of its first token.
    pub(super) start: usize,
    pub(super) length: usize,
}

/// What a step did.
pub(super) struct Stepped<'a> {
    /// From 0.
    pub(super) number: u64,
    pub(super) parts: &'a [Part],
    pub(super) logits: &'a [Logits],
    pub(super) duration_ns: u64,
    pub(super) report: CacheReport,
    pub(super) transitions: &'a [Transition],
}

/// How the requests fared.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fate {
    /// Answered to the end.
    pub(super) finished: u64,
    /// Turned away before they began, to wait for another to end.
    pub(super) refused: u64,
    /// Closed in the middle because the cache was full, to begin again later.
    pub(super) preempted: u64,
    /// Given up: too large even alone.
    pub(super) dropped: u64,
}

struct Running {
    request: usize,
    sequence: SequenceId,
    done: usize,
}

/// Runs all requests to their end, `concurrency` at most at once, in order.
pub(super) fn drive<E: From<EngineError>>(
    engine: &mut dyn LanguageModel,
    requests: &[Request],
    concurrency: usize,
    logits: LogitRows,
    mut watch: impl FnMut(Stepped<'_>) -> Result<(), E>,
) -> Result<Fate, E> {
    let mut waiting: VecDeque<usize> = (0..requests.len()).collect();
    let mut running: Vec<Running> = Vec::new();
    let (mut fate, mut number) = (Fate::default(), 0);
    // How many may run until one of them ends.
    let mut most = concurrency;
    let mut transitions = Vec::new();
    while !waiting.is_empty() || !running.is_empty() {
        while running.len() < most {
            let Some(request) = waiting.front().copied() else { break };
            let Request { tokens, prompt, .. } = &requests[request];
            match engine.admit(&tokens[..*prompt], tokens.len()) {
                Ok(admitted) => {
                    waiting.pop_front();
                    running.push(Running { request, sequence: admitted.sequence, done: admitted.cached });
                }
                Err(EngineError::CacheFull { .. }) if running.is_empty() => {
                    waiting.pop_front();
                    fate.dropped += 1;
                }
                Err(EngineError::CacheFull { .. }) => {
                    fate.refused += 1;
                    most = running.len();
                }
                Err(error) => return Err(error.into()),
            }
        }
        if running.is_empty() {
            continue;
        }
        let parts: Vec<Part> = running.iter().map(|running| next(running, &requests[running.request])).collect();
        let chunk = |(running, part): (&Running, &Part)| Chunk {
            sequence: running.sequence,
            tokens: &requests[part.request].tokens[part.start..part.start + part.length],
            logits,
        };
        let batch: Vec<Chunk<'_>> = running.iter().zip(&parts).map(chunk).collect();
        let stopwatch = Stopwatch::start();
        let result = engine.step(&batch);
        let duration_ns = stopwatch.elapsed_ns();
        transitions.extend(engine.take_transitions());
        match result {
            Ok(logits) => {
                let report = engine.cache_report().unwrap_or_default();
                watch(Stepped {
                    number,
                    parts: &parts,
                    logits: &logits,
                    duration_ns,
                    report,
                    transitions: &transitions,
                })?;
                transitions.clear();
                number += 1;
                for (running, part) in running.iter_mut().zip(&parts) {
                    running.done += part.length;
                }
                let before = running.len();
                running.retain(|running| {
                    let goes_on = running.done < requests[running.request].tokens.len();
                    if !goes_on {
                        engine.close(running.sequence);
                    }
                    goes_on
                });
                if running.len() < before {
                    fate.finished += (before - running.len()) as u64;
                    most = concurrency;
                }
            }
            // The youngest begins again when another has ended.
            Err(EngineError::CacheFull { .. }) => {
                let Some(youngest) = running.pop() else { continue };
                engine.close(youngest.sequence);
                if running.is_empty() {
                    fate.dropped += 1;
                    most = concurrency;
                } else {
                    fate.preempted += 1;
                    waiting.push_front(youngest.request);
                    most = running.len();
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(fate)
}

fn next(running: &Running, request: &Request) -> Part {
    let end = if running.done < request.prompt { request.prompt } else { running.done + request.piece };
    let length = end.min(request.tokens.len()) - running.done;
    Part { request: running.request, start: running.done, length }
}
