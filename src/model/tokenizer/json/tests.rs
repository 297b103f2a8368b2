use serde_json::json;

use super::{super::Tokenizer, *};

/// A byte-level `tokenizer.json` with a few merges, splitting as given.
fn byte_level(pre_tokenizer: &Json) -> Json {
    let letters = (0..=255u8).map(|byte| super::super::alphabet::letter(byte).to_string());
    let words = ["ab", "Ġa", "abc"].map(str::to_owned);
    let vocab: serde_json::Map<String, Json> =
        letters.chain(words).enumerate().map(|(id, text)| (text, id.into())).collect();
    json!({
        "added_tokens": [
            {"id": 259, "content": "<|bos|>", "special": true},
            {"id": 260, "content": "<|end|>", "special": true, "rstrip": true},
            {"id": 261, "content": "<tool>", "special": false},
        ],
        "normalizer": null,
        "pre_tokenizer": pre_tokenizer,
        "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<|bos|>"}}, {"Sequence": {"id": "A"}}]},
        "model": {"type": "BPE", "vocab": vocab, "merges": ["a b", ["Ġ", "a"], "ab c"], "ignore_merges": false},
    })
}

fn split(regex: &str) -> Json {
    json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    ]})
}

const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

fn metadata(tokenizer: &Json, config: &Json) -> Result<IndexMap<String, Value>, TokenizerError> {
    let (json, config) = (tokenizer.to_string(), config.to_string());
    let files = TokenizerFiles {
        tokenizer_json: json.as_bytes(),
        tokenizer_config: Some(config.as_bytes()),
        ..TokenizerFiles::default()
    };
    metadata_from_json(&files, 264)
}

#[test]
fn everything_a_folder_says_becomes_metadata() {
    let config =
        json!({"bos_token": "<|bos|>", "eos_token": {"content": "<|end|>"}, "chat_template": "{{ 1 }}"}).to_string();
    let tokenizer_json = byte_level(&split(QWEN2)).to_string();
    let files = TokenizerFiles {
        tokenizer_json: tokenizer_json.as_bytes(),
        tokenizer_config: Some(config.as_bytes()),
        generation_config: Some(br#"{"eos_token_id": [260, 259]}"#),
        ..TokenizerFiles::default()
    };
    let found = metadata_from_json(&files, 264).unwrap();
    let text = |key: &str| found[key].as_str().unwrap();
    assert_eq!((text("tokenizer.ggml.model"), text("tokenizer.ggml.pre")), ("gpt2", "qwen2"));
    assert_eq!(text("tokenizer.chat_template"), "{{ 1 }}");
    for (key, value) in [("bos", 259), ("eos", 260), ("eot", 259)] {
        assert_eq!(found[&format!("tokenizer.ggml.{key}_token_id")], Value::Unsigned(value));
    }
    assert_eq!(found["tokenizer.ggml.add_bos_token"], Value::Bool(true));
    assert_eq!(found["tokenizer.ggml.add_eos_token"], Value::Bool(false));
    let list = |key: &str| found[key].as_list().unwrap();
    assert_eq!(list("tokenizer.ggml.tokens")[262], Value::Text("[PAD262]".to_owned()));
    let types: Vec<u64> = list("tokenizer.ggml.token_type")[258..].iter().filter_map(Value::as_u64).collect();
    assert_eq!(types, [1, 3, 3, 4, 5, 5]);
    assert_eq!(list("tokenizer.ggml.merges")[1], Value::Text("Ġ a".to_owned()));
    let with_template = TokenizerFiles { chat_template: Some("{{ 2 }}"), ..files };
    let found = metadata_from_json(&with_template, 264).unwrap();
    assert_eq!(found["tokenizer.chat_template"], Value::Text("{{ 2 }}".to_owned()));

    let tokenizer = Tokenizer::from_metadata(&found).unwrap();
    let ids = tokenizer.encode("abc<|end|>  <tool> ab", true).unwrap();
    assert_eq!(ids, [258, 260, 261, 32, 256]);
    assert_eq!(tokenizer.bos_to_add(), Some(259));
    assert!(tokenizer.is_end(260) && tokenizer.is_end(259) && !tokenizer.is_end(261));
}

#[test]
fn what_is_not_known_is_named() {
    let fails = |tokenizer: &Json, config: &Json, expected: &str| {
        let message = metadata(tokenizer, config).unwrap_err().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let none = json!({});
    fails(&byte_level(&split("[a-z]+")), &none, "[a-z]+");
    fails(&byte_level(&json!({"type": "Punctuation"})), &none, "ByteLevel");
    fails(&byte_level(&json!({"type": "ByteLevel"})), &none, "add_prefix_space");
    let good = byte_level(&split(QWEN2));
    let with = |key: &str, value: Json| {
        let mut changed = good.clone();
        changed[key] = value;
        changed
    };
    fails(&with("normalizer", json!({"type": "Lowercase"})), &none, "Lowercase");
    fails(&with("model", json!({"type": "Unigram", "vocab": [["a", 0.0]]})), &none, "Unigram");
    fails(&with("model", json!({"vocab": {"a": 264}, "merges": []})), &none, "264");
    fails(&with("model", json!({"vocab": {}, "merges": [], "dropout": 0.1})), &none, "dropout");
    fails(&good, &json!({"bos_token": "<|end|>"}), "post-processor");
    let files = TokenizerFiles { tokenizer_json: b"{", ..TokenizerFiles::default() };
    assert!(metadata_from_json(&files, 8).unwrap_err().to_string().starts_with("tokenizer.json: "));
    assert!(metadata_from_json(&files, usize::MAX).is_err());
}

#[test]
fn scores_say_when_a_token_is_merged_and_whether_that_is_all() {
    let parse = |merges: Json| -> TokenizerJson {
        let vocab = json!({"a": 0, "b": 1, "ab": 2, "ba": 3, "aba": 4});
        serde_json::from_value(json!({"model": {"vocab": vocab, "merges": merges}})).unwrap()
    };
    let (found, complete) = scores(&parse(json!(["b a", "a b", "ab a", "a ba"])), 5);
    assert_eq!((found, complete), (vec![0.0, 0.0, -2.0, -1.0, -3.0], true));
    assert!(!scores(&parse(json!(["b a", "a b", "ab a"])), 5).1);
}
