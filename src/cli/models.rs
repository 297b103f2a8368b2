//! `ruvlab models`
use std::{collections::BTreeSet, fs, path::PathBuf, time::SystemTime};

use clap::{Args, Subcommand};
use serde::Serialize;

use crate::{
    clock, exit,
    model::source::{ALIASES, HubSource, cache::Cache, hub::Shelf, synthetic},
    report::tables::{Column, Table},
    ui::Printer,
    units::Bytes,
};

use super::{Failure, Format, Global};

/// List short names of models, and the models on this machine.
#[derive(Debug, Args)]
pub(super) struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove a model's files from this machine.
    Rm {
        /// A file's name as listed, or a repository (`owner/repo`) with all its files.
        name: String,
    },
}

/// A model file on this machine.
#[derive(Clone, Debug, Serialize)]
struct Kept {
    /// Its name in the list.
    name: String,
    /// The source that brings it.
    source: String,
    kind: &'static str,
    path: PathBuf,
    bytes: u64,
    /// When it was last read, as the file system keeps it; whole days on most.
    last_used: Option<String>,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let cache = Cache::of_user().map_err(|error| Failure::new(exit::RESOURCE, "models", error.to_string(), None))?;
    let kept = kept(&cache);
    if let Some(Command::Rm { name }) = &arguments.command {
        return remove(&cache, &kept, name);
    }
    let out = Printer::stdout();
    if global.format == Format::Json {
        let aliases: Vec<_> = ALIASES
            .iter()
            .map(|alias| serde_json::json!({"name": alias.name, "source": alias.source, "licence": alias.licence}))
            .collect();
        out.json(&serde_json::json!({
            "folder": cache.root(),
            "aliases": aliases,
            "shapes": synthetic::shapes().collect::<Vec<_>>(),
            "files": kept,
        }))?;
        return Ok(exit::OK);
    }
    let columns = vec![Column::text("short name", 0), Column::text("source", 0), Column::text("licence", 1)];
    let rows = ALIASES.iter().map(|alias| vec![alias.name.into(), alias.source.into(), alias.licence.into()]).collect();
    let shapes = synthetic::shapes().collect::<Vec<_>>().join(", ");
    let notes = vec![format!("synthetic weights (synthetic:SHAPE:QUANT): {shapes}"), String::new()];
    out.table(&Table { title: "recommended models".to_owned(), columns, rows, notes })?;
    let total: u64 = kept.iter().map(|file| file.bytes).sum();
    let columns = vec![
        Column::text("file", 0),
        Column::number("size", 0),
        Column::text("source", 1),
        Column::text("last used", 2),
    ];
    let row = |file: &Kept| {
        let day = file.last_used.as_deref().and_then(|time| time.get(..10)).unwrap_or("-");
        vec![file.name.as_str().into(), Bytes(file.bytes).to_string().into(), file.source.as_str().into(), day.into()]
    };
    let title = format!("on this machine, in {}", cache.root().display());
    let notes = vec![format!("{} files, {}", kept.len(), Bytes(total))];
    out.table(&Table { title, columns, rows: kept.iter().map(row).collect(), notes })?;
    Ok(exit::OK)
}

fn kept(cache: &Cache) -> Vec<Kept> {
    let mut found = Vec::new();
    for file in Shelf::all(cache) {
        let source = format!("hf:{}@{}:{}", file.repository, &file.commit[..12], file.file);
        let name = format!("{}/{}", file.repository, file.file);
        found.extend(entry(name, source, "hub", file.path));
    }
    for (folder, kind) in [(cache.synthetic(), "synthetic"), (cache.root().to_owned(), "file")] {
        let mut files: Vec<PathBuf> =
            fs::read_dir(folder).into_iter().flatten().filter_map(|entry| Some(entry.ok()?.path())).collect();
        files.retain(|path| path.extension().is_some_and(|extension| extension == "gguf") && path.is_file());
        files.sort();
        for path in files {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let source = if kind == "synthetic" { synthetic_source(&name) } else { path.display().to_string() };
            found.extend(entry(name, source, kind, path));
        }
    }
    found
}

/// Returns the source of a synthetic file by its name, `SHAPE-QUANT-vN.gguf`.
fn synthetic_source(name: &str) -> String {
    let parts = name.strip_suffix(".gguf").and_then(|stem| stem.rsplit_once("-v"));
    let parts = parts.and_then(|(stem, _)| stem.rsplit_once('-'));
    parts.map_or_else(|| name.to_owned(), |(shape, quant)| format!("synthetic:{shape}:{quant}"))
}

fn entry(name: String, source: String, kind: &'static str, path: PathBuf) -> Option<Kept> {
    let found = fs::metadata(&path).ok()?;
    let last_used = found.accessed().ok().and_then(|time| time.duration_since(SystemTime::UNIX_EPOCH).ok());
    let last_used = last_used.and_then(|since| clock::timestamp_at(since.as_secs()));
    Some(Kept { name, source, kind, path, bytes: found.len(), last_used })
}

/// Returns the `owner/repo` of a file of the hub.
fn repository(file: &Kept) -> Option<&str> {
    let (end, _) = file.name.match_indices('/').nth(1).filter(|_| file.kind == "hub")?;
    file.name.get(..end)
}

fn remove(cache: &Cache, kept: &[Kept], name: &str) -> Result<u8, Failure> {
    let failed = |path: &PathBuf, error: std::io::Error| {
        Failure::new(exit::UNEXPECTED, "models", format!("cannot remove {}: {error}", path.display()), None)
    };
    let source = name;
    let name = name.strip_prefix("hf:").unwrap_or(name);
    let is_meant = |file: &&Kept| file.name == name || file.source == source || repository(file) == Some(name);
    let gone: Vec<&Kept> = kept.iter().filter(is_meant).collect();
    if gone.is_empty() {
        let repositories: BTreeSet<&str> = kept.iter().filter_map(repository).collect();
        let names = kept.iter().map(|file| file.name.as_str()).chain(repositories.iter().copied());
        let near = crate::diag::nearest(name, names).map(|near| format!("did you mean `{near}`?"));
        let owned = repositories.iter().filter(|repository| repository.split('/').next() == Some(name));
        let owned = owned.copied().collect::<Vec<_>>().join(", ");
        let hint = if owned.is_empty() { near } else { Some(format!("name one repository of {name}: {owned}")) };
        let message = format!("there is no model {name:?} in {}", cache.root().display());
        return Err(Failure::new(exit::RESOURCE, "models", message, hint.as_deref()));
    }
    for file in &gone {
        fs::remove_file(&file.path).map_err(|error| failed(&file.path, error))?;
    }
    if gone.iter().all(|file| repository(file) == Some(name))
        && let Some((owner, name)) = name.split_once('/')
    {
        let source = HubSource { owner: owner.to_owned(), name: name.to_owned(), revision: None, pick: None };
        let folder = Shelf::new(cache, &source).folder().to_owned();
        fs::remove_dir_all(&folder).map_err(|error| failed(&folder, error))?;
    }
    let bytes = gone.iter().map(|file| file.bytes).sum();
    Printer::stderr().note(&format!("removed {} files, {}", gone.len(), Bytes(bytes)));
    Ok(exit::OK)
}
