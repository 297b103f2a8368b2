//! A conversation with a model: prompts, the sampling loop, and why it stops.
use std::{io, num::NonZeroUsize, path::PathBuf, slice, sync::Arc};

use serde::Serialize;
use serde_json::{Value as Json, json};

use super::Arguments;
use crate::{
    adapt::{
        file,
        registry::{Limits, Pinned, Registry, RegistryError},
    },
    cli::Failure,
    clock::{self, Stopwatch},
    engine::{self, Adapter, EngineError, GenerationError, LanguageModel, SequenceId, Settings, next_tokens},
    exit,
    model::{
        chat_template::{ChatTemplate, ChatTemplateError, Conversation},
        sampler::{Sampler, Sampling},
        spec::ModelSpec,
        tokenizer::Tokenizer,
        weights::Weights,
    },
    plan::{self, Cell},
    run::Interrupt,
};

/// Why an answer came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Stop {
    /// The model ended it.
    End,
    /// It has as many tokens as were asked for.
    MaxTokens,
    /// The context is full.
    ContextFull,
    /// Ctrl-C.
    Interrupted,
}

/// An answer, and how fast it came.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answer {
    text: String,
    pub(super) stop: Stop,
    prompt_tokens: usize,
    /// Generated tokens, without the one that ended the answer.
    pub(super) tokens: usize,
    /// From the prompt to the first token.
    pub(super) ttft_ms: f64,
    /// Tokens a second after the first one; none for an answer of one token.
    pub(super) decode_tok_s: Option<f64>,
    /// The adapter it was answered with, where there was one.
    adapter: Option<String>,
    /// The version of the adapters at hand that it was answered with.
    adapters_version: u64,
}

/// A conversation: what was said, and what answers.
pub(super) struct Session<'a> {
    arguments: &'a Arguments,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    messages: Vec<Json>,
    writer: Writer,
    pub(super) adapters: Registry,
}

/// An engine with one sequence, and the choice of what comes next in it.
struct Writer {
    engine: Box<dyn LanguageModel>,
    sampler: Sampler,
    sequence: Option<SequenceId>,
    /// The tokens the engine has read.
    held: Vec<u32>,
    /// The adapter it has read them with.
    adapter: Option<Arc<Adapter>>,
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        let code = if matches!(error, RegistryError::Load { .. }) { exit::RESOURCE } else { exit::USAGE };
        Self::new(code, "adapter", error.to_string(), None)
    }
}

impl From<EngineError> for Failure {
    fn from(error: EngineError) -> Self {
        Self::new(exit::UNEXPECTED, "engine", error.to_string(), None)
    }
}

fn model_failure(error: &dyn std::error::Error) -> Failure {
    Failure::new(exit::RESOURCE, "model", error.to_string(), None)
}

fn template_failure(error: &ChatTemplateError, arguments: &Arguments) -> Failure {
    let hint = match error {
        ChatTemplateError::Refused { .. } if arguments.system.is_some() => {
            "leave out --system, or put what it says into the first message"
        }
        _ => "--raw continues text without the template",
    };
    Failure::new(exit::UNEXPECTED, "chat-template", error.to_string(), Some(hint))
}

/// Returns the adapters of some files by their names, the first of them active.
fn at_hand(paths: &[PathBuf], spec: &ModelSpec) -> Result<Registry, Failure> {
    let registry = Registry::new(Limits { adapters: paths.len().max(1), bytes: u64::MAX });
    let mut first = None;
    for path in paths {
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        if registry.names().contains(&name) {
            let hint = "give the folders names of their own";
            return Err(Failure::new(exit::USAGE, "adapter", format!("two adapters are named {name:?}"), Some(hint)));
        }
        registry.insert(&name, file::read(path, spec)?)?;
        first.get_or_insert(name);
    }
    if first.is_some() {
        registry.activate(first.as_deref())?;
    }
    Ok(registry)
}

/// Returns how an engine is to hold the model, with room for so many tokens, if it can hold as many.
fn settings(cell: &Cell, context: u32) -> Settings {
    Settings {
        context_length: Some(cell.model.context_length.min(context) as usize),
        threads: NonZeroUsize::new(cell.threads.into()),
        ..Settings::default()
    }
}

