//! Recognising what a `tokenizer.json` does to text before it merges.
use serde_json::Value as Json;

use super::{TokenizerError, file::TokenizerJson, pre, spm};

/// The kinds of tokenizer a file can describe.
pub(super) enum Shape {
    /// Byte-level BPE: the rule it splits by, and which of the rule's patterns; whether it normalises.
    ByteLevel { rule: &'static pre::Rule, place: usize, nfc: bool },
    /// `SentencePiece` BPE.
    SentencePieces { space: spm::Space },
}

fn wrong(problem: String) -> TokenizerError {
    TokenizerError::Json { file: "tokenizer.json", problem }
}

fn kind(step: &Json) -> &str {
    step.get("type").and_then(Json::as_str).unwrap_or_default()
}

fn flag(step: &Json, key: &str, default: bool) -> bool {
    step.get(key).and_then(Json::as_bool).unwrap_or(default)
}

/// Returns the steps of a sequence, however deep it is nested; nothing of null.
fn flat<'a>(step: &'a Json, list: &str, steps: &mut Vec<&'a Json>) {
    if step.is_null() {
        return;
    }
    match step.get(list).and_then(Json::as_array) {
        Some(parts) if kind(step) == "Sequence" => {
            for part in parts {
                flat(part, list, steps);
            }
        }
        _ => steps.push(step),
    }
}

pub(super) fn read(tokenizer: &TokenizerJson) -> Result<Shape, TokenizerError> {
    let model = &tokenizer.model;
    match model.kind.as_deref() {
        None | Some("BPE") => {}
        Some(found) => return Err(wrong(format!("model {found:?} is not supported (supported: BPE)"))),
    }
    let affix = |affix: &Option<String>| affix.as_ref().is_some_and(|affix| !affix.is_empty());
    if affix(&model.continuing_subword_prefix) || affix(&model.end_of_word_suffix) {
        return Err(wrong("word prefixes and suffixes of the BPE model are not supported".to_owned()));
    }
    if model.dropout.is_some_and(|dropout| dropout != 0.0) {
        return Err(wrong("BPE dropout is for training; set it to null".to_owned()));
    }
    let (mut normalizers, mut steps) = (Vec::new(), Vec::new());
    flat(&tokenizer.normalizer, "normalizers", &mut normalizers);
    flat(&tokenizer.pre_tokenizer, "pretokenizers", &mut steps);
    if steps.iter().any(|step| kind(step) == "ByteLevel") {
        return byte_level(&normalizers, &steps, model.ignore_merges);
    }
    if model.byte_fallback {
        return sentence_pieces(&normalizers, &steps);
    }
    Err(wrong("neither bytes (pre-tokenizer ByteLevel) nor SentencePiece with byte_fallback: such a BPE model is not supported".to_owned()))
}

fn byte_level(normalizers: &[&Json], steps: &[&Json], ignore_merges: bool) -> Result<Shape, TokenizerError> {
    let nfc = match normalizers.iter().map(|step| kind(step)).collect::<Vec<_>>().as_slice() {
        [] => false,
        ["NFC"] => true,
        found => return Err(wrong(format!("normalizer {} is not supported (supported: none, NFC)", found.join(", ")))),
    };
    let mut patterns = Vec::new();
    for step in steps {
        match kind(step) {
            "ByteLevel" if flag(step, "add_prefix_space", true) => {
                return Err(wrong("pre-tokenizer ByteLevel with add_prefix_space is not supported".to_owned()));
            }
            "ByteLevel" if flag(step, "use_regex", true) => patterns.push(pre::GPT2.to_owned()),
            "ByteLevel" => {}
            "Digits" if flag(step, "individual_digits", false) => patterns.push(pre::DIGIT.to_owned()),
            "Split" => patterns.push(pattern(step)?),
            found => return Err(wrong(format!("pre-tokenizer {found:?} is not supported"))),
        }
    }
    match pre::recognise(&patterns, ignore_merges) {
        Some((rule, place)) => Ok(Shape::ByteLevel { rule, place, nfc }),
        None => Err(wrong(format!(
            "it splits text in a way that is not known here: {}; convert the model to GGUF with llama.cpp and use that",
            patterns.join(" then ")
        ))),
    }
}

/// Returns what a step splits at.
fn pattern(step: &Json) -> Result<String, TokenizerError> {
    // Keeping only the matches of a pattern that matches everything is the same as isolating them.
    let behavior = step.get("behavior").and_then(Json::as_str).unwrap_or_default();
    match (behavior, flag(step, "invert", false)) {
        ("Isolated", false) | ("Removed", true) => {}
        (behavior, invert) => {
            return Err(wrong(format!(
                "pre-tokenizer Split with behavior {behavior:?}, invert {invert} is not supported"
            )));
        }
    }
    let regex = step.get("pattern").and_then(|pattern| pattern.get("Regex")).and_then(Json::as_str);
    let regex =
        regex.ok_or_else(|| wrong("pre-tokenizer Split without a regular expression is not supported".to_owned()))?;
    // Some files have the line ends themselves where others name them.
    Ok(regex.replace('\r', r"\r").replace('\n', r"\n"))
}

fn sentence_pieces(normalizers: &[&Json], steps: &[&Json]) -> Result<Shape, TokenizerError> {
    let text = |step: &Json, key: &str| step.get(key).and_then(Json::as_str).unwrap_or_default().to_owned();
    let mark = spm::SPACE.to_string();
    let (mut replaces, mut space) = (false, spm::Space::Never);
    for step in normalizers {
        let pattern = step.get("pattern").map(|pattern| text(pattern, "String"));
        match kind(step) {
            "Prepend" if text(step, "prepend") == mark => space = spm::Space::Always,
            "Replace" if pattern.as_deref() == Some(" ") && text(step, "content") == mark => replaces = true,
            found => {
                return Err(wrong(format!(
                    "normalizer {found:?} of a SentencePiece model is not supported here: {step}"
                )));
            }
        }
    }
    for step in steps {
        let pattern = step.get("pattern").map(|pattern| text(pattern, "String"));
        match kind(step) {
            // Nothing is left to split once every space is replaced.
            "Split" if replaces && pattern.as_deref() == Some(" ") => {}
            "Metaspace" if text(step, "replacement") == mark && !flag(step, "split", true) => {
                replaces = true;
                space = match text(step, "prepend_scheme").as_str() {
                    "never" => space,
                    "first" => spm::Space::MetaspaceFirst,
                    _ => spm::Space::Metaspace,
                };
            }
            found => {
                return Err(wrong(format!(
                    "pre-tokenizer {found:?} of a SentencePiece model is not supported here: {step}"
                )));
            }
        }
    }
    if !replaces {
        return Err(wrong(format!("spaces are not replaced by {mark:?}: not a SentencePiece model as known here")));
    }
    Ok(Shape::SentencePieces { space })
}
