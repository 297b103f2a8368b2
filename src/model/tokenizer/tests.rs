use super::{specials::Special, split::Splitter, *};

fn pico() -> Tokenizer {
    Tokenizer::new(&Weights::open("builtin:pico").unwrap()).unwrap()
}

#[test]
fn texts_come_back_as_they_were() {
    let tokenizer = pico();
    let alphabet: String = (0..=255u8).map(char::from).collect();
    for text in [
        "",
        " ",
        "  \n\n\t x",
        "It's 12345 o'clock, isn't it?",
        "naïve Größe, où ça?",
        "日本語のテキスト",
        "مرحبا بالعالم",
        "🦀👩‍👩‍👧‍👦 emoji",
        "\u{0}\u{1}\u{7f}\u{85}\u{2028}",
        "fn main() { println!(\"{}\", 1_000); }\r\n",
        &alphabet,
    ] {
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
        assert!(tokens.iter().all(|token| (*token as usize) < tokenizer.vocab_size()));
    }
}

#[test]
fn special_tokens_are_text_unless_they_are_asked_for() {
    let tokenizer = pico();
    let special = tokenizer.specials.iter().find(|special| special.control).unwrap();
    let text = format!("one {0}{0} two", special.text);
    let parsed = tokenizer.encode(&text, true).unwrap();
    assert_eq!(parsed.iter().filter(|token| **token == special.token).count(), 2);
    let plain = tokenizer.encode(&text, false).unwrap();
    assert!(!plain.contains(&special.token));
    assert_eq!(tokenizer.decode(&parsed), text);
    assert_eq!(tokenizer.decode(&plain), text);
}

#[test]
fn the_alphabet_of_bytes_is_one_to_one() {
    let letters: std::collections::HashSet<char> = (0..=255).map(alphabet::letter).collect();
    assert_eq!(letters.len(), 256);
    assert_eq!((alphabet::letter(b' '), alphabet::letter(b'\n'), alphabet::letter(b'A')), ('Ġ', 'Ċ', 'A'));
}

#[test]
fn every_rule_compiles_and_splits_without_losing_text() {
    let text = "It's 1234 o'Clock;  ça\n\n va? 日本 🦀 XMLHttp\u{301} \r\n\t \u{a0}\u{3000} x";
    let mut seen = 0;
    for name in pre::names() {
        let rule = pre::find(name).unwrap();
        for splits in std::iter::once(rule.splits).chain(rule.json.iter().copied()) {
            let splitter = Splitter::new(splits).unwrap();
            let pieces = splitter.pieces(text);
            assert!(pieces.len() > 3 && pieces.iter().all(|piece| !piece.is_empty()), "{name}");
            assert_eq!(pieces.iter().map(|piece| &text[piece.clone()]).collect::<String>(), text, "{name}");
            assert!(pieces.windows(2).all(|pair| pair[0].end == pair[1].start), "{name}");
            seen += 1;
        }
    }
    assert!(seen > 50, "{seen}");
}

fn pieces<'a>(name: &str, text: &'a str) -> Vec<&'a str> {
    let splitter = Splitter::new(pre::find(name).unwrap().splits).unwrap();
    splitter.pieces(text).into_iter().map(|piece| &text[piece]).collect()
}

/// What the patterns' `\s+(?!\S)` means, without a look-ahead.
#[test]
fn white_space_leaves_its_last_character_to_the_word() {
    assert_eq!(pieces("gpt-2", "a   b  "), ["a", "  ", " b", "  "]);
    assert_eq!(pieces("gpt-2", "a\n\nb\n c"), ["a", "\n", "\n", "b", "\n", " c"]);
    assert_eq!(pieces("qwen2", "a\n\n  b \n\n c\t\t"), ["a", "\n\n", " ", " b", " \n\n", " c", "\t\t"]);
    assert_eq!(pieces("qwen2", "x.\n\ny 12"), ["x", ".\n\n", "y", " ", "1", "2"]);
    assert_eq!(pieces("llama-bpe", "12345 I'LL\u{a0}\u{a0}go"), ["123", "45", " I", "'LL", "\u{a0}", "\u{a0}go"]);
    assert_eq!(pieces("deepseek-llm", "ab  \ncd  "), ["ab", "  ", "\n", "cd", "  "]);
}

