//! Where models come from: the grammar of `-m MODEL` and `model.source`, and what gets the files.
//!
//! A source is read here, [`locate`] makes it a path: of a folder that is there, of the user's
//! [`cache`], of the [`hub`] (as [`pins`] say, where there are any), or of [`synthetic`] weights.
pub mod cache;
pub mod hub;
pub mod locate;
pub mod pins;
pub mod synthetic;

use std::fmt;

use hub::names;
use synthetic::{Synthetic, SyntheticError};

/// A model source, read.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// `builtin:NAME`.
    Builtin(String),
    /// `synthetic:SHAPE:QUANT`.
    Synthetic(Synthetic),
    /// `hf:owner/repo[@rev][:file or quant]`.
    Hub(HubSource),
    /// A GGUF file or a folder.
    Path(String),
}

/// A place on the hub.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HubSource {
    /// Who owns the repository.
    pub owner: String,
    /// The repository's name.
    pub name: String,
    /// A branch, tag or commit; the main branch when absent.
    pub revision: Option<String>,
    /// A file, or part of the name of one, such as `Q4_K_M`.
    pub pick: Option<String>,
}

/// Why a source cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    /// Not of the form it must have.
    #[error("{0:?} is not of the form hf:owner/repo[@rev][:file or quant]")]
    Hub(String),
    /// A revision in two places.
    #[error("the source asks for revision {in_source:?}, `model.revision` for {given:?}; leave one of them out")]
    TwoRevisions {
        /// The one after `@`.
        in_source: String,
        /// The other.
        given: String,
    },
    /// No such synthetic weights.
    #[error(transparent)]
    Synthetic(#[from] SyntheticError),
}

impl Source {
    /// Reads a source, the revision given beside it with it; only the hub has revisions, so beside
    /// other sources it says nothing.
    ///
    /// # Errors
    ///
    /// If it has a known scheme and the rest does not fit, or two different revisions are asked for.
    pub fn parse(source: &str, revision: Option<&str>) -> Result<Self, GrammarError> {
        Ok(if let Some(name) = source.strip_prefix("builtin:") {
            Self::Builtin(name.to_owned())
        } else if let Some(name) = source.strip_prefix("synthetic:") {
            Self::Synthetic(Synthetic::parse(name)?)
        } else if let Some(place) = source.strip_prefix("hf:") {
            let mut hub = hub(place).ok_or_else(|| GrammarError::Hub(source.to_owned()))?;
            match (&hub.revision, revision) {
                (Some(in_source), Some(given)) if in_source != given => {
                    let (in_source, given) = (in_source.clone(), given.to_owned());
                    return Err(GrammarError::TwoRevisions { in_source, given });
                }
                (None, Some(given)) if names::is_revision(given) => hub.revision = Some(given.to_owned()),
                (None, Some(given)) => return Err(GrammarError::Hub(format!("{source}@{given}"))),
                _ => {}
            }
            Self::Hub(hub)
        } else {
            Self::Path(source.to_owned())
        })
    }
}

fn hub(place: &str) -> Option<HubSource> {
    let (repository, pick) = place.split_once(':').map_or((place, None), |(place, pick)| (place, Some(pick)));
    let (repository, revision) = repository.split_once('@').map_or((repository, None), |(r, v)| (r, Some(v)));
    let (owner, name) = repository.split_once('/')?;
    let fits = names::is_repository_part(owner)
        && names::is_repository_part(name)
        && revision.is_none_or(names::is_revision)
        && pick.is_none_or(names::is_safe_path);
    fits.then(|| HubSource {
        owner: owner.to_owned(),
        name: name.to_owned(),
        revision: revision.map(str::to_owned),
        pick: pick.map(str::to_owned),
    })
}

impl HubSource {
    /// Returns `owner/name`.
    #[must_use]
    pub fn repository(&self) -> String {
        format!("{}/{}", self.owner, self.name)
    }
}

impl fmt::Display for HubSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hf:{}/{}", self.owner, self.name)?;
        if let Some(revision) = &self.revision {
            write!(f, "@{revision}")?;
        }
        self.pick.as_ref().map_or(Ok(()), |pick| write!(f, ":{pick}"))
    }
}

/// A short name for a model that is often used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Alias {
    /// The name.
    pub name: &'static str,
    /// The source it stands for.
    pub source: &'static str,
    /// Its licence, as the model card has it.
    pub licence: &'static str,
}

