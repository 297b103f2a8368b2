//! Shipped recipes are sound, broken ones are explained, and what is generated is current.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]
use std::path::{Path, PathBuf};

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use ruvlab::{recipe, ui::diagnostics};

/// Returns the YAML files below a folder, sorted, with `/` between folders.
fn yaml_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(yaml_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "yaml") {
            files.push(path);
        }
    }
    files.sort();
    files
}

const SHIPPED: [&str; 30] = [
    "base/cpu.yaml",
    "continual/pico-lambda.yaml",
    "continual/pico.yaml",
    "continual/smollm2.yaml",
    "continual/standard-cl.yaml",
    "kernels/pico.yaml",
    "kernels/smollm2.yaml",
    "kernels/synthetic.yaml",
    "kv/context-extension.yaml",
    "kv/hybrid.yaml",
    "kv/pressure.yaml",
    "kv/smollm2.yaml",
    "kv/tiers.yaml",
    "lora/compose.yaml",
    "lora/micro-smollm2.yaml",
    "lora/micro.yaml",
    "lora/schedules.yaml",
    "lora/smollm2.yaml",
    "mistral7b-q8.yaml",
    "phi4mini-q4.yaml",
    "prompt-length.yaml",
    "quant-ladder.yaml",
    "quantization.yaml",
    "quickstart.yaml",
    "qwen14b-q8.yaml",
    "smollm2.yaml",
    "sona/pico-speed.yaml",
    "sona/pico.yaml",
    "sona/smollm2.yaml",
    "threads.yaml",
];

#[test]
fn every_shipped_recipe_loads_and_every_point_of_it_resolves() {
    let files = yaml_below(Path::new("recipes"));
    let names: Vec<_> = files.iter().map(|file| file.strip_prefix("recipes").unwrap().to_str().unwrap()).collect();
    assert_eq!(names, SHIPPED);
    for file in &files {
        let loaded =
            recipe::load(file, &[]).unwrap_or_else(|problems| panic!("{}", diagnostics::render(&problems, false)));
        assert!(loaded.warnings.is_empty(), "{}", diagnostics::render(&loaded.warnings, false));
        let matrix = loaded.recipe.matrix.clone().unwrap_or_default();
        let points = recipe::expand(&matrix);
        assert!(!points.is_empty());
        for point in points {
            let cell =
                loaded.at(&point, 7).unwrap_or_else(|problems| panic!("{}", diagnostics::render(&problems, false)));
            assert_eq!((cell.seeds, cell.matrix, cell.extends.len()), (vec![7], None, 0));
        }
        let used = recipe::unimplemented(&loaded.recipe);
        assert!(used.is_empty(), "{} uses {used:?}, which cannot run yet", file.display());
        assert!(!loaded.recipe.description.is_empty(), "{} does not say what it asks", file.display());
        let modeline = loaded.source_text().lines().next().unwrap();
        let schema = modeline.strip_prefix("# yaml-language-server: $schema=").expect("an editor finds the schema");
        assert!(file.parent().unwrap().join(schema).is_file(), "{modeline}");
    }
}

/// Compares a generated file with what is committed; `RUVLAB_BLESS=1` writes it.
fn assert_current(path: &str, generated: &str) {
    if std::env::var_os("RUVLAB_BLESS").is_some() {
        std::fs::write(path, generated).unwrap();
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == generated, "{path} is not what the types say; RUVLAB_BLESS=1 renews it");
}

#[test]
fn the_reference_page_is_what_the_types_say() {
    let shipped = SHIPPED.map(|name| {
        let loaded = recipe::load(&Path::new("recipes").join(name), &[]).unwrap();
        (name.to_owned(), loaded.recipe.description)
    });
    assert_current("recipes/README.md", &recipe::reference_page(&shipped));
}

#[test]
fn the_json_schema_is_what_the_types_say() {
    assert_current("recipes/schema.json", &(serde_json::to_string_pretty(&recipe::json_schema()).unwrap() + "\n"));
}

