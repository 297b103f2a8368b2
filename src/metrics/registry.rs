//! Every metric there is.
use serde::{Deserialize, Serialize};

/// Raised when a definition changes, so that old results are not compared with new ones.
pub const METRIC_SCHEMA_VERSION: u32 = 1;

/// Which way is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// More is better.
    Higher,
    /// Less is better.
    Lower,
    /// Neither: a fact, not a goal.
    Neutral,
}

/// What repeats the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Replication {
    /// Process launches vary it: statistics over launches.
    Launch,
    /// The same in every launch of a cell: compared as it is.
    Deterministic,
}

/// A metric's definition.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Metric {
    /// Its name, with the unit as suffix where there is one.
    pub name: &'static str,
    /// A heading for people.
    pub title: &'static str,
    /// Its unit; empty for ratios.
    pub unit: &'static str,
    /// Which way is better.
    pub direction: Direction,
    /// What repeats it.
    pub replication: Replication,
    /// The relative change for the worse that fails a gate, when the metric is gated by default.
    pub gate: Option<f64>,
    /// What exactly it is.
    pub definition: &'static str,
}

use Direction::{Higher, Lower, Neutral};
use Replication::{Deterministic, Launch};

const fn metric(
    name: &'static str,
    title: &'static str,
    unit: &'static str,
    direction: Direction,
    replication: Replication,
    gate: Option<f64>,
    definition: &'static str,
) -> Metric {
    Metric { name, title, unit, direction, replication, gate, definition }
}

