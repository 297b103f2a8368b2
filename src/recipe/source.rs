//! The grammar of `model.source` and of texts, and where their paths lead.
use std::path::Path;

use super::extends::tidy;
use crate::diag;

/// Why a source cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SourceError {
    #[error("it is empty")]
    Empty,
    #[error("the environment variable `{0}` is not set")]
    MissingVariable(String),
    #[error("`${{` without `}}`")]
    OpenVariable,
    #[error("`~` stands for the home folder, and HOME is not set")]
    NoHome,
    #[error("`{found}:` is no kind of {what}")]
    Scheme { found: String, what: &'static str, known: &'static [&'static str] },
    #[error("`{given}` is not `{expected}`")]
    Grammar { given: String, expected: &'static str },
}

impl SourceError {
    /// Returns the way out.
    pub(crate) fn hint(&self) -> String {
        match self {
            Self::Empty => "give a path or `builtin:` and a name".to_owned(),
            Self::MissingVariable(name) => {
                format!("set it (`export {name}=…`), write the path out, or write `$$` for a dollar sign")
            }
            Self::OpenVariable => "write `${NAME}`, or `$$` for a dollar sign".to_owned(),
            Self::NoHome => "write the path out".to_owned(),
            Self::Scheme { found, .. } if matches!(found.as_str(), "http" | "https" | "ftp") => {
                "download it and give its path; a run does not use the network".to_owned()
            }
            Self::Scheme { found, known, .. } => {
                let listed = known.iter().map(|known| format!("`{known}:`")).collect::<Vec<_>>().join(", ");
                match diag::nearest(found, known.iter().copied()) {
                    Some(near) => format!("did you mean `{near}:`?"),
                    None => format!("known are {listed}; for a file of that name write `./{found}:…`"),
                }
            }
            Self::Grammar { expected, .. } => format!("write `{expected}`"),
        }
    }
}

/// Returns the value of an environment variable.
pub(crate) type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

const MODEL_SCHEMES: &[&str] = &["builtin", "hf", "synthetic"];
const TEXT_SCHEMES: &[&str] = &["builtin"];

/// Returns a model source with variables expanded and its path absolute.
///
/// # Errors
///
/// Fails on missing variables, unknown schemes and malformed names.
pub(crate) fn model(source: &str, folder: &Path, environment: Environment<'_>) -> Result<String, SourceError> {
    let source = expand(source, environment)?;
    let Some((scheme, rest)) = scheme(&source) else { return absolute(&source, folder) };
    let grammar = |fits: bool, expected| {
        if fits { Ok(()) } else { Err(SourceError::Grammar { given: source.clone(), expected }) }
    };
    match scheme {
        "builtin" => grammar(is_name(rest), "builtin:NAME")?,
        "hf" => grammar(is_hub(rest), "hf:owner/repo[@rev][:file or quant]")?,
        "synthetic" => {
            let fits = rest.split_once(':').is_some_and(|(shape, format)| is_name(shape) && is_name(format));
            grammar(fits, "synthetic:SHAPE:QUANT")?;
        }
        _ => {
            return Err(SourceError::Scheme { found: scheme.to_owned(), what: "model source", known: MODEL_SCHEMES });
        }
    }
    Ok(source)
}

/// Returns a text's source with variables expanded and its path absolute.
///
/// # Errors
///
/// Fails on missing variables, unknown schemes and malformed names.
pub(crate) fn text(source: &str, folder: &Path, environment: Environment<'_>) -> Result<String, SourceError> {
    let source = expand(source, environment)?;
    match scheme(&source) {
        None => absolute(&source, folder),
        Some(("builtin", name)) if is_name(name) => Ok(source),
        Some(("builtin", _)) => Err(SourceError::Grammar { given: source, expected: "builtin:NAME" }),
        Some((found, _)) => Err(SourceError::Scheme { found: found.to_owned(), what: "text", known: TEXT_SCHEMES }),
    }
}

/// Returns a text's source as it is written from outside a folder: of a relative path, one that begins there.
pub(crate) fn within(folder: &str, source: &str) -> String {
    let is_relative = scheme(source).is_none() && !source.is_empty() && !source.starts_with(['~', '$']);
    if is_relative {
        Path::new(&folder.replace('$', "$$")).join(source).display().to_string()
    } else {
        source.to_owned()
    }
}

/// Returns a path with variables expanded, made absolute.
///
/// # Errors
///
/// Fails on missing variables.
pub(crate) fn path(source: &str, folder: &Path, environment: Environment<'_>) -> Result<String, SourceError> {
    absolute(&expand(source, environment)?, folder)
}

fn absolute(path: &str, folder: &Path) -> Result<String, SourceError> {
    if path.is_empty() {
        return Err(SourceError::Empty);
    }
    Ok(tidy(&folder.join(path)).display().to_string())
}

/// Splits `scheme:rest`; a single letter is a drive, not a scheme.
fn scheme(source: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = source.split_once(':')?;
    let mut letters = scheme.chars();
    let starts = letters.next().is_some_and(|first| first.is_ascii_alphabetic());
    let fits = starts && letters.all(|c| c.is_ascii_alphanumeric() || "+-_".contains(c));
    (fits && scheme.len() > 1).then_some((scheme, rest))
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c))
}

