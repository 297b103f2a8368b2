//! Keys of our own, for what a `tokenizer.json` says and GGUF has no key for. llama.cpp ignores them.
/// `tokenizer.json` where the metadata were made of one: tokens are then what it says they are, whatever
/// their names.
pub(super) const SOURCE: &str = "ruvlab.tokenizer.source";
/// Which of a rule's `json` patterns split the text, instead of llama.cpp's.
pub(super) const JSON_SPLITS: &str = "ruvlab.tokenizer.json_splits";
/// How text is normalised: `nfc` only.
pub(super) const NORMALIZER: &str = "ruvlab.tokenizer.normalizer";
/// Whether a piece that is a token as a whole skips merging.
pub(super) const IGNORE_MERGES: &str = "ruvlab.tokenizer.ignore_merges";
/// `always` or `first`: where text begins with a space that is not in it, unless it has one.
pub(super) const METASPACE: &str = "ruvlab.tokenizer.metaspace";
/// Merges of a `SentencePiece` vocabulary whose scores do not say everything.
pub(super) const MERGES: &str = "ruvlab.tokenizer.merges";
/// Tokens that swallow white space before them.
pub(super) const STRIPS_LEFT: &str = "ruvlab.tokenizer.strips_left";
/// Tokens that swallow white space after them.
pub(super) const STRIPS_RIGHT: &str = "ruvlab.tokenizer.strips_right";
