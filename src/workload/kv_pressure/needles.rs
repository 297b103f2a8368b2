//! Facts planted in texts, and whether they are found: what a policy loses that perplexity hardly shows.
use super::{
    super::{error::LaunchError, opened::Loaded, recorder::Recorder, windows::Windows},
    drive::{Request, Stepped, drive},
};
use crate::{
    engine::{Chunk, EngineError, LanguageModel, LogitRows},
    event::Phase,
    model::tokenizer::Tokenizer,
    plan::Cell,
    recipe::schema::KvPressure,
};

const QUESTION: &str = "\n\nThe secret word of Amanda is";

/// What the secret may be.
const WORDS: [&str; 16] = [
    "silver", "garden", "thunder", "copper", "river", "candle", "forest", "marble", "winter", "lemon", "tiger",
    "paper", "orange", "castle", "violin", "desert",
];

/// The fewest answers to choose from.
const FEWEST_ANSWERS: usize = 8;

/// The share of facts that a cache without limit has to find, for the others to say anything; saying always the same
/// finds one of as many as there are words, or facts where these are fewer.
const ABLE: f64 = 0.5;

/// A word, and the first of its tokens: all words of a list begin differently.
struct Answer {
    fact: Vec<u32>,
    token: u32,
}

/// How sure a model is of an answer, among those there are.
#[derive(Clone, Copy)]
struct Found {
    nll: f64,
    is_best: bool,
}

impl Found {
    /// Returns what logits say of one of several answers.
    fn new(logits: &[f32], answers: &[Answer], right: usize) -> Self {
        let logit = |answer: &Answer| f64::from(logits[answer.token as usize]);
        let all: Vec<f64> = answers.iter().map(logit).collect();
        let highest = all.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = all.iter().map(|x| (x - highest).exp()).sum();
        let is_best = all.iter().enumerate().all(|(at, x)| at == right || *x < all[right]);
        Self { nll: sum.ln() + highest - all[right], is_best }
    }
}

/// A text with a fact in it and the question at its end.
struct Needle {
    tokens: Vec<u32>,
    /// The place of the fact's first token.
    position: usize,
    right: usize,
}

/// Returns the tokens of the question, and the words whose first tokens after it differ.
fn answers(
    tokenizer: &Tokenizer,
    wrong: impl Fn(crate::model::tokenizer::TokenizerError) -> LaunchError,
) -> Result<(Vec<u32>, Vec<Answer>), LaunchError> {
    let question = tokenizer.encode(QUESTION, false).map_err(&wrong)?;
    let mut all: Vec<Answer> = Vec::new();
    for word in WORDS {
        let said = tokenizer.encode(&format!("{QUESTION} {word}"), false).map_err(&wrong)?;
        let fact = tokenizer.encode(&format!("{QUESTION} {word}.\n\n"), false).map_err(&wrong)?;
        let Some(token) = said.strip_prefix(question.as_slice()).and_then(|rest| rest.first().copied()) else {
            continue;
        };
        if all.iter().all(|other| other.token != token) {
            all.push(Answer { fact, token });
        }
    }
    Ok((question, all))
}

/// Returns texts of `n_ctx` tokens, their facts from the first to the last place in equal steps.
fn needles(
    pressure: &KvPressure,
    windows: &Windows,
    question: &[u32],
    answers: &[Answer],
    bos: Option<u32>,
) -> Vec<Needle> {
    let (n_ctx, count) = (pressure.n_ctx as usize, pressure.needles as usize);
    let texts: Vec<Vec<u32>> = windows.iter().map(|window| window.whole().0).collect();
    let needle = |index: usize| {
        let right = index % answers.len();
        let fact = &answers[right].fact;
        let begin = usize::from(bos.is_some());
        let text = &texts[index % texts.len()][begin..];
        let room = n_ctx.saturating_sub(begin + fact.len() + question.len()).min(text.len());
        let at = (2 * index + 1) * room / (2 * count);
        let tokens = [bos.as_slice(), &text[..at], fact, &text[at..room], question].concat();
        Needle { tokens, position: begin + at, right }
    };
    (0..count).map(needle).collect()
}