/// The recommended models: instruct versions, in the quantization most people run.
pub const ALIASES: &[Alias] = &[
    alias("smollm2-135m", "hf:bartowski/SmolLM2-135M-Instruct-GGUF:Q4_K_M", "apache-2.0"),
    alias("qwen2.5-0.5b", "hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M", "apache-2.0"),
    alias("qwen2.5-1.5b", "hf:Qwen/Qwen2.5-1.5B-Instruct-GGUF:Q4_K_M", "apache-2.0"),
    alias("qwen2.5-3b", "hf:Qwen/Qwen2.5-3B-Instruct-GGUF:Q4_K_M", "other (qwen-research)"),
    alias("qwen2.5-7b", "hf:Qwen/Qwen2.5-7B-Instruct-GGUF:Q4_K_M", "apache-2.0"),
    alias("qwen2.5-14b", "hf:Qwen/Qwen2.5-14B-Instruct-GGUF:Q8_0", "apache-2.0"),
    alias("qwen2.5-coder-0.5b", "hf:Qwen/Qwen2.5-Coder-0.5B-Instruct-GGUF:Q4_K_M", "apache-2.0"),
    alias("mistral-7b", "hf:bartowski/Mistral-7B-Instruct-v0.3-GGUF:Q8_0", "apache-2.0"),
    alias("phi-4-mini", "hf:bartowski/microsoft_Phi-4-mini-instruct-GGUF:Q4_K_M", "mit"),
    alias("llama-3.2-1b", "hf:bartowski/Llama-3.2-1B-Instruct-GGUF:Q4_K_M", "llama3.2"),
    alias("gemma-3-270m", "hf:ggml-org/gemma-3-270m-it-GGUF:Q8_0", "gemma"),
];

const fn alias(name: &'static str, source: &'static str, licence: &'static str) -> Alias {
    Alias { name, source, licence }
}

/// Returns the source a short name stands for, in any case.
#[must_use]
pub fn find_alias(name: &str) -> Option<&'static str> {
    ALIASES.iter().find(|alias| alias.name.eq_ignore_ascii_case(name)).map(|alias| alias.source)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hub_sources_have_up_to_four_parts_and_come_back_as_written() {
        for (source, revision, pick) in [
            ("hf:a/b", None, None),
            ("hf:a/b.c-d_e:Q4_K_M", None, Some("Q4_K_M")),
            ("hf:a/b@main", Some("main"), None),
            ("hf:a/b@v1.0:sub/x-q8_0.gguf", Some("v1.0"), Some("sub/x-q8_0.gguf")),
        ] {
            let Ok(Source::Hub(hub)) = Source::parse(source, None) else { panic!("{source}") };
            assert_eq!((hub.revision.as_deref(), hub.pick.as_deref()), (revision, pick));
            assert_eq!(hub.to_string(), source);
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for source in [
            "hf:",
            "hf:a",
            "hf:a/",
            "hf:../b",
            "hf:a/..",
            "hf:a/b/c",
            "hf:a/b@",
            "hf:a/b@../x",
            "hf:a/b:",
            "hf:a/b:../../etc/passwd",
            "hf:a/b:/etc/passwd",
            "hf:a/b:x\\y",
            "hf:a/b:x\0y",
            "hf:a b/c",
            "hf:.git/x",
            "hf:a/b?x=1",
        ] {
            assert!(Source::parse(source, None).is_err(), "{source:?} was read");
        }
        assert!(matches!(Source::parse("synthetic:x:y", None), Err(GrammarError::Synthetic(_))));
    }

    #[test]
    fn a_revision_has_one_place() {
        let hub = |source, revision| match Source::parse(source, revision) {
            Ok(Source::Hub(hub)) => hub.revision,
            other => panic!("{other:?}"),
        };
        assert_eq!(hub("hf:a/b", Some("v1")), Some("v1".to_owned()));
        assert_eq!(hub("hf:a/b@v1", Some("v1")), Some("v1".to_owned()));
        assert!(matches!(Source::parse("hf:a/b@v1", Some("v2")), Err(GrammarError::TwoRevisions { .. })));
        assert!(matches!(Source::parse("hf:a/b", Some("../v2")), Err(GrammarError::Hub(_))));
    }

    #[test]
    fn every_alias_is_a_source_that_can_be_read() {
        for alias in ALIASES {
            assert!(matches!(Source::parse(alias.source, None), Ok(Source::Hub(_))), "{}", alias.name);
            assert_eq!(find_alias(&alias.name.to_uppercase()), Some(alias.source));
        }
        assert_eq!(find_alias("gpt-5"), None);
    }
}
