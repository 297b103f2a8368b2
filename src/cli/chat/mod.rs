//! `ruvlab chat`
use std::{
    io::{self, BufRead, IsTerminal},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use serde_json::{Value as Json, json};

use crate::{
    clock::{self, Stopwatch},
    engine::{self, Chunk, EngineError, LanguageModel, LogitRows, SequenceId},
    exit,
    model::{
        chat_template::{ChatTemplate, ChatTemplateError, Conversation},
        sampler::{Sampler, Sampling},
        tokenizer::Tokenizer,
        weights::Weights,
    },
    plan::{self, Cell},
    recipe::schema::{Decode, Workload},
    run::{self, Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{
    Failure, Format, Global,
    access::Offline,
    common::{AdHoc, KernelChoice},
};

/// Talk to a model: answers stream to standard output. Without --prompt, every line of standard input is
/// a message; `/reset` starts anew, `/quit` ends, Ctrl-C ends the answer.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    /// A path, `hf:OWNER/REPO`, `synthetic:SHAPE:QUANT`, `builtin:pico`, or a short name (`ruvlab models`).
    #[arg(short, long, value_name = "MODEL")]
    model: String,
    /// What the model is told before the conversation.
    #[arg(long, value_name = "TEXT", conflicts_with = "raw")]
    system: Option<String>,
    /// One message: print the answer and end.
    #[arg(short, long, value_name = "TEXT")]
    prompt: Option<String>,
    /// Continue text as it is, without a chat template; every prompt begins a new text.
    #[arg(long)]
    raw: bool,
    /// Randomness: 0 takes the likeliest token always.
    #[arg(long, value_name = "T", default_value_t = 0.7, value_parser = number::<0, 100>)]
    temperature: f64,
    /// Choose among the K likeliest tokens only (0: all).
    #[arg(long, value_name = "K", default_value_t = 40)]
    top_k: u32,
    /// Choose among the likeliest tokens that make up this much probability.
    #[arg(long, value_name = "P", default_value_t = 0.95, value_parser = number::<0, 1>)]
    top_p: f64,
    /// Choose among tokens with at least this share of the likeliest one's probability.
    #[arg(long, value_name = "P", default_value_t = 0.05, value_parser = number::<0, 1>)]
    min_p: f64,
    /// The same seed gives the same answers.
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 512, value_parser = clap::value_parser!(u32).range(1..))]
    max_tokens: u32,
    /// Tokens of context to make room for (the model's own length when that is less).
    #[arg(long, value_name = "N", default_value_t = 4096, value_parser = clap::value_parser!(u32).range(2..))]
    ctx: u32,
    /// Kernel set.
    #[arg(long, value_name = "SET", default_value = "auto")]
    kernels: KernelChoice,
    /// Threads: a number or `auto`.
    #[arg(short, long, value_name = "N", default_value = "auto")]
    threads: Threads,
    #[command(flatten)]
    access: Offline,
}

/// Reads a number between two.
fn number<const LOWEST: i32, const HIGHEST: i32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let range = f64::from(LOWEST)..=f64::from(HIGHEST);
    if range.contains(&number) { Ok(number) } else { Err(format!("not between {LOWEST} and {HIGHEST}")) }
}

/// Why an answer came to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
enum Stop {
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
struct Answer {
    text: String,
    stop: Stop,
    prompt_tokens: usize,
    /// Generated tokens, without the one that ended the answer.
    tokens: usize,
    /// From the prompt to the first token.
    ttft_ms: f64,
    /// Tokens a second after the first one; none for an answer of one token.
    decode_tok_s: Option<f64>,
}

struct Session<'a> {
    arguments: &'a Arguments,
    tokenizer: Tokenizer,
    template: Option<ChatTemplate>,
    messages: Vec<Json>,
    writer: Writer,
}

/// An engine with one sequence, and the choice of what comes next in it.
struct Writer {
    engine: Box<dyn LanguageModel>,
    sampler: Sampler,
    sequence: Option<SequenceId>,
    /// The tokens the engine has read.
    held: Vec<u32>,
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

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    // The smallest workload there is: what is asked of the plan is whether and how this model runs here.
    let workload = Workload::Decode(Decode { prompt_tokens: 1, output_tokens: 2, batch_size: 1, repetitions: 1 });
    let adhoc =
        AdHoc { model: arguments.model.clone(), kernels: arguments.kernels, threads: arguments.threads, workload };
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let cell = adhoc.cell(&mut locator)?;
    with_threads(&cell)?;
    let interrupt = Interrupt::watch_impatiently().map_err(RunError::Signals)?;
    let mut session = Session::open(arguments, &cell)?;
    let out = Output { format: global.format, quiet: global.quiet };
    if let Some(prompt) = &arguments.prompt {
        let answer = session.answer(prompt, &interrupt, &mut |text| out.stream(text))?;
        out.finish(&answer)?;
        return Ok(if answer.stop == Stop::Interrupted { ended_by(&interrupt) } else { exit::OK });
    }
    converse(&mut session, &interrupt, out)
}

