use super::*;

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
    assert_eq!(parsed.iter().filter(|token| **token == special.id).count(), 2);
    let plain = tokenizer.encode(&text, false).unwrap();
    assert!(!plain.contains(&special.id));
    assert_eq!(tokenizer.decode(&parsed), text);
    assert_eq!(tokenizer.decode(&plain), text);
}

#[test]
fn the_alphabet_of_bytes_is_one_to_one() {
    let letters: std::collections::HashSet<char> = (0..=255).map(letter).collect();
    assert_eq!(letters.len(), 256);
    assert_eq!((letter(b' '), letter(b'\n'), letter(b'A')), ('Ġ', 'Ċ', 'A'));
}

#[test]
fn every_rule_compiles_and_splits_without_losing_text() {
    for name in pre::names() {
        let vocab: Vocab = (0..=255u8).map(|byte| (letter(byte).to_string(), u32::from(byte))).collect();
        let bpe = bpe(vocab, Vec::new(), pre::find(name).unwrap()).unwrap();
        let text = "It's 1234 o'Clock;  ça\n\n va? 日本 🦀";
        let ids = bpe.encode_fast(text, false).unwrap();
        let bytes: Vec<u8> = ids.get_ids().iter().map(|id| *id as u8).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), text, "{name}");
    }
}