/// A vocabulary of single letters, bytes and the given words, the earlier the higher their score.
fn sentence_pieces(words: &[&str], space_prefix: bool) -> Tokenizer {
    let letters = ('a'..='e').map(String::from).chain(["▁".to_owned()]);
    let bytes = (0..=255u8).map(|byte| format!("<0x{byte:02X}>"));
    let tokens: Vec<String> = ["<unk>", "<s>", "</s>", "[USER]"]
        .into_iter()
        .map(str::to_owned)
        .chain(bytes)
        .chain(letters)
        .chain(words.iter().map(|word| (*word).to_owned()))
        .collect();
    let types = (0..tokens.len()).map(|id| match id {
        0 => 2,
        1 | 2 => 3,
        3 => 4,
        4..260 => 6,
        _ => 1,
    });
    let scores = (0..tokens.len()).map(|id| -(id as f64));
    let mut metadata = IndexMap::new();
    metadata.insert("tokenizer.ggml.model".to_owned(), Value::Text("llama".to_owned()));
    metadata.insert("tokenizer.ggml.token_type".to_owned(), Value::List(types.map(Value::Signed).collect()));
    metadata.insert("tokenizer.ggml.scores".to_owned(), Value::List(scores.map(Value::Float).collect()));
    metadata.insert("tokenizer.ggml.bos_token_id".to_owned(), Value::Unsigned(1));
    metadata.insert("tokenizer.ggml.eos_token_id".to_owned(), Value::Unsigned(2));
    metadata.insert("tokenizer.ggml.add_space_prefix".to_owned(), Value::Bool(space_prefix));
    metadata.insert("tokenizer.ggml.tokens".to_owned(), Value::List(tokens.into_iter().map(Value::Text).collect()));
    Tokenizer::from_metadata(&metadata).unwrap()
}

#[test]
fn the_highest_score_is_merged_first_then_the_leftmost() {
    let words = |tokenizer: &Tokenizer, text: &str| -> Vec<String> {
        let tokens = tokenizer.encode(text, false).unwrap();
        tokens.iter().map(|token| String::from_utf8_lossy(tokenizer.piece(*token)).into_owned()).collect()
    };
    let tokenizer = sentence_pieces(&["bc", "ab", "aa", "abcd"], false);
    assert_eq!(words(&tokenizer, "abc"), ["a", "bc"]);
    assert_eq!(words(&tokenizer, "aaa"), ["aa", "a"]);
    // Nothing leads to "abcd": neither "abc" nor "bcd" is a token, and "ab" comes after "bc".
    assert_eq!(words(&tokenizer, "abcd"), ["a", "bc", "d"]);
    assert_eq!(words(&tokenizer, "ab cd"), ["ab", " ", "c", "d"]);
    let prefixed = sentence_pieces(&["bc", "▁a"], true);
    assert_eq!(words(&prefixed, "a[USER]a"), [" a", "[USER]", " a"]);
    assert!(prefixed.is_end(2) && !prefixed.is_end(1));
    assert_eq!((prefixed.bos_to_add(), prefixed.eos_to_add()), (Some(1), None));
}

#[test]
fn sentence_pieces_come_back_as_they_were_with_or_without_the_added_space() {
    for space_prefix in [false, true] {
        let tokenizer = sentence_pieces(&["▁a", "ab", "▁▁"], space_prefix);
        for text in ["", "abc", " abc", "   a", "a[USER] b[USER]", "é 日\n🦀", "x<s>y", "\u{0}\u{7f}"] {
            let tokens = tokenizer.encode(text, true).unwrap();
            assert_eq!(tokenizer.decode(&tokens), text, "{tokens:?}");
            let mut stream = tokenizer.stream(None);
            let mut streamed: String = tokens.iter().map(|token| stream.push(*token)).collect();
            streamed.push_str(&stream.finish());
            assert_eq!(streamed, text);
        }
    }
}

