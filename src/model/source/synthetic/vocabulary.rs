//! A small byte-level BPE vocabulary of any size: every byte, some English, and unused tokens.
use indexmap::{IndexMap, IndexSet};

use crate::model::weights::Value;

/// ggml's token types (`llama.h`, `llama_token_type`).
const NORMAL: u64 = 1;
const CONTROL: u64 = 3;
const UNUSED: u64 = 5;

const END: &str = "<|endoftext|>";

/// Frequent words of English, so that prompts are not one token a letter.
const WORDS: &str = "the of and to in a is that for it was on are as with they be at have this from or had by \
    but some what there we can out other were all your when up use how said each she which their time will way \
    about many then them would write like so these her long make thing see him two has look more day could go \
    come did my sound no most number who over know water than call first people may down side been now find \
    tion ing ed er ly ment ness able";

/// Returns the letter GPT-2 writes a byte as: itself where it is printable, the next unused one from
/// U+0100 where it is not.
fn letter(byte: u8) -> char {
    let printable = |byte: u8| matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff);
    if printable(byte) {
        return char::from(byte);
    }
    let before = (0..byte).filter(|other| !printable(*other)).count();
    char::from_u32(0x100 + before as u32).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Returns the tokenizer's metadata for `size` tokens, in llama.cpp's keys.
pub(super) fn metadata(size: usize) -> IndexMap<String, Value> {
    let mut tokens: IndexSet<String> = (0..=u8::MAX).map(|byte| letter(byte).to_string()).collect();
    tokens.insert(END.to_owned());
    let end = (tokens.len() - 1) as u64;
    let mut merges = Vec::new();
    for word in WORDS.split_whitespace() {
        let ending = matches!(word, "tion" | "ing" | "ed" | "er" | "ly" | "ment" | "ness" | "able");
        let mut left = if ending { String::new() } else { letter(b' ').to_string() };
        for right in word.chars() {
            let merged = format!("{left}{right}");
            if !left.is_empty() && tokens.insert(merged.clone()) {
                merges.push(Value::Text(format!("{left} {right}")));
            }
            left = merged;
        }
    }
    tokens.truncate(size);
    let known = tokens.len();
    let kinds = (0..size as u64).map(|id| {
        Value::Unsigned(match id {
            id if id == end => CONTROL,
            id if id < known as u64 => NORMAL,
            _ => UNUSED,
        })
    });
    let kinds = kinds.collect();
    let unused = (known..size).map(|id| format!("[PAD{id}]"));
    let tokens = tokens.into_iter().chain(unused).map(Value::Text).collect();
    [
        ("tokenizer.ggml.model", Value::Text("gpt2".to_owned())),
        ("tokenizer.ggml.pre", Value::Text("gpt-2".to_owned())),
        ("tokenizer.ggml.tokens", Value::List(tokens)),
        ("tokenizer.ggml.token_type", Value::List(kinds)),
        ("tokenizer.ggml.merges", Value::List(merges)),
        ("tokenizer.ggml.bos_token_id", Value::Unsigned(end)),
        ("tokenizer.ggml.eos_token_id", Value::Unsigned(end)),
        ("tokenizer.ggml.add_bos_token", Value::Bool(false)),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .into_iter()
    .collect()
}