/// All metrics, in the order they are shown.
pub const METRICS: &[Metric] = &[
    metric(
        "prefill_tok_s",
        "prompt speed",
        "tokens/s",
        Higher,
        Launch,
        Some(0.03),
        "prompt tokens of all sequences divided by the time from the first engine step of the prompt to its last logits",
    ),
    metric(
        "decode_tok_s",
        "generation speed",
        "tokens/s",
        Higher,
        Launch,
        Some(0.03),
        "generated tokens of all sequences but the first of each, divided by the time from the first token to the last",
    ),
    metric(
        "ttft_ms",
        "time to first token",
        "ms",
        Lower,
        Launch,
        Some(0.05),
        "from the request (text in hand) to the first sampled token: tokenization, prompt and sampling",
    ),
    metric(
        "tpot_ms",
        "time per output token",
        "ms",
        Lower,
        Launch,
        None,
        "(end to end - time to first token) / (output tokens - 1), one sequence",
    ),
    metric(
        "itl_p50_ms",
        "inter-token latency p50",
        "ms",
        Lower,
        Launch,
        None,
        "median of the gaps between neighbouring output tokens of one repetition",
    ),
    metric(
        "itl_p95_ms",
        "inter-token latency p95",
        "ms",
        Lower,
        Launch,
        None,
        "95th percentile of the gaps between neighbouring output tokens of one repetition, linear between the two nearest gaps",
    ),
    metric(
        "itl_p99_ms",
        "inter-token latency p99",
        "ms",
        Lower,
        Launch,
        Some(0.10),
        "99th percentile of the gaps between neighbouring output tokens of one repetition, linear between the two nearest gaps",
    ),
    metric("e2e_ms", "end to end", "ms", Lower, Launch, None, "from the request to the last output token"),
    metric(
        "load_ms",
        "load time",
        "ms",
        Lower,
        Launch,
        None,
        "from opening the file to an engine ready for its first step, requantisation included",
    ),
    metric(
        "peak_rss_bytes",
        "peak memory",
        "bytes",
        Lower,
        Launch,
        Some(0.01),
        "the kernel's high-water mark of the process's resident memory at the end of a timed launch",
    ),
    metric(
        "energy_j",
        "energy",
        "J",
        Lower,
        Launch,
        None,
        "package energy (RAPL) over the measured repetitions, idle power included",
    ),
    metric(
        "perplexity",
        "perplexity",
        "",
        Lower,
        Deterministic,
        Some(0.005),
        "exp of the mean negative log-likelihood of the scored tokens: second half of each window of n_ctx tokens, windows side by side (llama.cpp's convention)",
    ),
    metric(
        "nll",
        "negative log-likelihood",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "mean negative log-likelihood of the scored tokens; with a step, of that window alone",
    ),
    metric(
        "bits_per_byte",
        "bits per byte",
        "bits/byte",
        Lower,
        Deterministic,
        None,
        "negative log-likelihood of the scored tokens in bits divided by their UTF-8 bytes",
    ),
    metric(
        "kl_mean",
        "KL divergence",
        "nats",
        Lower,
        Deterministic,
        None,
        "mean over the scored positions of KL(reference || candidate), the divergence of the candidate's prediction from the reference's, in f64 from log-softmaxes; windows and scored positions as in perplexity; its interval is Student's t over the means of windows, since positions of a window are not independent",
    ),
    metric(
        "kl_p50",
        "KL divergence p50",
        "nats",
        Lower,
        Deterministic,
        None,
        "median of the divergence over the scored positions",
    ),
    metric(
        "kl_p99",
        "KL divergence p99",
        "nats",
        Lower,
        Deterministic,
        None,
        "99th percentile of the divergence over the scored positions, linear between the two nearest",
    ),
    metric(
        "kl_p999",
        "KL divergence p99.9",
        "nats",
        Lower,
        Deterministic,
        None,
        "99.9th percentile of the divergence over the scored positions, linear between the two nearest",
    ),
    metric(
        "kl_max",
        "KL divergence max",
        "nats",
        Lower,
        Deterministic,
        None,
        "greatest divergence of any scored position",
    ),
    metric(
        "top1_agreement",
        "top-1 agreement",
        "",
        Higher,
        Deterministic,
        None,
        "share of the scored positions where candidate and reference hold the same token to be the likeliest, the first of equals; its interval is Student's t over the shares of windows, as kl_mean's, so it has no width where all windows agree alike",
    ),
    metric(
        "reference_perplexity",
        "reference perplexity",
        "",
        Neutral,
        Deterministic,
        None,
        "perplexity of the reference of a divergence, on the same tokens in the same steps",
    ),
    metric(
        "perplexity_log_ratio",
        "log perplexity ratio",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "ln(perplexity of the candidate / perplexity of the reference): the mean over tokens of the difference of their negative log-likelihoods; its interval is Student's t over windows, each paired with itself",
    ),
    metric(
        "verify_nmse",
        "kernel error",
        "",
        Lower,
        Deterministic,
        None,
        "sum of squared differences between the kernel set's logits and the reference set's, divided by the sum of squared reference logits, after the recipe's longest prompt (text of builtin:heldout) and each of 8 tokens more",
    ),
    metric(
        "tokens_digest",
        "generated tokens",
        "",
        Neutral,
        Deterministic,
        None,
        "first 48 bits of the BLAKE3 of the generated token ids: equal numbers, equal text",
    ),
    metric(
        "trace_tok_s",
        "trace speed",
        "tokens/s",
        Higher,
        Launch,
        Some(0.03),
        "tokens of all answers of a trace divided by the time from its first step to its last, waiting, reading prompts and beginning again included",
    ),
    metric(
        "step_ms",
        "step",
        "ms",
        Lower,
        Launch,
        None,
        "time of one engine step of a trace, what the cache does before it included; one value a step",
    ),
    metric(
        "transition_itl_p50_ms",
        "inter-token latency at transitions p50",
        "ms",
        Lower,
        Launch,
        None,
        "median time of the steps of a trace that read no prompt and before which the cache did something under pressure",
    ),
    metric(
        "kv_used_bytes",
        "cache",
        "bytes",
        Neutral,
        Launch,
        None,
        "bytes of all pages of the key-value cache in memory after a step; one value a step",
    ),
    metric(
        "kv_peak_bytes",
        "cache peak",
        "bytes",
        Lower,
        Launch,
        None,
        "the most bytes of pages of the key-value cache in memory after any step of a trace",
    ),
    metric(
        "kv_stall_ms",
        "cache stalls",
        "ms",
        Lower,
        Launch,
        None,
        "time a trace waited for what the cache did under pressure: evicting, narrowing, writing to its file and reading back; with a step, before that step",
    ),
    metric(
        "kv_transitions",
        "cache transitions",
        "",
        Neutral,
        Launch,
        None,
        "how often the cache did something under pressure during a trace",
    ),
    metric(
        "kv_refused",
        "refused",
        "",
        Lower,
        Launch,
        None,
        "how often a request of a trace was turned away before it began, to wait until another ended",
    ),
    metric(
        "kv_preempted",
        "preempted",
        "",
        Lower,
        Launch,
        None,
        "how often a request of a trace was closed in the middle because the cache was full, to begin again",
    ),
    metric(
        "kv_dropped",
        "dropped",
        "",
        Lower,
        Launch,
        None,
        "requests of a trace that were given up because the cache could not hold them even alone",
    ),
    metric(
        "kl_at_position",
        "KL divergence by position",
        "nats",
        Lower,
        Deterministic,
        None,
        "mean of KL(unlimited cache || cell) over a stretch of positions of all texts, a sixteenth of a text each; the step is the first position, from 1",
    ),
    metric(
        "nll_at_position",
        "negative log-likelihood by position",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "mean negative log-likelihood over a stretch of positions of all texts, as in kl_at_position",
    ),
    metric(
        "reference_nll_at_position",
        "reference's negative log-likelihood by position",
        "nats/token",
        Neutral,
        Deterministic,
        None,
        "the same of the cache without limit",
    ),
    metric(
        "needle_accuracy",
        "facts found",
        "",
        Higher,
        Deterministic,
        None,
        "share of the facts planted in texts that the model finds at their end: the right word is likelier than each of 7 to 15 others; not measured of a model that finds less than half of them with a cache without limit",
    ),
    metric(
        "needle_nll",
        "facts' negative log-likelihood",
        "nats",
        Lower,
        Deterministic,
        None,
        "mean negative log-likelihood of the right word among those there are to choose from, as in needle_accuracy",
    ),
    metric(
        "needle_nll_at_position",
        "facts' negative log-likelihood by position",
        "nats",
        Lower,
        Deterministic,
        None,
        "the same of one fact; the step is the position of its first token, from 1",
    ),
    metric(
        "reference_needle_accuracy",
        "reference's facts found",
        "",
        Neutral,
        Deterministic,
        None,
        "needle_accuracy with a cache without limit",
    ),
    metric(
        "train_loss",
        "training loss",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "mean negative log-likelihood of the scored tokens of a step, before its update; with a step, of that one, without, of the last",
    ),
    metric(
        "train_grad_norm",
        "gradient norm",
        "",
        Neutral,
        Deterministic,
        None,
        "Euclidean norm of all gradients of a step together, before clipping",
    ),
    metric(
        "train_learning_rate",
        "learning rate",
        "",
        Neutral,
        Deterministic,
        None,
        "the learning rate the update of a step used",
    ),
    metric(
        "train_eval_nll",
        "held-out loss",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "mean negative log-likelihood of the scored tokens of the held-out data; with a step, after that many updates, without, of the adapter that was stored",
    ),
    metric(
        "train_best_step",
        "best step",
        "",
        Neutral,
        Deterministic,
        None,
        "updates after which the held-out loss was least: the adapter that was stored",
    ),
    metric(
        "train_tok_s",
        "training speed",
        "tokens/s",
        Higher,
        Launch,
        None,
        "tokens that went through the model divided by the time of steps, evaluations and checkpoints left out; with a step, of that one",
    ),
    metric(
        "train_peak_bytes",
        "training peak memory",
        "bytes",
        Lower,
        Launch,
        None,
        "the kernel's high-water mark of the process's resident memory after training",
    ),
    metric(
        "adapt_nll_static",
        "request loss",
        "nats/token",
        Neutral,
        Deterministic,
        None,
        "mean negative log-likelihood of the answers of a stream of requests, each scored before anything learned from it, by the model as it is; with a step, of that request",
    ),
    metric(
        "adapt_nll_unigram",
        "request loss, unigram cache",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "as adapt_nll_static, with 5 % of a cache of the last 1,536 tokens mixed in",
    ),
    metric(
        "adapt_nll_neural",
        "request loss, neural cache",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "as adapt_nll_static, with 10 % of a continuous cache of the last 1,536 tokens mixed in (arXiv 1612.04426, cosine, theta 20)",
    ),
    metric(
        "adapt_nll_micro",
        "request loss, MicroLoRA",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "as adapt_nll_static, with what micro_lora learned from the requests before",
    ),
    metric(
        "adapt_nll_both",
        "request loss, MicroLoRA and neural cache",
        "nats/token",
        Lower,
        Deterministic,
        None,
        "as adapt_nll_static, with 10 % of the neural cache mixed into what micro_lora predicts",
    ),
    metric(
        "adapt_nll_placebo",
        "request loss, placebo",
        "nats/token",
        Neutral,
        Deterministic,
        None,
        "as adapt_nll_static, with a micro_lora of the domain that was given the answers of another domain",
    ),
    metric(
        "adapt_change_unigram",
        "change, unigram cache",
        "",
        Lower,
        Deterministic,
        None,
        "(adapt_nll_unigram - adapt_nll_static) / the domain's mean adapt_nll_static, mean over requests; its interval is Student's t over requests, each paired with itself; those of one text are not independent, so it tells of this text",
    ),
    metric(
        "adapt_change_neural",
        "change, neural cache",
        "",
        Lower,
        Deterministic,
        None,
        "(adapt_nll_neural - adapt_nll_static) / the domain's mean adapt_nll_static, mean over requests; its interval is Student's t over requests, each paired with itself; those of one text are not independent, so it tells of this text",
    ),
    metric(
        "adapt_change_micro",
        "change, MicroLoRA",
        "",
        Lower,
        Deterministic,
        None,
        "(adapt_nll_micro - adapt_nll_static) / the domain's mean adapt_nll_static, mean over requests; its interval is Student's t over requests, each paired with itself; those of one text are not independent, so it tells of this text",
    ),
    metric(
        "adapt_change_both",
        "change, MicroLoRA and neural cache",
        "",
        Lower,
        Deterministic,
        None,
        "(adapt_nll_both - adapt_nll_static) / the domain's mean adapt_nll_static, mean over requests; its interval is Student's t over requests, each paired with itself; those of one text are not independent, so it tells of this text",
    ),
    metric(
        "adapt_change_placebo",
        "change, placebo",
        "",
        Neutral,
        Deterministic,
        None,
        "(adapt_nll_placebo - adapt_nll_static) / the domain's mean adapt_nll_static, mean over requests; its interval is Student's t over requests, each paired with itself; those of one text are not independent, so it tells of this text",
    ),
    metric(
        "micro_applied",
        "MicroLoRA steps taken",
        "",
        Neutral,
        Deterministic,
        None,
        "share of the requests whose step passed its guards and moved the adapter",
    ),
    metric(
        "micro_resets",
        "MicroLoRA resets",
        "",
        Lower,
        Deterministic,
        None,
        "how often the adapter had made recent requests worse and was reset",
    ),
    metric(
        "micro_update_ms",
        "MicroLoRA update",
        "ms",
        Lower,
        Launch,
        None,
        "median wall time of learning from one answer, of 12",
    ),
    metric(
        "micro_decode_overhead",
        "MicroLoRA decode overhead",
        "",
        Lower,
        Launch,
        None,
        "median over 12 pairs of (time to decode an answer with micro_lora: inputs of the head kept, the addition, and what the update needs of every token) / (time without) - 1",
    ),
    metric("weights_bytes", "weights", "bytes", Lower, Deterministic, None, "bytes of all tensors as they run"),
];

/// Returns the metric of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Metric> {
    METRICS.iter().find(|metric| metric.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_carry_their_unit() {
        for (i, metric) in METRICS.iter().enumerate() {
            assert!(METRICS[i + 1..].iter().all(|other| other.name != metric.name), "{} twice", metric.name);
            let suffix = match metric.unit {
                "ms" => "_ms",
                "bytes" => "_bytes",
                "tokens/s" => "_tok_s",
                "J" => "_j",
                _ => "",
            };
            assert!(metric.name.ends_with(suffix), "{} should end with {suffix}", metric.name);
            assert!(!metric.definition.is_empty());
        }
    }
}