fn without_limit(engine: &mut dyn LanguageModel, needle: &Needle, answers: &[Answer]) -> Result<Found, EngineError> {
    let sequence = engine.open()?;
    let result = engine.step(&[Chunk { sequence, tokens: &needle.tokens, logits: LogitRows::Last }]);
    engine.close(sequence);
    let logits = result?.into_iter().next().ok_or(EngineError::EmptyChunk)?;
    Ok(Found::new(logits.row(0), answers, needle.right))
}

/// Returns the share that is found, and how unlikely the right answers are on average.
fn summary(found: &[Found]) -> (f64, f64) {
    let n = found.len() as f64;
    let best = found.iter().filter(|found| found.is_best).count() as f64;
    (best / n, found.iter().map(|found| found.nll).sum::<f64>() / n)
}

pub(super) fn run(
    pressure: &KvPressure,
    cell: &Cell,
    loaded: &mut Loaded,
    unlimited: &mut dyn LanguageModel,
    recorder: &mut Recorder<'_>,
) -> Result<(), LaunchError> {
    let wrong = |error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error };
    let (question, answers) = answers(&loaded.tokenizer, wrong)?;
    if answers.len() < FEWEST_ANSWERS {
        let reason =
            format!("only {} of the words there are to find begin differently in its vocabulary", answers.len());
        recorder.unavailable("needle_accuracy", reason);
        return Ok(());
    }
    let windows = Windows::new(cell, &loaded.tokenizer, &pressure.text, pressure.n_ctx, Some(pressure.needles))?;
    let needles = needles(pressure, &windows, &question, &answers, loaded.tokenizer.bos_to_add());
    let able = needles.iter().map(|needle| without_limit(unlimited, needle, &answers));
    let (reference, _) = summary(&able.collect::<Result<Vec<_>, _>>()?);
    if reference.is_nan() || reference < ABLE {
        let reason = format!(
            "the model finds {:.0} % of the facts with a cache without limit: it cannot do it",
            100.0 * reference
        );
        recorder.unavailable("needle_accuracy", reason);
        return Ok(());
    }
    // As texts are read: a page at once.
    let piece = cell.recipe.kv_cache.page_tokens as usize;
    let request =
        |needle: &Needle| Request { tokens: needle.tokens.clone(), prompt: piece.min(needle.tokens.len()), piece };
    let requests: Vec<Request> = needles.iter().map(request).collect();
    let mut found = vec![None; needles.len()];
    drive(
        loaded.engine.as_mut(),
        &requests,
        pressure.concurrency as usize,
        LogitRows::Last,
        |step: Stepped<'_>| -> Result<(), LaunchError> {
            for (part, logits) in step.parts.iter().zip(step.logits) {
                let needle = &needles[part.request];
                if part.start + part.length == needle.tokens.len() {
                    found[part.request] = Some(Found::new(logits.row(0), &answers, needle.right));
                }
            }
            Ok(())
        },
    )?;
    let answered: Vec<Found> = found.iter().flatten().copied().collect();
    let (accuracy, nll) = summary(&answered);
    if answered.is_empty() || !nll.is_finite() {
        let problem =
            format!("of {} questions {} were answered, with a likelihood of {nll}", needles.len(), answered.len());
        return Err(LaunchError::Numerics { workload: recorder.workload().to_owned(), problem });
    }
    let n = answered.len() as u64;
    recorder.once("needle_accuracy", Phase::Eval, accuracy, n);
    recorder.once("needle_nll", Phase::Eval, nll, n);
    recorder.once("reference_needle_accuracy", Phase::Eval, reference, needles.len() as u64);
    for (needle, found) in needles.iter().zip(&found) {
        if let Some(found) = found {
            recorder.at_step("needle_nll_at_position", Phase::Eval, found.nll, 1, needle.position as u64 + 1);
        }
    }
    Ok(())
}