impl<'a> Session<'a> {
    pub(super) fn open(arguments: &'a Arguments, cell: &Cell) -> Result<Self, Failure> {
        let weights = Weights::open(&cell.model.path).map_err(|error| model_failure(&error))?;
        let tokenizer = Tokenizer::new(&weights).map_err(|error| model_failure(&error))?;
        let template = ChatTemplate::from_metadata(&weights.index().metadata, &tokenizer)
            .map_err(|error| template_failure(&error, arguments));
        let template = if arguments.raw { None } else { template? };
        if template.is_none() && !arguments.raw {
            let message = format!("{} has no chat template: it was made to continue text", arguments.model);
            return Err(Failure::new(exit::USAGE, "no-chat-template", message, Some("--raw continues text")));
        }
        let kind = plan::engine_kind(cell.kernel_set)
            .ok_or_else(|| Failure::new(exit::UNEXPECTED, "kernels", "this kernel set has no engine", None))?;
        let Arguments { temperature, top_k, top_p, min_p, seed, .. } = *arguments;
        let engine = engine::load_with(kind, &weights, &settings(cell, arguments.ctx))?;
        let mut session = Self {
            adapters: at_hand(&arguments.adapter, weights.spec())?,
            arguments,
            tokenizer,
            template,
            messages: Vec::new(),
            writer: Writer::new(engine, Sampler::new(Sampling { temperature, top_k, top_p, min_p }, seed)),
        };
        session.reset();
        Ok(session)
    }

    /// Forgets all but what the model was told first.
    pub(super) fn reset(&mut self) {
        let system = self.arguments.system.iter();
        self.messages = system.map(|text| json!({"role": "system", "content": text})).collect();
    }

    /// Returns the tokens up to where the answer begins.
    fn prompt(&self, text: &str) -> Result<Vec<u32>, Failure> {
        let encode = |text: &str| self.tokenizer.encode(text, true).map_err(|error| model_failure(&error));
        let Some(template) = &self.template else {
            let mut tokens: Vec<u32> = self.tokenizer.bos_to_add().into_iter().collect();
            tokens.extend(encode(text)?);
            return Ok(tokens);
        };
        let conversation = Conversation {
            messages: &self.messages,
            add_generation_prompt: true,
            strftime_now: Some(clock::strftime_now),
            ..Conversation::default()
        };
        let rendered = template.render(&conversation).map_err(|error| template_failure(&error, self.arguments))?;
        encode(&rendered)
    }

    /// Answers a message. What fails leaves the conversation as it was.
    pub(super) fn answer(
        &mut self,
        text: &str,
        interrupt: &Interrupt,
        show: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Answer, Failure> {
        self.messages.push(json!({"role": "user", "content": text}));
        let answer = self.prompt(text).and_then(|prompt| self.generate(&prompt, interrupt, show));
        match &answer {
            Ok(answer) => self.messages.push(json!({"role": "assistant", "content": answer.text})),
            Err(_) => drop(self.messages.pop()),
        }
        answer
    }

    fn generate(
        &mut self,
        prompt: &[u32],
        interrupt: &Interrupt,
        show: &mut dyn FnMut(&str) -> io::Result<()>,
    ) -> Result<Answer, Failure> {
        let Self { arguments, tokenizer, writer, adapters, .. } = self;
        // The answer is of one version, whatever becomes active meanwhile.
        let pinned = adapters.pin_active();
        let context = writer.engine.context_length();
        if prompt.is_empty() || prompt.len() >= context {
            let message = format!("the prompt has {} tokens, there is room for 1 to {}", prompt.len(), context - 1);
            let hint = "/reset starts anew, --ctx makes more room";
            return Err(Failure::new(exit::RESOURCE, "context", message, Some(hint)));
        }
        let mut stream = tokenizer.stream(prompt.last().copied());
        let (mut text, mut tokens, mut steps) = (String::new(), 0, 0u32);
        let mut push = |part: String| {
            text.push_str(&part);
            show(&part)
        };
        let watch = Stopwatch::start();
        let mut next = writer.begin(prompt, &pinned)?;
        let ttft = watch.elapsed();
        let stop = loop {
            if tokenizer.is_end(next) {
                break Stop::End;
            }
            push(stream.push(next))?;
            tokens += 1;
            if tokens >= arguments.max_tokens as usize {
                break Stop::MaxTokens;
            }
            if writer.held.len() >= context {
                break Stop::ContextFull;
            }
            if interrupt.signal().is_some() {
                break Stop::Interrupted;
            }
            next = writer.step(&[next])?;
            steps += 1;
        };
        let elapsed = watch.elapsed().saturating_sub(ttft).as_secs_f64();
        push(stream.finish())?;
        Ok(Answer {
            text,
            stop,
            prompt_tokens: prompt.len(),
            tokens,
            ttft_ms: ttft.as_secs_f64() * 1e3,
            decode_tok_s: (steps > 0).then(|| f64::from(steps) / elapsed),
            adapter: pinned.name().map(str::to_owned),
            adapters_version: pinned.version(),
        })
    }
}

impl Writer {
    fn new(engine: Box<dyn LanguageModel>, sampler: Sampler) -> Self {
        Self { engine, sampler, sequence: None, held: Vec::new(), adapter: None }
    }

