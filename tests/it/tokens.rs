//! Token ids against llama.cpp's and transformers', line by line.
//!
//! `scripts/tokenizer-reference` says how the references are made: llama.cpp at 0c1e57098, transformers 5.24 with
//! tokenizers 0.23.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should say where")]

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

/// Digests of llama.cpp's ids, without and with special tokens parsed, and how many lines do not come back
/// from ids as they were: what a vocabulary has no piece for is lost in it.
struct Digests {
    /// A file, or the variable that names it.
    model: &'static str,
    plain: &'static str,
    special: &'static str,
    lossy: usize,
}

const DIGESTS: [Digests; 4] = [
    Digests {
        model: "assets/pico/pico.gguf",
        plain: "8f4766483f905a5aff80d193455404ab9c2230f965f0395092242c362937161e",
        special: "93c769441530815aba62edb59b4ca460d64d86c8a0c6ed5ba3a997387dd3385e",
        lossy: 0,
    },
    Digests {
        model: "RUVLAB_TEST_SMOLLM2",
        plain: "c9bcaf130f608ca5495e4f4e17531235bf83a358c954ea78ee63cf10b3277951",
        special: "b1a94698cdfb3624d8717eb9a844d0ba6f33d9dc9d14f1cc8859ff0683c2276f",
        lossy: 370,
    },
    Digests {
        model: "RUVLAB_TEST_QWEN2",
        plain: "8d569616e540b729f005b73bd7df8fe593b529f597068bdfc6c3a60441fd81e4",
        special: "50d0a12ab772ebc52d411cee2a361bceec0f06398f0cfd477f84c0f656726e09",
        lossy: 0,
    },
    Digests {
        model: "RUVLAB_TEST_GEMMA3",
        plain: "96a782660671ca0e5b6b01b0a9a0c1165991b2f2467112b91e1e5e1f8c19caa4",
        special: "542c845f46e7f6d911d15667b773e6c4919658456c7315b6ac5b6cf3a7809fc1",
        lossy: 68,
    },
];

#[test]
fn every_line_has_the_ids_of_llama_cpp() {
    let lines = lines();
    for Digests { model, plain, special, lossy } in DIGESTS {
        let path = if model.ends_with(".gguf") { Some(model.to_owned()) } else { env::var(model).ok() };
        let Some(path) = path else {
            println!("skipped: {model} does not name a file");
            continue;
        };
        let tokenizer = tokenizer(&path);
        for (parse_special, expected) in [(false, plain), (true, special)] {
            let ids = encode(&tokenizer, &lines, parse_special);
            assert_eq!(digest(&ids), expected, "{model}, special tokens parsed: {parse_special}");
            let lost = (0..COUNT).filter(|index| tokenizer.decode(&ids[*index]) != lines[*index]).count();
            assert_eq!(lost, lossy, "{model}, special tokens parsed: {parse_special}");
        }
    }
}

/// One half of `scripts/tokenizer-reference`: writes the lines it reads.
#[test]
fn the_lines_are_written_where_they_are_wanted() {
    let Ok(path) = env::var("RUVLAB_TOKEN_LINES") else {
        println!("skipped: RUVLAB_TOKEN_LINES does not name the file that scripts/tokenizer-reference reads");
        return;
    };
    fs::write(path, serde_json::to_string(&lines()).unwrap()).unwrap();
}

/// The other half: shows where ids differ from what it wrote, and the digests that are held above.
#[test]
fn every_line_has_the_ids_of_the_reference() {
    let Ok(folder) = env::var("RUVLAB_TOKEN_REFERENCES") else {
        println!("skipped: RUVLAB_TOKEN_REFERENCES does not name the folder of scripts/tokenizer-reference");
        return;
    };
    let (lines, mut wrong) = (lines(), Vec::new());
    let mut paths: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
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
