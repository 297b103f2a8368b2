//! What to say about a name that is not known.
use super::super::path::KeyPath;
use super::super::problem::Problem;
use super::node::all_keys;
use crate::diag;

/// Names other tools use for what a recipe calls otherwise.
const OTHER_NAMES: [(&str, &str); 23] = [
    ("alpha", "lora_alpha"),
    ("bits", "format"),
    ("chunk_count", "chunks"),
    ("ctx", "n_ctx"),
    ("ctx_size", "context_length"),
    ("dataset", "text"),
    ("dropout", "lora_dropout"),
    ("file", "text"),
    ("include", "extends"),
    ("lr", "learning_rate"),
    ("max_length", "context_length"),
    ("max_new_tokens", "output_tokens"),
    ("max_tokens", "output_tokens"),
    ("method", "format"),
    ("n_gen", "output_tokens"),
    ("n_predict", "output_tokens"),
    ("n_prompt", "prompt_tokens"),
    ("n_threads", "threads"),
    ("num_threads", "threads"),
    ("path", "source"),
    ("rank", "r"),
    ("reps", "repetitions"),
    ("temp", "temperature"),
];

/// Returns the problem of a key that its map does not have.
pub(super) fn key<'a>(within: &KeyPath, key: &str, known: impl Iterator<Item = &'a str> + Clone) -> Problem {
    let message =
        if within.0.is_empty() { format!("unknown key `{key}`") } else { format!("unknown key `{key}` in `{within}`") };
    let other = OTHER_NAMES.iter().find(|(name, _)| *name == key).map(|(_, ours)| *ours);
    let theirs = OTHER_NAMES.iter().filter(|(_, ours)| known.clone().any(|known| known == *ours));
    let near = || diag::nearest(key, known.clone().chain(theirs.map(|(name, _)| *name)));
    let hint = if key == "<<" {
        "YAML merge keys are not used; write the keys out, or share them through `extends`".to_owned()
    } else if let Some(ours) = known.clone().find(|known| Some(*known) == other) {
        format!("here it is called `{ours}`")
    } else if let Some(place) = elsewhere(key, other) {
        place
    } else if let Some(near) = near() {
        let ours = OTHER_NAMES.iter().find(|(name, _)| *name == near && !known.clone().any(|known| known == near));
        ours.map_or_else(|| format!("did you mean `{near}`?"), |(_, ours)| format!("here it is called `{ours}`"))
    } else {
        list("known keys:", known)
    };
    Problem::key(within.key(key), "unknown-key", message).hint(hint)
}

/// Returns where a key, or our name for it, does exist, when that is one or two places.
fn elsewhere(key: &str, other: Option<&str>) -> Option<String> {
    let found = |name: &str| -> Vec<_> {
        let is_last = |path: &&String| path.rsplit(['.']).next() == Some(name);
        all_keys().iter().filter(is_last).map(|path| format!("`{path}`")).collect()
    };
    let places = [Some(key), other].into_iter().flatten().map(found).find(|places| !places.is_empty())?;
    (places.len() <= 2).then(|| format!("it belongs elsewhere: {}", places.join(" or ")))
}

/// Returns the problem of a text that is none of the choices.
pub(super) fn choice(path: &KeyPath, text: &str, choices: &[(&'static str, &'static str)]) -> Problem {
    let names = choices.iter().map(|(choice, _)| *choice);
    let future = text.strip_prefix("ruvlab/v").is_some_and(|version| version.parse::<u32>().is_ok());
    if path.to_string() == "schema" && future {
        return Problem::value(path.clone(), "schema-version", format!("this ruvlab does not know `{text}` recipes"))
            .hint(format!("it reads {}; a newer ruvlab may read this one", names.collect::<Vec<_>>().join(", ")));
    }
    let listed = list("one of", names.clone());
    let lower = text.to_lowercase().replace('-', "_");
    let near = names.clone().find(|name| *name == lower).or_else(|| diag::nearest(&lower, names));
    let hint = match near {
        Some(near) if choices.len() > 1 => format!("did you mean `{near}`? {listed}"),
        _ => listed,
    };
    Problem::value(path.clone(), "unknown-value", format!("unknown value `{text}` for `{path}`")).hint(hint)
}

/// Returns names in one line after an introduction.
pub(super) fn list<'a>(introduction: &str, names: impl Iterator<Item = &'a str>) -> String {
    let names: Vec<_> = names.map(|name| format!("`{name}`")).collect();
    format!("{introduction} {}", names.join(", "))
}
