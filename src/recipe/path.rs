//! Where a value stands in a recipe: `workloads[1].decode.output_tokens`.
use std::fmt;

/// One step down.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Segment {
    /// Into a map.
    Key(String),
    /// Into a list, from 0.
    Index(usize),
}

/// Steps from the top of a recipe; empty for the whole of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct KeyPath(pub(crate) Vec<Segment>);

/// Why a text is not a path.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PathError {
    #[error("{0:?} has an empty key")]
    EmptyKey(String),
    #[error("`[` in {0:?} needs a number and `]`, such as `workloads[0]`, or a quoted key")]
    Bracket(String),
}

impl KeyPath {
    /// Returns the path one map key deeper.
    pub(crate) fn key(&self, key: impl Into<String>) -> Self {
        self.with(Segment::Key(key.into()))
    }

    /// Returns the path one list index deeper.
    pub(crate) fn index(&self, index: usize) -> Self {
        self.with(Segment::Index(index))
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.0.push(segment);
        path
    }

    /// Returns the path without its last step, or nothing at the top.
    pub(crate) fn parent(&self) -> Option<Self> {
        let (_, above) = self.0.split_last()?;
        Some(Self(above.to_vec()))
    }

    /// Returns the value at this path, when it is there.
    pub(crate) fn get<'a>(&self, value: &'a serde_json::Value) -> Option<&'a serde_json::Value> {
        self.0.iter().try_fold(value, |value, segment| match segment {
            Segment::Key(key) => value.get(key),
            Segment::Index(index) => value.get(index),
        })
    }

    /// Returns the path a text names: keys between dots, list indices from 0 in brackets, and
    /// keys that contain dots as `["kernels.set"]`.
    ///
    /// # Errors
    ///
    /// Fails when a key is empty or a bracket holds neither a number nor a quoted key.
    pub(crate) fn parse(text: &str) -> Result<Self, PathError> {
        let empty = || PathError::EmptyKey(text.to_owned());
        let bracket = || PathError::Bracket(text.to_owned());
        let mut path = Self::default();
        let mut rest = text;
        loop {
            if let Some(quoted) = rest.strip_prefix("[\"") {
                let (key, after) = quoted.split_once("\"]").ok_or_else(bracket)?;
                path = path.key(key);
                rest = after;
            } else if let Some(indexed) = rest.strip_prefix('[') {
                let (index, after) = indexed.split_once(']').ok_or_else(bracket)?;
                path = path.index(index.parse().ok().ok_or_else(bracket)?);
                rest = after;
            } else {
                let end = rest.find(['.', '[']).unwrap_or(rest.len());
                let (key, after) = rest.split_at(end);
                if key.is_empty() {
                    return Err(empty());
                }
                path = path.key(key);
                rest = after;
            }
            match rest.strip_prefix('.') {
                Some(after) => rest = after,
                None if rest.is_empty() => return Ok(path),
                None if rest.starts_with('[') => {}
                None => return Err(bracket()),
            }
        }
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, segment) in self.0.iter().enumerate() {
            match segment {
                Segment::Index(index) => write!(f, "[{index}]")?,
                Segment::Key(key) if key.is_empty() || key.contains(['.', '[', ']', '"']) => write!(f, "[\"{key}\"]")?,
                Segment::Key(key) if depth == 0 => f.write_str(key)?,
                Segment::Key(key) => write!(f, ".{key}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_reads_back_as_it_is_written() {
        for text in ["kernels.threads", "workloads[1].decode.output_tokens", "matrix.axes[\"kernels.set\"][0]", "a"] {
            assert_eq!(KeyPath::parse(text).unwrap().to_string(), text);
        }
    }

    #[test]
    fn broken_paths_are_refused() {
        for text in ["", ".", "a.", ".a", "a..b", "a[", "a[x]", "a[0", "a[0]b", "a[-1]", "a[\"x]"] {
            assert!(KeyPath::parse(text).is_err(), "{text:?} was read");
        }
    }
}