/// Starts this program again with as many threads as the cell has: candle's pool is made once, from the
/// environment, before anything can tell it otherwise.
fn with_threads(cell: &Cell) -> Result<(), Failure> {
    const THREADS: &str = "RAYON_NUM_THREADS";
    let threads = cell.threads.to_string();
    if std::env::var(THREADS).is_ok_and(|set| set == threads) {
        return Ok(());
    }
    use std::os::unix::process::CommandExt;
    let mut again = std::process::Command::new(run::own_executable()?);
    // Only returns when it fails.
    Err(again.args(std::env::args_os().skip(1)).env(THREADS, threads).exec().into())
}

/// Where answers go.
#[derive(Clone, Copy)]
struct Output {
    format: Format,
    quiet: bool,
}

impl Output {
    fn stream(self, text: &str) -> io::Result<()> {
        if self.format == Format::Human { Printer::stdout().stream(text) } else { Ok(()) }
    }

    fn finish(self, answer: &Answer) -> Result<(), Failure> {
        if self.format == Format::Json {
            return Ok(Printer::stdout().json(answer)?);
        }
        Printer::stdout().stream("\n")?;
        if !self.quiet {
            let speed = answer.decode_tok_s.map_or_else(String::new, |speed| format!(", {speed:.1} tok/s"));
            let first = format!("first after {:.0} ms", answer.ttft_ms);
            let stop = match answer.stop {
                Stop::End => "",
                Stop::MaxTokens => "; stopped at --max-tokens",
                Stop::ContextFull => "; the context is full: /reset starts anew, --ctx makes more room",
                Stop::Interrupted => "; interrupted",
            };
            Printer::stderr().note(&format!("[{} tokens, {first}{speed}{stop}]", answer.tokens));
        }
        Ok(())
    }
}

fn ended_by(interrupt: &Interrupt) -> u8 {
    interrupt.signal().and_then(|signal| u8::try_from(128 + signal).ok()).unwrap_or(exit::SIGINT)
}

fn lines() -> io::Result<Receiver<io::Result<String>>> {
    // One line ahead at most: what is piped in is read as it is answered.
    let (sender, receiver) = mpsc::sync_channel(1);
    std::thread::Builder::new().name("input".to_owned()).spawn(move || {
        for line in io::stdin().lock().lines() {
            if sender.send(line).is_err() {
                break;
            }
        }
    })?;
    Ok(receiver)
}

fn converse(session: &mut Session<'_>, interrupt: &Interrupt, out: Output) -> Result<u8, Failure> {
    let interactive = io::stdin().is_terminal();
    let lines = lines()?;
    loop {
        if interactive {
            Printer::stderr().stream("> ")?;
        }
        let line = loop {
            match lines.recv_timeout(Duration::from_millis(50)) {
                Ok(line) => break line?,
                Err(RecvTimeoutError::Disconnected) => return Ok(exit::OK),
                Err(RecvTimeoutError::Timeout) => {}
            }
            if interrupt.signal().is_some() {
                return Ok(ended_by(interrupt));
            }
        };
        match line.trim() {
            "" => continue,
            "/quit" => return Ok(exit::OK),
            "/reset" => {
                session.reset();
                continue;
            }
            _ => {}
        }
        match session.answer(&line, interrupt, &mut |text| out.stream(text)) {
            Ok(answer) => {
                out.finish(&answer)?;
                // A person at a terminal goes on; who pipes text in has asked for the end.
                if answer.stop == Stop::Interrupted && !(interactive && interrupt.take_interrupt()) {
                    return Ok(ended_by(interrupt));
                }
            }
            Err(failure) if interactive => drop(failure.report()),
            Err(failure) => return Err(failure),
        }
    }
}

impl<'a> Session<'a> {
    fn open(arguments: &'a Arguments, cell: &Cell) -> Result<Self, Failure> {
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
        let context = cell.model.context_length.min(arguments.ctx) as usize;
        let Arguments { temperature, top_k, top_p, min_p, seed, .. } = *arguments;
        let mut session = Self {
            arguments,
            tokenizer,
            template,
            messages: Vec::new(),
            writer: Writer {
                engine: engine::load(kind, &weights, Some(context))?,
                sampler: Sampler::new(Sampling { temperature, top_k, top_p, min_p }, seed),
                sequence: None,
                held: Vec::new(),
            },
        };
        session.reset();
        Ok(session)
    }

    fn reset(&mut self) {
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
    fn answer(
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
        let Self { arguments, tokenizer, writer, .. } = self;
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
        let mut next = writer.begin(prompt)?;
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
        })
    }
}

impl Writer {
    /// Reads a prompt and returns the first token after it. What has been read already is not read again.
    fn begin(&mut self, prompt: &[u32]) -> Result<u32, Failure> {
        let begins_alike = self.held.iter().zip(prompt).all(|(held, token)| held == token);
        if !begins_alike || self.held.len() >= prompt.len() {
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
            None => self.engine.open()?,
        };
        self.sequence = Some(sequence);
        let logits = self.engine.step(&[Chunk { sequence, tokens, logits: LogitRows::Last }])?;
        self.held.extend_from_slice(tokens);
        let token = self.sampler.sample(logits[0].row(0));
        token.map_err(|error| Failure::new(exit::NUMERICS, "numerics", error.to_string(), None))
    }
}
