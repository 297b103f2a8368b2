//! How a stretch of text becomes tokens: byte-level BPE or `SentencePiece`, made from the metadata.
use super::{
    TokenizerError,
    alphabet::{self, Alphabet},
    bpe::{self, ByteLevel},
    key, pre,
    settings::Settings,
    split::Splitter,
    spm::{self, SentencePieces},
    vocabulary::{Kind, Vocabulary},
};

/// A way to cut text, with its vocabulary.
pub(super) enum Model {
    ByteLevel(ByteLevel),
    SentencePieces(SentencePieces),
}

impl Model {
    /// Appends the tokens of a text that holds no special ones.
    pub(super) fn encode(&self, text: &str, tokens: &mut Vec<u32>) -> Result<(), TokenizerError> {
        match self {
            Self::ByteLevel(model) => model.encode(text, tokens),
            Self::SentencePieces(model) => model.encode(text, tokens.is_empty(), tokens),
        }
    }
}

/// A model, the bytes of every token, and whether texts begin with a token where the file does not say.
type Parts = (Model, Vec<Vec<u8>>, bool);

/// Reads the model that the metadata describe.
pub(super) fn read(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Parts, TokenizerError> {
    match settings.text("tokenizer.ggml.model")? {
        "gpt2" => byte_level(settings, vocabulary),
        "llama" => sentence_pieces(settings, vocabulary),
        found => Err(TokenizerError::Model { found: found.to_owned() }),
    }
}

fn byte_level(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Parts, TokenizerError> {
    const PRE: &str = "tokenizer.ggml.pre";
    // Files older than the key split as llama.cpp's `default` does.
    let pre = if settings.has(PRE) { settings.text(PRE)? } else { "default" };
    let rule = pre::find(pre).ok_or_else(|| TokenizerError::PreTokenizer { found: pre.to_owned() })?;
    let splits = match settings.0.get(key::JSON_SPLITS) {
        None => rule.splits,
        Some(place) => {
            let place = place.as_u64().and_then(|place| rule.json.get(usize::try_from(place).ok()?));
            place.ok_or_else(|| Settings::wrong(key::JSON_SPLITS, &format!("is none that {pre:?} has")))?
        }
    };
    let alphabet = Alphabet::new();
    let token_of = |text: &str| vocabulary.tokens.get(text).copied();
    let ignore_merges = settings.flag(key::IGNORE_MERGES)?.unwrap_or(rule.ignore_merges);
    let whole = || {
        let bytes = |(id, text): (u32, &String)| alphabet.bytes(text).map(|bytes| (bytes, id));
        (0..).zip(&vocabulary.texts).filter_map(bytes).collect()
    };
    let model = ByteLevel {
        splitter: Splitter::new(splits)?,
        bytes: (0..=u8::MAX).map(|byte| token_of(&alphabet::letter(byte).to_string())).collect(),
        merges: bpe::merges(settings.texts("tokenizer.ggml.merges")?.into_iter(), token_of)?,
        whole: ignore_merges.then(whole),
    };
    let piece = |(text, kind): (&String, &Kind)| match kind {
        Kind::Normal => alphabet.bytes(text).unwrap_or_else(|| text.clone().into_bytes()),
        Kind::Byte => spm::byte(text).map_or_else(|| text.clone().into_bytes(), |byte| vec![byte]),
        Kind::Unknown | Kind::Control | Kind::UserDefined => text.clone().into_bytes(),
        Kind::Unused | Kind::Undefined => Vec::new(),
    };
    let pieces = vocabulary.texts.iter().zip(&vocabulary.kinds).map(piece).collect();
    Ok((Model::ByteLevel(model), pieces, rule.add_bos))
}

fn sentence_pieces(settings: &Settings<'_>, vocabulary: &Vocabulary) -> Result<Parts, TokenizerError> {
    let size = vocabulary.texts.len();
    let from_json = settings.has(key::SOURCE);
    let scores = settings.numbers("tokenizer.ggml.scores", size)?;
    let scores = scores.ok_or_else(|| Settings::wrong("tokenizer.ggml.scores", "is missing"))?;
    let token_of = |text: &str| vocabulary.tokens.get(text).copied();
    let byte_token = |byte: u8| {
        let as_text = || char::from(byte).is_ascii().then(|| token_of(&char::from(byte).to_string())).flatten();
        token_of(&format!("<0x{byte:02X}>")).or_else(as_text)
    };
    let merges = settings
        .has(key::MERGES)
        .then(|| bpe::merges(settings.texts(key::MERGES)?.into_iter(), token_of))
        .transpose()?;
    let model = SentencePieces {
        tokens: vocabulary.tokens.clone(),
        orders: scores.into_iter().map(|score| spm::order(score as f32)).collect(),
        merges,
        bytes: (0..=u8::MAX).map(byte_token).collect(),
        unknown: vocabulary.unknown,
        longest: vocabulary.texts.iter().map(String::len).max().unwrap_or(0),
        space: space(settings)?,
    };
    let spaced = |text: &str| text.replace(spm::SPACE, " ").into_bytes();
    let piece = |(text, kind): (&String, &Kind)| match kind {
        Kind::Normal => spaced(text),
        Kind::UserDefined if from_json => spaced(text),
        Kind::Byte => spm::byte(text).map_or_else(|| text.clone().into_bytes(), |byte| vec![byte]),
        Kind::Unknown | Kind::Control | Kind::UserDefined => text.clone().into_bytes(),
        Kind::Unused | Kind::Undefined => Vec::new(),
    };
    let pieces = vocabulary.texts.iter().zip(&vocabulary.kinds).map(piece).collect();
    Ok((Model::SentencePieces(model), pieces, true))
}

fn space(settings: &Settings<'_>) -> Result<spm::Space, TokenizerError> {
    let prefix = settings.flag("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let plain = if prefix { spm::Space::Always } else { spm::Space::Never };
    if !settings.has(key::METASPACE) {
        return Ok(plain);
    }
    let name = settings.text(key::METASPACE)?;
    let known = [spm::Space::Metaspace, spm::Space::MetaspaceFirst].into_iter();
    known
        .into_iter()
        .find(|space| space.metaspace() == Some(name))
        .ok_or_else(|| Settings::wrong(key::METASPACE, &format!("is {name:?}, not \"always\" or \"first\"")))
}