const BROKEN: &[&str] = &[
    "adapt",
    "adapter",
    "adapter-init",
    "alias-bomb",
    "bad-indentation",
    "bad-set",
    "bad-unit",
    "cache",
    "cache-without-budget",
    "context",
    "continual",
    "continual-methods",
    "deep-nesting",
    "duplicate-key",
    "empty",
    "escape-sequence",
    "extends-broken",
    "extends-circle",
    "extends-missing",
    "extends-unreadable",
    "future-version",
    "key-of-another-tool",
    "kl-without-reference",
    "list-at-the-top",
    "matrix",
    "matrix-first-point",
    "matrix-too-large",
    "merge-key",
    "micro-lora",
    "missing-required",
    "not-utf8",
    "nothing-to-run",
    "open-bracket",
    "open-quote",
    "out-of-range",
    "same-names",
    "schedule",
    "schedule-cosine",
    "second-colon",
    "several-at-once",
    "sona",
    "source",
    "tabs",
    "tag",
    "train-candle-dropout",
    "train-reference",
    "two-documents",
    "unknown-key",
    "unknown-nested-key",
    "unknown-value",
    "unknown-workload",
    "workload-not-indented",
    "wrong-type",
];

#[test]
fn every_broken_recipe_is_refused_with_its_reason_and_place() {
    let files = yaml_below(Path::new("tests/it/broken"));
    let mut files: Vec<_> = files.into_iter().filter(|file| file.parent().unwrap().ends_with("broken")).collect();
    files.sort_by_key(|file| file.file_stem().map(ToOwned::to_owned));
    let names: Vec<_> = files.iter().map(|file| file.file_stem().unwrap().to_str().unwrap()).collect();
    assert_eq!(names, BROKEN);
    for (file, name) in files.iter().zip(names) {
        let text = String::from_utf8_lossy(&std::fs::read(file).unwrap()).into_owned();
        let sets: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# set: ")).map(str::to_owned).collect();
        let problems = recipe::load(file, &sets).expect_err(name);
        assert!(problems.iter().any(ruvlab::diag::Diagnostic::is_error));
        insta::with_settings!({omit_expression => true, prepend_module_to_snapshot => false}, {
            insta::assert_snapshot!(format!("broken-{name}"), diagnostics::render(&problems, false));
        });
    }
}

#[test]
fn a_file_that_is_not_there_is_a_problem_without_a_place() {
    let problems = recipe::load(Path::new("recipes/nothing.yaml"), &[]).unwrap_err();
    assert_eq!(problems.len(), 1);
    assert_eq!(problems[0].message, "cannot read `recipes/nothing.yaml`: no such file");
    assert!(recipe::load(Path::new("recipes"), &[]).is_err());
}

#[test]
fn layers_win_in_order_and_places_name_the_file_that_won() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    };
    write(
        "base/a.yaml",
        "schema: ruvlab/v1\nname: a\nmodel: {source: a.gguf}\nkernels: {set: reference, threads: 1}\nmeasure: {warmup: 3}\n",
    );
    write("base/b.yaml", "schema: ruvlab/v1\nkernels: {set: candle}\n");
    let path = write(
        "mine.yaml",
        "schema: ruvlab/v1\nextends: [base/a.yaml, base/b.yaml]\nworkloads:\n- decode: {}\nmeasure: {warmup: null}\nmatrix:\n  axes:\n    kernels.threads: [2, 4]\n    model.source: [x.gguf, builtin:pico]\n",
    );
    let loaded = recipe::load(&path, &["workloads[0].decode.output_tokens=9".to_owned()]).unwrap();
    let base = &loaded.recipe;
    assert_eq!(base.name, "mine");
    assert_eq!(base.kernels.set, recipe::schema::KernelSet::Candle);
    assert_eq!(base.measure.warmup, 1);
    assert_eq!(Path::new(&base.model.source), std::path::absolute(folder.path().join("base/a.gguf")).unwrap());
    assert_eq!(base.workloads[0].to_string(), "decode(p128,n9)");
    assert!(loaded.place("kernels.threads").unwrap().file.ends_with("base/a.yaml"));
    assert!(loaded.place("kernels.set").unwrap().file.ends_with("base/b.yaml"));
    assert_eq!(loaded.place("workloads[0].decode.output_tokens").unwrap().file, "--set");
    assert_eq!(loaded.place("matrix.axes.kernels.threads").unwrap().line, 8);
    assert_eq!(loaded.place("sampling.top_k"), None);

    let points = recipe::expand(base.matrix.as_ref().unwrap());
    assert_eq!(points.len(), 4);
    let cell = loaded.at(&points[2], 5).unwrap();
    assert_eq!(cell.kernels.threads, ruvlab::units::Threads::Count(4));
    assert_eq!(Path::new(&cell.model.source), std::path::absolute(folder.path().join("x.gguf")).unwrap());
    assert_eq!(loaded.at(&points[3], 5).unwrap().model.source, "builtin:pico");
}

