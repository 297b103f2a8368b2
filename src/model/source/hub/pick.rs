//! Which files of a repository a source means.
use super::{ListedFile, names};

/// Files beside a folder's weights that say how they are to be used.
const COMPANIONS: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
    "model.safetensors.index.json",
];

/// What was picked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Picked {
    /// The files, in the order they are fetched.
    pub(super) files: Vec<String>,
    /// What is opened: the first of several shards, or nothing for the folder itself.
    pub(super) open: Option<String>,
}

/// Why nothing was picked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// A listing that no repository has.
    #[error("the hub lists a file called {0:?}: a name that could lead elsewhere, so nothing of it is used")]
    Hostile(String),
    /// Nothing that could be run.
    #[error("it has neither GGUF files nor model*.safetensors with a config.json")]
    Nothing,
    /// No file like that.
    #[error("no file of it matches {pick:?}; there are: {}", .there.join(", "))]
    NoMatch {
        /// What was asked for.
        pick: String,
        /// What there is.
        there: Vec<String>,
    },
    /// Several files like that.
    #[error("{} name one of them after a colon: {}", match .pick {
        Some(pick) => format!("{pick:?} matches several files;"),
        None => "it has several GGUF files;".to_owned(),
    }, .matching.join(", "))]
    Ambiguous {
        /// What was asked for.
        pick: Option<String>,
        /// All that match.
        matching: Vec<String>,
    },
    /// A split file with a part missing.
    #[error("{first} is split into {parts} files, and {missing} is not there")]
    Shard {
        /// The first part.
        first: String,
        /// How many parts there are.
        parts: u32,
        /// The part that is not there.
        missing: String,
    },
}

/// Returns a split file's stem and number of parts.
fn shard(path: &str) -> Option<(&str, u32, u32)> {
    let stem = path.strip_suffix(".gguf")?;
    let (stem, parts) = stem.rsplit_once("-of-")?;
    let (stem, part) = stem.rsplit_once('-')?;
    let number = |digits: &str| digits.parse::<u32>().ok().filter(|_| digits.len() == 5);
    let (part, parts) = (number(part)?, number(parts)?);
    (1..=parts).contains(&part).then_some((stem, part, parts))
}

fn is_gguf(path: &str) -> bool {
    path.to_ascii_lowercase().ends_with(".gguf")
}

/// Returns whether a file can be run by itself: the first part of several, and no projector of images.
fn can_lead(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    is_gguf(path) && shard(path).is_none_or(|(_, part, _)| part == 1) && !name.starts_with("mmproj")
}

/// How well a part of a name fits: 2 as a whole word, 1 as the beginning of one, 0 not at all.
/// `Q4_K` is the beginning of `Q4_K_M`; `Q4` is no part of `IQ4_NL`.
fn fits(path: &str, pick: &str) -> u8 {
    let (path, pick) = (path.to_ascii_lowercase(), pick.to_ascii_lowercase());
    let mut best = 0;
    for (at, _) in path.match_indices(&pick) {
        let before = path[..at].chars().next_back();
        let after = path[at + pick.len()..].chars().next();
        if before.is_some_and(char::is_alphanumeric) || after.is_some_and(char::is_alphanumeric) {
            continue;
        }
        best = best.max(if after == Some('_') { 1 } else { 2 });
    }
    best
}

/// Returns the files that `pick` means, or those of the whole model without it.
pub(super) fn pick(files: &[ListedFile], pick: Option<&str>) -> Result<Picked, PickError> {
    if let Some(hostile) = files.iter().find(|file| !names::is_safe_path(&file.path)) {
        return Err(PickError::Hostile(hostile.path.clone()));
    }
    let leaders: Vec<&str> = files.iter().map(|file| file.path.as_str()).filter(|path| can_lead(path)).collect();
    let Some(wanted) = pick else { return whole(files, &leaders) };
    if files.iter().any(|file| file.path == wanted) && is_gguf(wanted) {
        return with_shards(files, wanted);
    }
    for quality in [2, 1] {
        let matching: Vec<&str> = leaders.iter().filter(|path| fits(path, wanted) == quality).copied().collect();
        match matching.as_slice() {
            [] => {}
            [one] => return with_shards(files, one),
            several => return Err(ambiguous(Some(wanted), several)),
        }
    }
    let there = files.iter().map(|file| file.path.clone()).filter(|path| is_gguf(path)).collect();
    Err(PickError::NoMatch { pick: wanted.to_owned(), there })
}

fn ambiguous(pick: Option<&str>, matching: &[&str]) -> PickError {
    let matching = matching.iter().map(|path| (*path).to_owned()).collect();
    PickError::Ambiguous { pick: pick.map(str::to_owned), matching }
}

fn whole(files: &[ListedFile], leaders: &[&str]) -> Result<Picked, PickError> {
    let paths = || files.iter().map(|file| file.path.as_str());
    let weights: Vec<&str> = paths()
        .filter(|path| path.starts_with("model") && path.ends_with(".safetensors") && !path.contains('/'))
        .collect();
    if !weights.is_empty() && paths().any(|path| path == "config.json") {
        let companions = COMPANIONS.into_iter().filter(|name| paths().any(|path| path == *name));
        let files = companions.chain(weights).map(str::to_owned).collect();
        return Ok(Picked { files, open: None });
    }
    match leaders {
        [] => Err(PickError::Nothing),
        [one] => with_shards(files, one),
        several => Err(ambiguous(None, several)),
    }
}

