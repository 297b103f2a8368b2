//! Tokens that are found in text before anything else: `<|im_end|>`, and what a vocabulary's
//! maker has added.
use std::{collections::HashMap, ops::Range};

/// Such a token.
#[derive(Clone, Debug)]
pub(super) struct Special {
    pub(super) text: String,
    pub(super) token: u32,
    /// Only when special tokens are to be parsed.
    pub(super) control: bool,
    /// Whether it swallows the white space before it.
    pub(super) strips_left: bool,
    /// Whether it swallows the white space after it.
    pub(super) strips_right: bool,
}

/// A part of a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Text(Range<usize>),
    Token(u32),
}

/// The special tokens of a vocabulary.
pub(super) struct Specials {
    /// Longest first.
    list: Vec<Special>,
    /// From a node and a byte to the next node; node 0 is the root.
    edges: HashMap<(usize, u8), usize>,
    /// The special that ends at a node.
    ends: Vec<Option<usize>>,
    /// Bytes that a special begins with.
    begins: Vec<bool>,
}

/// White space as C's `isspace` has it, for what tokens swallow.
fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t'..=b'\r')
}

impl Specials {
    pub(super) fn new(mut list: Vec<Special>) -> Self {
        list.retain(|special| !special.text.is_empty());
        list.sort_by_key(|special| std::cmp::Reverse(special.text.len()));
        let mut specials = Self { list: Vec::new(), edges: HashMap::new(), ends: vec![None], begins: vec![false; 256] };
        for (index, special) in list.iter().enumerate() {
            let mut node = 0;
            for (place, byte) in special.text.bytes().enumerate() {
                if place == 0 {
                    specials.begins[usize::from(byte)] = true;
                }
                let fresh = specials.ends.len();
                let next = *specials.edges.entry((node, byte)).or_insert(fresh);
                if next == fresh {
                    specials.ends.push(None);
                }
                node = next;
            }
            specials.ends[node].get_or_insert(index);
        }
        specials.list = list;
        specials
    }

    /// Returns every special that is somewhere in the text, in one pass: vocabularies have thousands
    /// of them, texts a few.
    fn present(&self, text: &str, parse_special: bool) -> Vec<&Special> {
        let mut found = vec![false; self.list.len()];
        let bytes = text.as_bytes();
        for start in (0..bytes.len()).filter(|start| self.begins[usize::from(bytes[*start])]) {
            let mut node = 0;
            for byte in &bytes[start..] {
                let Some(next) = self.edges.get(&(node, *byte)) else { break };
                node = *next;
                if let Some(index) = self.ends[node] {
                    found[index] = true;
                }
            }
        }
        let wanted = |special: &&Special| parse_special || !special.control;
        self.list.iter().zip(found).filter_map(|(special, found)| found.then_some(special)).filter(wanted).collect()
    }

    /// Returns the text's parts: cut at the longest special token first, then at the next in what is
    /// left, as llama.cpp does (`tokenizer_st_partition`).
    pub(super) fn parts(&self, text: &str, parse_special: bool) -> Vec<Part> {
        let mut parts = if text.is_empty() { Vec::new() } else { vec![Part::Text(0..text.len())] };
        for special in self.present(text, parse_special) {
            let mut next = Vec::with_capacity(parts.len());
            for part in parts {
                match part {
                    Part::Text(range) => special.cut(text, range, &mut next),
                    Part::Token(_) => next.push(part),
                }
            }
            parts = next;
        }
        parts
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Special> {
        self.list.iter()
    }
}

impl Special {
    fn cut(&self, text: &str, range: Range<usize>, parts: &mut Vec<Part>) {
        let bytes = text.as_bytes();
        let Range { mut start, end } = range;
        while let Some(place) = text[start..end].find(&self.text) {
            let mut left = start + place;
            let mut right = left + self.text.len();
            while self.strips_left && left > start && is_space(bytes[left - 1]) {
                left -= 1;
            }
            while self.strips_right && right < end && is_space(bytes[right]) {
                right += 1;
            }
            if left > start {
                parts.push(Part::Text(start..left));
            }
            parts.push(Part::Token(self.token));
            start = right;
        }
        if start < end {
            parts.push(Part::Text(start..end));
        }
    }
}
