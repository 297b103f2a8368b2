//! Token ids against llama.cpp's and transformers', line by line.
//!
//! `scripts/tokenizer-reference` says how the references are made: llama.cpp at 0c1e57098, transformers 5.24 with
//! tokenizers 0.23.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "tests stop at what they cannot do and print what they measure"
)]

use std::{env, fs, path::Path};

use ruvlab::model::{
    tokenizer::{Tokenizer, TokenizerFiles, metadata_from_json},
    weights::Index,
};
use serde::Deserialize;

use crate::token_lines::{COUNT, lines};

/// What a reference says about the lines.
#[derive(Deserialize)]
struct Reference {
    /// A GGUF file, or a folder with `tokenizer.json`.
    model: String,
    parse_special: bool,
    ids: Vec<Vec<u32>>,
}

fn tokenizer(model: &str) -> Tokenizer {
    if !Path::new(model).is_dir() {
        let metadata = Index::parse(&fs::read(model).unwrap()).unwrap().metadata;
        return Tokenizer::from_metadata(&metadata).unwrap();
    }
    let read = |name: &str| fs::read(Path::new(model).join(name)).ok();
    let (json, config) = (read("tokenizer.json").unwrap(), read("tokenizer_config.json"));
    let files =
        TokenizerFiles { tokenizer_json: &json, tokenizer_config: config.as_deref(), ..TokenizerFiles::default() };
    Tokenizer::from_metadata(&metadata_from_json(&files, 300_000).unwrap()).unwrap()
}

/// Returns the BLAKE3 of token ids as little-endian bytes, each line ended by `u32::MAX`.
fn digest(ids: &[Vec<u32>]) -> String {
    let mut hasher = blake3::Hasher::new();
    for token in ids.iter().flat_map(|line| line.iter().chain([&u32::MAX])) {
        hasher.update(&token.to_le_bytes());
    }
    hasher.finalize().to_hex().to_string()
}

fn encode(tokenizer: &Tokenizer, lines: &[String], parse_special: bool) -> Vec<Vec<u32>> {
    lines.iter().map(|line| tokenizer.encode(line, parse_special).unwrap()).collect()
}

#[test]
#[ignore = "writes the lines that scripts/tokenizer-reference reads, to the path in RUVLAB_TOKEN_LINES"]
fn write_the_lines() {
    fs::write(env::var("RUVLAB_TOKEN_LINES").unwrap(), serde_json::to_string(&lines()).unwrap()).unwrap();
}

#[test]
#[ignore = "compares with what scripts/tokenizer-reference wrote, in the folder RUVLAB_TOKEN_REFERENCES"]
fn every_line_has_the_ids_of_the_reference() {
    let (lines, mut wrong) = (lines(), Vec::new());
    let mut paths: Vec<_> = fs::read_dir(env::var("RUVLAB_TOKEN_REFERENCES").unwrap())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let reference: Reference = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
        assert_eq!(reference.ids.len(), COUNT);
        let tokenizer = tokenizer(&reference.model);
        let ids = encode(&tokenizer, &lines, reference.parse_special);
        let different: Vec<usize> = (0..COUNT).filter(|index| ids[*index] != reference.ids[*index]).collect();
        println!("{}: {} lines differ, digest {}", path.display(), different.len(), digest(&ids));
        for index in different.iter().take(8) {
            let (ours, theirs) = (&ids[*index], &reference.ids[*index]);
            let same = ours.iter().zip(theirs).take_while(|(a, b)| a == b).count();
            let shown = |ids: &[u32]| -> Vec<(u32, String)> {
                let piece = |token: &u32| (*token, String::from_utf8_lossy(tokenizer.piece(*token)).into_owned());
                ids.iter().skip(same.saturating_sub(1)).take(6).map(piece).collect()
            };
            println!("  line {index}: ours {:?}\n       theirs {:?}", shown(ours), shown(theirs));
        }
        let lossy = (0..COUNT).filter(|index| tokenizer.decode(&ids[*index]) != lines[*index]).count();
        println!("  {lossy} lines do not come back as they were");
        wrong.extend((!different.is_empty()).then_some(path));
    }
    assert!(wrong.is_empty(), "{wrong:?}");
}
