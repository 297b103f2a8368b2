//! Names of what a page holds: a hash of all tokens up to its end, and of what computed them.
use blake3::Hasher;

/// Names the tokens from the beginning of a sequence to the end of a page.
pub type PrefixKey = [u8; 32];

/// Returns the key of the empty prefix. `parts` are all that keys and values depend on besides the
/// tokens: the hash of the weights, the adapter and its version (a hash of its numbers is both).
///
/// # Examples
///
/// ```
/// use ruvlab::kv::prefix_root;
/// assert_ne!(prefix_root(&[b"weights", b"adapter"]), prefix_root(&[b"weightsa", b"dapter"]));
/// ```
#[must_use]
pub fn prefix_root(parts: &[&[u8]]) -> PrefixKey {
    let mut hasher = Hasher::new();
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    *hasher.finalize().as_bytes()
}

/// Returns the key of a page whose tokens follow what `before` names.
pub(super) fn next(before: &PrefixKey, tokens: &[u32]) -> PrefixKey {
    let mut hasher = Hasher::new();
    hasher.update(before);
    for token in tokens {
        hasher.update(&token.to_le_bytes());
    }
    *hasher.finalize().as_bytes()
}

/// The key of a sequence's whole pages, and its tokens after them.
#[derive(Clone)]
pub(super) struct Chain {
    pub(super) key: PrefixKey,
    pub(super) pending: Vec<u32>,
}

impl Chain {
    pub(super) fn new(key: PrefixKey) -> Self {
        Self { key, pending: Vec::new() }
    }
}