    /// Reads a prompt and returns the first token after it. What has been read already, with this adapter, is not
    /// read again.
    fn begin(&mut self, prompt: &[u32], pinned: &Pinned) -> Result<u32, Failure> {
        let begins_alike = self.held.iter().zip(prompt).all(|(held, token)| held == token);
        let same = match (&self.adapter, pinned.adapter()) {
            (Some(own), Some(other)) => Arc::ptr_eq(own, other),
            (own, other) => own.is_none() && other.is_none(),
        };
        self.adapter = pinned.adapter().cloned();
        if !begins_alike || !same || self.held.len() >= prompt.len() {
            if let Some(sequence) = self.sequence.take() {
                self.engine.close(sequence);
            }
            self.held.clear();
        }
        self.step(&prompt[self.held.len()..])
    }

    /// Reads tokens and returns the one after them.
    fn step(&mut self, tokens: &[u32]) -> Result<u32, Failure> {
        let sequence = match self.sequence {
            Some(sequence) => sequence,
            None => {
                let sequence = self.engine.open()?;
                self.engine.attach(sequence, self.adapter.clone())?;
                sequence
            }
        };
        self.sequence = Some(sequence);
        let next = next_tokens(self.engine.as_mut(), &[(sequence, tokens)], slice::from_mut(&mut self.sampler));
        match next {
            Ok(next) => {
                self.held.extend_from_slice(tokens);
                Ok(next[0])
            }
            Err(GenerationError::Sampler(error)) => {
                self.held.extend_from_slice(tokens);
                Err(Failure::new(exit::NUMERICS, "numerics", error.to_string(), None))
            }
            Err(GenerationError::Engine(error)) => {
                // How much of the tokens it has read before it failed, nobody knows.
                self.engine.close(sequence);
                self.sequence = None;
                self.held.clear();
                Err(error.into())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_engine_has_the_threads_and_the_context_that_were_asked_for() {
        let cell: Cell = serde_json::from_value(json!({
            "hash": "0", "axes": {}, "seed": 0, "kernel_set": "scalar", "threads": 3, "texts": {},
            "estimated_memory": "1GiB",
            "recipe": {"schema": "ruvlab/v1", "name": "x", "model": {"source": "builtin:pico"}},
            "model": {
                "source": "builtin:pico", "name": "pico", "architecture": "llama", "format": "f32", "weights_hash": "",
                "weights_bytes": 0, "parameters": 0, "context_length": 512,
            },
        }))
        .unwrap();
        for (asked, room) in [(4096, 512), (64, 64)] {
            let Settings { threads, context_length, .. } = settings(&cell, asked);
            assert_eq!((threads.map(NonZeroUsize::get), context_length), (Some(3), Some(room)));
        }
    }
}
