//! The requests of a stream, and their order.
use rand::{SeedableRng, seq::SliceRandom};
use rand_chacha::ChaCha8Rng;

use crate::{
    model::tokenizer::Tokenizer,
    plan::Cell,
    recipe::schema::{Adapt, RequestOrder},
    workload::{error::LaunchError, opened::open_text, prompt::derive_seed},
};

/// Requests: stretches of texts side by side, each in a context of its own that begins as the model wants.
pub(in crate::workload) struct Stream {
    /// Of each domain, of each request, its tokens and the one after the last.
    requests: Vec<Vec<Vec<u32>>>,
    /// Tokens whose successor is scored, at the end of a request.
    scored: usize,
    /// Domain and request, in order.
    pub(in crate::workload) order: Vec<(usize, usize)>,
}

impl Stream {
    pub(in crate::workload) fn new(adapt: &Adapt, cell: &Cell, tokenizer: &Tokenizer) -> Result<Self, LaunchError> {
        let length = adapt.tokens();
        let count = adapt.requests as usize;
        let bos = tokenizer.bos_to_add();
        let mut requests = Vec::with_capacity(adapt.domains.len());
        for source in &adapt.domains {
            let content = open_text(cell, source)?.content;
            let wrong = |error| LaunchError::Tokenizer { source_name: cell.model.source.clone(), error };
            let tokens = tokenizer.encode(&content, false).map_err(wrong)?;
            let needed = length * count + 1;
            if tokens.len() < needed {
                return Err(LaunchError::TextTooShort { name: source.clone(), found: tokens.len(), needed });
            }
            let one = |index: usize| {
                let mut request = tokens[index * length..=(index + 1) * length].to_vec();
                if let Some(bos) = bos {
                    request[0] = bos;
                }
                request
            };
            requests.push((0..count).map(one).collect());
        }
        let domains = adapt.domains.len();
        let order = match adapt.order {
            RequestOrder::Blocked => (0..domains).flat_map(|domain| (0..count).map(move |at| (domain, at))).collect(),
            RequestOrder::Interleaved => {
                let mut turns: Vec<usize> = (0..domains * count).map(|at| at % domains).collect();
                turns.shuffle(&mut ChaCha8Rng::seed_from_u64(derive_seed("requests", cell.seed, 0, 0)));
                let mut next = vec![0; domains];
                let of = |domain: usize| {
                    next[domain] += 1;
                    (domain, next[domain] - 1)
                };
                turns.into_iter().map(of).collect()
            }
        };
        Ok(Self { requests, scored: adapt.output_tokens as usize, order })
    }

    /// Returns the tokens of a request but for the last, which is only predicted.
    pub(in crate::workload) fn request(&self, domain: usize, index: usize) -> &[u32] {
        let tokens = &self.requests[domain][index];
        &tokens[..tokens.len() - 1]
    }

    /// Returns the tokens of its answer.
    pub(in crate::workload) fn targets(&self, domain: usize, index: usize) -> &[u32] {
        let tokens = &self.requests[domain][index];
        &tokens[tokens.len() - self.scored..]
    }
}
