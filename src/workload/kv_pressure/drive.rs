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

/// Requests on their way.
struct Traffic<'a> {
    engine: &'a mut dyn LanguageModel,
    requests: &'a [Request],
    waiting: VecDeque<usize>,
    running: Vec<Running>,
    /// How many may run until one of them ends.
    most: usize,
    fate: Fate,
}

impl Traffic<'_> {
    /// Lets in whoever there is room for.
    fn admit(&mut self) -> Result<(), EngineError> {
        while self.running.len() < self.most {
            let Some(request) = self.waiting.front().copied() else { break };
            let Request { tokens, prompt, .. } = &self.requests[request];
            match self.engine.admit(&tokens[..*prompt], tokens.len()) {
                Ok(admitted) => {
                    self.waiting.pop_front();
                    self.running.push(Running { request, sequence: admitted.sequence, done: admitted.cached });
                }
                Err(EngineError::CacheFull { .. }) if self.running.is_empty() => {
                    self.waiting.pop_front();
                    self.fate.dropped += 1;
                }
                Err(EngineError::CacheFull { .. }) => {
                    self.fate.refused += 1;
                    self.most = self.running.len();
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Takes a step of all that run.
    fn step(&mut self, parts: &[Part], logits: LogitRows) -> Result<Vec<Logits>, EngineError> {
        let chunk = |(running, part): (&Running, &Part)| Chunk {
            sequence: running.sequence,
            tokens: &self.requests[part.request].tokens[part.start..part.start + part.length],
            logits,
        };
        let batch: Vec<Chunk<'_>> = self.running.iter().zip(parts).map(chunk).collect();
        self.engine.step(&batch)
    }

    /// Closes those that a step brought to their end.
    fn advance(&mut self, parts: &[Part], concurrency: usize) {
        for (running, part) in self.running.iter_mut().zip(parts) {
            running.done += part.length;
        }
        let Self { engine, requests, running, .. } = self;
        let before = running.len();
        running.retain(|running| {
            let goes_on = running.done < requests[running.request].tokens.len();
            if !goes_on {
                engine.close(running.sequence);
            }
            goes_on
        });
        if self.running.len() < before {
            self.fate.finished += (before - self.running.len()) as u64;
            self.most = concurrency;
        }
    }

    /// Closes the youngest, which begins again when another has ended.
    fn preempt(&mut self, concurrency: usize) {
        let Some(youngest) = self.running.pop() else { return };
        self.engine.close(youngest.sequence);
        if self.running.is_empty() {
            self.fate.dropped += 1;
            self.most = concurrency;
        } else {
            self.fate.preempted += 1;
            self.waiting.push_front(youngest.request);
            self.most = self.running.len();
        }
    }
}

/// Runs all requests to their end, `concurrency` at most at once, in order.
pub(super) fn drive<E: From<EngineError>>(
    engine: &mut dyn LanguageModel,
    requests: &[Request],
    concurrency: usize,
    logits: LogitRows,
    mut watch: impl FnMut(Stepped<'_>) -> Result<(), E>,
) -> Result<Fate, E> {
    let waiting = (0..requests.len()).collect();
    let mut traffic =
        Traffic { engine, requests, waiting, running: Vec::new(), most: concurrency, fate: Fate::default() };
    let (mut number, mut transitions) = (0, Vec::new());
    while !traffic.waiting.is_empty() || !traffic.running.is_empty() {
        traffic.admit()?;
        if traffic.running.is_empty() {
            continue;
        }
        let parts: Vec<Part> =
            traffic.running.iter().map(|running| next(running, &requests[running.request])).collect();
        let stopwatch = Stopwatch::start();
        let result = traffic.step(&parts, logits);
        let duration_ns = stopwatch.elapsed_ns();
        transitions.extend(traffic.engine.take_transitions());
        match result {
            Ok(logits) => {
                let report = traffic.engine.cache_report().unwrap_or_default();
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
                traffic.advance(&parts, concurrency);
            }
            Err(EngineError::CacheFull { .. }) => traffic.preempt(concurrency),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(traffic.fate)
}

fn next(running: &Running, request: &Request) -> Part {
    let end = if running.done < request.prompt { request.prompt } else { running.done + request.piece };
    let length = end.min(request.tokens.len()) - running.done;
    Part { request: running.request, start: running.done, length }
}