/// A megabyte without one place to cut, in time that is no multiple of its square.
#[test]
fn long_runs_are_no_trouble() {
    let sentence = sentence_pieces(&["aa", "aaaa", "aaaaaaaa", "ab"], false);
    let bytes = pico();
    for run in ["a", "ab", " ", "\n", "é", "\u{300}", "1", "!", "'s"] {
        let text = run.repeat((1 << 20) / run.len());
        for tokenizer in [&sentence, &bytes] {
            let tokens = tokenizer.encode(&text, true).unwrap();
            assert!(tokenizer.decode(&tokens) == text, "{run:?}");
        }
    }
}

#[test]
fn random_texts_come_back_as_they_were() {
    use rand::{Rng, SeedableRng};
    let mut random = rand_chacha::ChaCha8Rng::seed_from_u64(11);
    let tokenizers = [pico(), sentence_pieces(&["▁a", "ab", "▁▁", "abc"], true)];
    for _ in 0..2000 {
        let length = random.random_range(0..60);
        let text: String = (0..length)
            .map(|_| match random.random_range(0..6) {
                0 => random.random::<char>(),
                1 => ' ',
                2 => char::from(random.random_range(0..0x80u8)),
                3 => random.random_range('\u{80}'..'\u{800}'),
                4 => ['\r', '\n', '\t', '\u{200d}', '\u{feff}', '\u{fffd}'][random.random_range(0..6)],
                _ => random.random_range('a'..='e'),
            })
            .collect();
        for tokenizer in &tokenizers {
            let tokens = tokenizer.encode(&text, false).unwrap();
            // The mark that stands for a space is the one character SentencePiece cannot express.
            if !text.contains(spm::SPACE) {
                assert_eq!(tokenizer.decode(&tokens), text);
            }
        }
    }
}

#[test]
fn special_tokens_are_found_longest_first() {
    let special = |text: &str, token, strips_right| Special {
        text: text.to_owned(),
        token,
        control: true,
        strips_left: false,
        strips_right,
    };
    let specials = Specials::new(vec![special("<a>", 1, false), special("<a><b>", 2, true), special("b", 3, false)]);
    let parts = |text, parse| specials.parts(text, parse);
    assert_eq!(parts("x<a><b> \n<a>b", true), [Part::Text(0..1), Part::Token(2), Part::Token(1), Part::Token(3)]);
    assert_eq!(parts("x<a><b>", false), [Part::Text(0..7)]);
    assert_eq!(parts("", true), []);
}

#[test]
fn what_metadata_lacks_or_gets_wrong_is_an_error_that_says_so() {
    let good = Weights::open("builtin:pico").unwrap().index().metadata.clone();
    let fails = |key: &str, value: Option<Value>, expected: &str| {
        let mut metadata = good.clone();
        match value {
            Some(value) => metadata.insert(key.to_owned(), value),
            None => metadata.shift_remove(key),
        };
        let message = Tokenizer::from_metadata(&metadata).err().unwrap().to_string();
        assert!(message.contains(expected), "{message}");
    };
    let text = |text: &str| Some(Value::Text(text.to_owned()));
    fails("tokenizer.ggml.model", text("bert"), "\"bert\"");
    fails("tokenizer.ggml.model", text("llama"), "tokenizer.ggml.scores");
    fails("tokenizer.ggml.pre", text("none-such"), "none-such");
    let mut long = good["tokenizer.ggml.tokens"].as_list().unwrap().to_vec();
    long[300] = Value::Text("x".repeat(4097));
    fails("tokenizer.ggml.tokens", Some(Value::List(long)), "token 300 of 4097 bytes");
    fails("tokenizer.ggml.tokens", None, "is missing");
    fails("tokenizer.ggml.merges", Some(Value::List(vec![Value::Text("q".to_owned())])), "no pair of known tokens");
    fails("tokenizer.ggml.token_type", Some(Value::List(vec![])), "one number for each token");
    fails("tokenizer.ggml.eos_token_id", Some(Value::Unsigned(1 << 40)), "not a token");
    fails("ruvlab.tokenizer.json_splits", Some(Value::Unsigned(9)), "json_splits");
    fails("ruvlab.tokenizer.strips_left", Some(Value::List(vec![Value::Float(0.5)])), "not a list of tokens");
}