#[test]
fn a_set_is_stronger_than_an_axis_and_leaves_one_value_of_it() {
    let sets = ["kernels.set=candle".to_owned()];
    let loaded = recipe::load(Path::new("recipes/quickstart.yaml"), &sets).unwrap();
    let points = recipe::expand(loaded.recipe.matrix.as_ref().unwrap());
    assert_eq!(points.len(), 2);
    let warnings: Vec<_> = loaded.warnings.iter().map(|warning| warning.code.as_str()).collect();
    assert_eq!(warnings, ["baseline"]);
    for point in points {
        assert_eq!(loaded.at(&point, 0).unwrap().kernels.set, recipe::schema::KernelSet::Candle);
    }
}

/// Loads a text as a recipe; the result does not matter, returning does.
fn survives(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).unwrap();
    match recipe::load(path, &[]) {
        Ok(loaded) => {
            for point in recipe::expand(&loaded.recipe.matrix.clone().unwrap_or_default()).iter().take(4) {
                drop(loaded.at(point, 0));
            }
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            assert!(!diagnostics::render(&problems, false).is_empty());
        }
    }
}

#[test]
fn no_mutation_of_a_recipe_makes_the_loader_panic() {
    const PIECES: [&str; 20] = [
        "\t", "\n", ": ", "- ", "[", "]", "{", "}", "&a ", "*a", "!t ", "'", "\"", "#", "|\n", "? ", "\u{0}", "é",
        "null", "---\n",
    ];
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mutated.yaml");
    let original = std::fs::read("recipes/quickstart.yaml").unwrap();
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    for _ in 0..2000 {
        let mut bytes = original.clone();
        for _ in 0..rng.random_range(1..6) {
            let at = rng.random_range(0..bytes.len());
            let end = (at + rng.random_range(0..12)).min(bytes.len());
            match rng.random_range(0..5) {
                0 => bytes[at] = rng.random(),
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let copy = bytes[at..end].to_vec();
                    let target = rng.random_range(0..=bytes.len());
                    bytes.splice(target..target, copy);
                }
                3 => bytes.truncate(at.max(1)),
                _ => {
                    let piece = PIECES[rng.random_range(0..PIECES.len())];
                    bytes.splice(at..at, piece.bytes());
                }
            }
        }
        survives(&path, &bytes);
    }
}

#[test]
fn random_bytes_do_not_make_the_loader_panic() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("random.yaml");
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    for _ in 0..1000 {
        let length = rng.random_range(0..200);
        let bytes: Vec<u8> =
            (0..length).map(|_| b" \n:-[]{},&*a1\"'#\t?|>!%@`\x00\xff"[rng.random_range(0..26)]).collect();
        survives(&path, &bytes);
    }
}

#[test]
fn large_hostile_files_are_refused_quickly_and_with_few_words() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.yaml");
    let many_keys: String = (0..15_000).map(|key| format!("k{key}: 1\n")).collect();
    let one_line = format!("schema: ruvlab/v1\ntags: [{}]\n", "1,".repeat(9_000));
    for text in
        [many_keys, one_line, "[".repeat(1 << 20), "a".repeat(2 << 20), "- ".repeat(400_000), "a: &a\n".repeat(100_000)]
    {
        std::fs::write(&path, text).unwrap();
        let problems = recipe::load(&path, &[]).unwrap_err();
        assert!((1..=102).contains(&problems.len()), "{} problems", problems.len());
        assert!(diagnostics::render(&problems, false).len() < 100_000);
    }
}