fn with_shards(files: &[ListedFile], leader: &str) -> Result<Picked, PickError> {
    let Some((stem, _, parts)) = shard(leader) else {
        return Ok(Picked { files: vec![leader.to_owned()], open: Some(leader.to_owned()) });
    };
    let all: Vec<String> = (1..=parts).map(|part| format!("{stem}-{part:05}-of-{parts:05}.gguf")).collect();
    let first = all.first().cloned().unwrap_or_else(|| leader.to_owned());
    match all.iter().find(|path| !files.iter().any(|file| file.path == **path)) {
        Some(missing) => Err(PickError::Shard { first, parts, missing: missing.clone() }),
        None => Ok(Picked { files: all, open: Some(first) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listed(paths: &[&str]) -> Vec<ListedFile> {
        paths.iter().map(|path| ListedFile { path: (*path).to_owned(), size: 1, sha256: None }).collect()
    }

    fn picked(paths: &[&str], wanted: Option<&str>) -> Result<Vec<String>, PickError> {
        pick(&listed(paths), wanted).map(|picked| picked.files)
    }

    const QUANTS: [&str; 7] = [
        "README.md",
        "m-IQ4_NL.gguf",
        "m-Q4_K_M.gguf",
        "m-Q4_K_S.gguf",
        "m-Q8_0-00001-of-00002.gguf",
        "m-Q8_0-00002-of-00002.gguf",
        "mmproj-m-f16.gguf",
    ];

    #[test]
    fn a_quantization_is_found_in_any_case() {
        for wanted in ["Q4_K_M", "q4_k_m", "m-Q4_K_M.gguf", "m-q4_k_m.gguf"] {
            assert_eq!(picked(&QUANTS, Some(wanted)), Ok(vec!["m-Q4_K_M.gguf".to_owned()]), "{wanted}");
        }
        assert_eq!(picked(&["a.q8_0.gguf"], Some("Q8_0")), Ok(vec!["a.q8_0.gguf".to_owned()]));
    }

    #[test]
    fn all_parts_of_a_split_file_belong_together() {
        let both = vec![QUANTS[4].to_owned(), QUANTS[5].to_owned()];
        let found = pick(&listed(&QUANTS), Some("q8_0")).unwrap();
        assert_eq!((&found.files, found.open.as_deref()), (&both, Some(QUANTS[4])));
        assert_eq!(picked(&QUANTS, Some(QUANTS[5])), Ok(both));
        let none = ["m-00001-of-00000.gguf"];
        assert_eq!(picked(&none, None), Ok(vec![none[0].to_owned()]), "no part of anything is a file of its own");
        let error = picked(&QUANTS[..5], Some("q8_0")).unwrap_err().to_string();
        assert!(error.contains(QUANTS[5]), "{error}");
    }

    #[test]
    fn what_is_missing_or_ambiguous_lists_what_there_is() {
        let error = picked(&QUANTS, Some("Q4_K")).unwrap_err();
        assert!(matches!(&error, PickError::Ambiguous { matching, .. } if matching.len() == 2), "{error}");
        assert!(error.to_string().contains("m-Q4_K_S.gguf"));
        let error = picked(&QUANTS, Some("Q4")).unwrap_err();
        assert!(matches!(&error, PickError::Ambiguous { .. }), "{error}");
        let error = picked(&QUANTS, Some("Q5_0")).unwrap_err().to_string();
        assert!(error.contains("Q5_0") && error.contains("m-IQ4_NL.gguf"), "{error}");
        assert!(matches!(picked(&QUANTS, None), Err(PickError::Ambiguous { pick: None, .. })));
        assert_eq!(picked(&["README.md"], None), Err(PickError::Nothing));
    }

    #[test]
    fn without_a_pick_a_folder_is_its_weights_and_what_describes_them() {
        let folder = [
            ".gitattributes",
            "config.json",
            "consolidated.safetensors",
            "model-00001-of-00002.safetensors",
            "model-00002-of-00002.safetensors",
            "model.safetensors.index.json",
            "onnx/model.safetensors",
            "pytorch_model.bin",
            "tokenizer.json",
        ];
        let found = pick(&listed(&folder), None).unwrap();
        let expected = [folder[1], folder[8], folder[5], folder[3], folder[4]];
        assert_eq!((found.files.iter().map(String::as_str).collect::<Vec<_>>(), found.open), (expected.to_vec(), None));
        assert_eq!(picked(&["README.md", "only.gguf"], None), Ok(vec!["only.gguf".to_owned()]));
    }

    #[test]
    fn one_hostile_name_spoils_the_whole_listing() {
        for hostile in ["../x.gguf", "/x.gguf", "a\\b.gguf", "a\0.gguf", "a\u{1b}.gguf"] {
            let error = picked(&["m-Q4_K_M.gguf", hostile], Some("Q4_K_M")).unwrap_err();
            assert_eq!(error, PickError::Hostile(hostile.to_owned()));
        }
    }
}
