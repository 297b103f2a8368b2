//! `ruvlab chat`: arguments, the lines a person types, and where answers go.
mod session;

use std::{
    io::{self, BufRead, IsTerminal},
    path::PathBuf,
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    time::Duration,
};

use clap::Args;

use crate::{
    exit,
    recipe::schema::{Decode, Workload},
    run::{Interrupt, RunError},
    ui::Printer,
    units::Threads,
};

use super::{
    Failure, Format, Global,
    access::Offline,
    ad_hoc::{AdHoc, DeviceChoice, KernelChoice},
    threads,
};
use session::{Answer, Session, Stop};

/// Talk to a model: answers stream to standard output. Without --prompt, every line of standard input is
/// a message; `/reset` starts anew, `/adapter NAME` answers with another adapter from now on (`/adapter` with
/// none), `/rollback` with the one before, `/quit` ends, Ctrl-C ends the answer, a second one the program at once.
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
    /// Run it with an adapter: a PEFT folder, or a GGUF adapter of llama.cpp's. Given several times, the first
    /// answers until another is asked for; each is named as its folder or file is.
    #[arg(long, value_name = "PATH")]
    adapter: Vec<PathBuf>,
    #[command(flatten)]
    access: Offline,
}

/// Reads a number between two.
fn number<const LOWEST: i32, const HIGHEST: i32>(text: &str) -> Result<f64, String> {
    let number: f64 = text.parse().map_err(|error| format!("{error}"))?;
    let range = f64::from(LOWEST)..=f64::from(HIGHEST);
    if range.contains(&number) { Ok(number) } else { Err(format!("not between {LOWEST} and {HIGHEST}")) }
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    threads::start_with(arguments.threads.resolve())?;
    // The smallest workload there is: what is asked of the plan is whether and how this model runs here.
    let workload = Workload::Decode(Decode { prompt_tokens: 1, output_tokens: 2, batch_size: 1, repetitions: 1 });
    let adhoc = AdHoc {
        model: arguments.model.clone(),
        kernels: arguments.kernels,
        device: DeviceChoice::Cpu,
        activations: None,
        threads: arguments.threads,
        adapter: arguments.adapter.first().cloned(),
        workload,
    };
    let mut locator = arguments.access.locator(&arguments.model, global.quiet)?;
    let cell = adhoc.cell(&mut locator)?;
    let mut session = Session::open(arguments, &cell)?;
    // Only now: there was nothing to flush while it was loaded, so a signal just ended the program.
    let interrupt = Interrupt::watch_in_process().map_err(RunError::Signals)?;
    let out = Output { format: global.format, quiet: global.quiet };
    if let Some(prompt) = &arguments.prompt {
        let answer = session.answer(prompt, &interrupt, &mut |text| out.stream(text))?;
        out.finish(&answer)?;
        return Ok(if answer.stop == Stop::Interrupted { ended_by(&interrupt) } else { exit::OK });
    }
    converse(&mut session, &interrupt, out)
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
        let done = match line.trim() {
            "" => continue,
            "/quit" => return Ok(exit::OK),
            "/reset" => {
                session.reset();
                continue;
            }
            "/rollback" => Some(session.adapters.rollback()),
            "/adapter" => Some(session.adapters.activate(None)),
            line => line.strip_prefix("/adapter ").map(|name| session.adapters.activate(Some(name.trim()))),
        };
        if let Some(done) = done {
            match done {
                Ok(_) => {}
                Err(error) if interactive => drop(Failure::from(error).report()),
                Err(error) => return Err(error.into()),
            }
            continue;
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
