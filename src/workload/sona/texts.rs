//! What is streamed, and what general text is for.
use crate::{
    plan::Cell,
    recipe::schema::SonaStream,
    workload::{adapt::Stream, error::LaunchError, opened::Loaded},
};

/// What requests of the general text are for, in order: the directions of micro adapters and what they may cost, what
/// judges transactions, how far the model drifts at the end, what chooses how far transactions go, and what they learn
/// again; those after them are answers that miss the question, and the placebo's, one for each request of the stream.
/// What judges is not next to what is learned again: of one text neighbours are alike.
pub(super) const CALIBRATION: usize = 8;
pub(super) const JUDGES: usize = 8;
pub(super) const DRIFT: usize = 16;
pub(super) const GUARD: usize = 8;
pub(super) const RELEARNED: usize = 24;
pub(super) const OTHERS: usize = DRIFT_FROM + DRIFT + GUARD + RELEARNED;

/// Where those begin that drift is measured on.
pub(super) const DRIFT_FROM: usize = CALIBRATION + JUDGES;

/// The texts of a stream, in requests.
pub(super) struct Texts {
    pub(super) domains: Stream,
    pub(super) general: Stream,
    /// Requests of each domain that are streamed; those after them are tested.
    pub(super) streamed: usize,
}

impl Texts {
    pub(super) fn new(stream: &SonaStream, cell: &Cell, loaded: &Loaded) -> Result<Self, LaunchError> {
        let streamed = stream.requests as usize * stream.domains.len();
        let general = stream.over(std::slice::from_ref(&stream.general), (OTHERS + streamed) as u32);
        let domains = stream.over(&stream.domains, stream.requests + stream.test_requests);
        let mut texts = Self {
            domains: Stream::new(&domains, cell, &loaded.tokenizer)?,
            general: Stream::new(&general, cell, &loaded.tokenizer)?,
            streamed: stream.requests as usize,
        };
        let streamed = texts.streamed;
        texts.domains.order.retain(|(_, index)| *index < streamed);
        Ok(texts)
    }
}

/// A prompt and its answer.
pub(super) type Pair = (Vec<u32>, Vec<u32>);

/// Returns a request: the last token of its prompt predicts the first of its answer.
pub(super) fn pair(texts: &Stream, stream: &SonaStream, (domain, index): (usize, usize)) -> Pair {
    let prompt = &texts.request(domain, index)[..=stream.prompt_tokens as usize];
    (prompt.to_vec(), texts.targets(domain, index).to_vec())
}
