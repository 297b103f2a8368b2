//! How text is split before merging, by the name in `tokenizer.ggml.pre`.
//!
//! Each pattern in turn cuts what the one before left: a match is a piece, and so is what lies
//! between two matches. The patterns are facts of the models, listed in llama.cpp's
//! `llama-vocab.cpp` (`llm_tokenizer_bpe`).

/// How one family of tokenizers splits text.
pub(super) struct Rule {
    names: &'static [&'static str],
    pub(super) splits: &'static [&'static str],
    /// Whether a piece that is a token as a whole skips merging.
    pub(super) ignore_merges: bool,
    /// Whether texts begin with the BOS token when the file does not say.
    pub(super) add_bos: bool,
}

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)";

const RULES: &[Rule] = &[
    Rule { names: &["gpt-2"], splits: &[GPT2], ignore_merges: false, add_bos: false },
    Rule {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell"],
        splits: &[r"\p{N}", GPT2],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["qwen2", "deepseek-r1-qwen"],
        splits: &[
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: false,
        add_bos: false,
    },
    Rule {
        names: &["llama-bpe", "llama3", "llama-v3"],
        splits: &[
            r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        ignore_merges: true,
        add_bos: true,
    },
];

/// Returns the rule of that name.
pub(super) fn find(name: &str) -> Option<&'static Rule> {
    RULES.iter().find(|rule| rule.names.contains(&name))
}

/// Returns all names.
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    RULES.iter().flat_map(|rule| rule.names).copied()
}