fn is_hub(rest: &str) -> bool {
    let (repository, file) = rest.split_once(':').map_or((rest, None), |(repository, file)| (repository, Some(file)));
    let (repository, revision) = repository.split_once('@').map_or((repository, None), |(r, v)| (r, Some(v)));
    let named = repository.split_once('/').is_some_and(|(owner, name)| is_name(owner) && is_name(name));
    named && file != Some("") && revision != Some("")
}

/// Expands a leading `~/`, `$NAME` and `${NAME}`; `$$` is a dollar sign.
fn expand(source: &str, environment: Environment<'_>) -> Result<String, SourceError> {
    let mut expanded = String::new();
    let mut rest = source;
    if let Some(inside) = source.strip_prefix("~/") {
        expanded = environment("HOME").filter(|home| !home.is_empty()).ok_or(SourceError::NoHome)? + "/";
        rest = inside;
    }
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        let (name, behind) = if let Some(braced) = after.strip_prefix('{') {
            braced.split_once('}').ok_or(SourceError::OpenVariable)?
        } else {
            let is_part =
                |(at, c): (usize, char)| c == '_' || c.is_ascii_alphabetic() || (at > 0 && c.is_ascii_digit());
            let end = after.char_indices().find(|part| !is_part(*part)).map_or(after.len(), |(at, _)| at);
            after.split_at(end)
        };
        rest = behind;
        match (name, behind.strip_prefix('$')) {
            ("", Some(behind)) if !after.starts_with('{') => {
                expanded.push('$');
                rest = behind;
            }
            ("", _) if !after.starts_with('{') => expanded.push('$'),
            (name, _) => {
                let value = environment(name).filter(|value| !value.is_empty());
                expanded.push_str(&value.ok_or_else(|| SourceError::MissingVariable(name.to_owned()))?);
            }
        }
    }
    expanded.push_str(rest);
    if expanded.is_empty() { Err(SourceError::Empty) } else { Ok(expanded) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        match name {
            "HOME" => Some("/home/me".to_owned()),
            "MODELS" => Some("/models".to_owned()),
            _ => None,
        }
    }

    fn read(source: &str) -> Result<String, SourceError> {
        model(source, Path::new("/lab/recipes"), &environment)
    }

    #[test]
    fn paths_become_absolute_and_names_stay() {
        for (source, expected) in [
            ("x.gguf", "/lab/recipes/x.gguf"),
            ("../m/x.gguf", "/lab/m/x.gguf"),
            ("/x.gguf", "/x.gguf"),
            ("~/x.gguf", "/home/me/x.gguf"),
            ("$MODELS/x.gguf", "/models/x.gguf"),
            ("${MODELS}/x-$$y.gguf", "/models/x-$y.gguf"),
            ("builtin:pico", "builtin:pico"),
            ("hf:Qwen/Qwen2.5-14B-Instruct@main:q4_k_m", "hf:Qwen/Qwen2.5-14B-Instruct@main:q4_k_m"),
            ("synthetic:llama-8b:q4_0", "synthetic:llama-8b:q4_0"),
        ] {
            assert_eq!(read(source).as_deref(), Ok(expected));
        }
    }

    #[test]
    fn what_fits_no_grammar_is_refused() {
        for source in
            ["", "builtin:", "builtin:a b", "hf:Qwen", "hf:a/b@", "hf:a/b:", "synthetic:x", "htf:a/b", "$NONE/x", "${X"]
        {
            assert!(read(source).is_err(), "{source:?} was read");
        }
        assert_eq!(read("buildin:pico").unwrap_err().hint(), "did you mean `builtin:`?");
    }
}
