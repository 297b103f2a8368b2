//! Which module may import which: the table in ARCHITECTURE.md, enforced.
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

/// Returns the table's rows: module to what it may import.
fn table() -> BTreeMap<String, BTreeSet<String>> {
    let page = fs::read_to_string("ARCHITECTURE.md").unwrap();
    let names = |cell: &str| -> BTreeSet<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rows = page.lines().filter(|line| line.starts_with("| `")).map(|line| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 3, "{line}");
        (names(cells[0]).into_iter().next().unwrap(), names(cells[2]))
    });
    rows.collect()
}

fn rust_files(path: &Path, files: &mut Vec<PathBuf>) {
    if path.is_dir() {
        for entry in fs::read_dir(path).unwrap() {
            rust_files(&entry.unwrap().path(), files);
        }
    } else if path.extension().is_some_and(|extension| extension == "rs") {
        files.push(path.to_owned());
    }
}

/// Returns the modules of the crate that a source text names, with the line of each.
fn imports(text: &str) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let name_at =
        |rest: &str| -> String { rest.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect() };
    for (offset, _) in text.match_indices("crate::") {
        if text[..offset].ends_with(['_', '$']) || text[..offset].ends_with(char::is_alphanumeric) {
            continue;
        }
        let line = text[..offset].matches('\n').count() + 1;
        let rest = &text[offset + "crate::".len()..];
        let Some(group) = rest.strip_prefix('{') else {
            found.push((line, name_at(rest)));
            continue;
        };
        // The names at the top level of `use crate::{a::{b, c}, d}`.
        let mut depth = 0;
        let mut at_name = true;
        for (i, c) in group.char_indices() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => at_name = true,
                c if at_name && depth == 0 && (c.is_alphanumeric() || c == '_') => {
                    found.push((line, name_at(&group[i..])));
                    at_name = false;
                }
                _ => {}
            }
        }
    }
    found
}

#[test]
fn imports_are_read_from_groups_and_paths() {
    let text = "use crate::{\n    a::{x, y},\n    b,\n};\nfn f() { crate::c::g(); $crate::d!(); }\n";
    let names: Vec<String> = imports(text).into_iter().map(|(_, name)| name).collect();
    assert_eq!(names, ["a", "b", "c"]);
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let table = table();
    assert!(table.len() >= 15, "the import table in ARCHITECTURE.md was not found");
    let mut broken = Vec::new();
    let mut edges = 0;
    for (module, allowed) in &table {
        let (folder, file) = (Path::new("src").join(module), Path::new("src").join(format!("{module}.rs")));
        let mut files = Vec::new();
        rust_files(if folder.is_dir() { &folder } else { &file }, &mut files);
        assert!(!files.is_empty() && files.iter().all(|file| file.exists()), "src/{module} holds no Rust files");
        for path in files {
            for (line, target) in imports(&fs::read_to_string(&path).unwrap()) {
                edges += 1;
                if target != *module && !allowed.contains(&target) && module != "cli" {
                    broken.push(format!("{}:{line}: {module} -> {target}", path.display()));
                }
            }
        }
    }
    assert!(edges > 50, "only {edges} imports were found: is the scanner broken?");
    assert!(broken.is_empty(), "not in the table of ARCHITECTURE.md:\n{}", broken.join("\n"));
}

#[test]
fn every_module_is_in_the_table() {
    let table = table();
    let library = fs::read_to_string("src/lib.rs").unwrap();
    let modules: Vec<&str> =
        library.lines().filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';')).collect();
    assert!(modules.len() >= 15);
    for module in modules {
        assert!(table.contains_key(module), "src/{module} is not in the table of ARCHITECTURE.md");
    }
}

/// Each heavy or replaceable library is named in one place only.
#[test]
fn heavy_libraries_are_named_in_one_place() {
    for (library, place) in [
        ("serde_yaml", "src/recipe/load.rs"),
        ("polars", "src/results/parquet"),
        ("plotters", "src/report/charts"),
        ("candle_transformers", "src/engine/reference"),
    ] {
        let mut files = Vec::new();
        rust_files(Path::new("src"), &mut files);
        let mut seen = 0;
        for path in files {
            let text = fs::read_to_string(&path).unwrap();
            let named = text.lines().any(|line| {
                let code = line.split("//").next().unwrap_or_default();
                code.contains(&format!("{library}::")) || code.contains(&format!("use {library}"))
            });
            if named {
                seen += 1;
                assert!(
                    path.starts_with(place) || path.to_string_lossy().starts_with(place),
                    "{} names {library}",
                    path.display()
                );
            }
        }
        assert!(seen > 0, "{library} is named nowhere");
    }
}
