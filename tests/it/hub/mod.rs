//! Models from a hub: a local server behaves like the real one, and misbehaves on demand.
mod server;

use std::{
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};

use serde_json::Value;

use server::{Fault, Hub, sha256};

const TOKEN: &str = "hf_thisMustNeverBeSeenAnywhere";

/// A folder to work in, a cache, and a home without a token.
struct Bench {
    folder: tempfile::TempDir,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["work", "home"] {
            fs::create_dir(folder.path().join(name)).unwrap();
        }
        Self { folder }
    }

    fn work(&self) -> PathBuf {
        self.folder.path().join("work")
    }

    fn cache(&self) -> PathBuf {
        self.folder.path().join("models")
    }

    fn lock(&self) -> Value {
        serde_json::from_slice(&fs::read(self.work().join("ruvlab.lock")).unwrap()).unwrap()
    }

    fn run(&self, endpoint: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        let mut command = Command::new(env!("CARGO_BIN_EXE_ruvlab"));
        for name in ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_IMPLICIT_TOKEN", "RUVLAB_STORE"] {
            command.env_remove(name);
        }
        for name in ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
            command.env_remove(name);
        }
        let home = self.folder.path().join("home");
        command.args(arguments).current_dir(self.work()).env("NO_COLOR", "1").env("RUVLAB_MODELS", self.cache());
        command.env("HF_ENDPOINT", endpoint).env("HF_HOME", home).envs(environment.iter().copied()).output().unwrap()
    }

    /// Runs a command that must end with `code` and returns what it printed and said.
    fn ends(&self, code: i32, endpoint: &str, arguments: &[&str]) -> (String, String) {
        let output = self.run(endpoint, arguments, &[]);
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "ruvlab {arguments:?}\n{out}\n{err}");
        (out.trim_end().to_owned(), err)
    }

    /// Every file below the folder, with its content.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn walk(folder: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() { walk(&path, found) } else { found.push((path.clone(), fs::read(&path).unwrap())) }
            }
        }
        let mut found = Vec::new();
        walk(self.folder.path(), &mut found);
        found
    }

    fn parts(&self) -> Vec<u64> {
        let parts = self.files().into_iter().filter(|(path, _)| path.extension().is_some_and(|it| it == "part"));
        parts.map(|(_, content)| content.len() as u64).collect()
    }
}

/// Bytes that repeat nowhere soon.
fn bytes(length: u32, seed: u32) -> Vec<u8> {
    (0..length).map(|i| (i.wrapping_mul(2_654_435_761).wrapping_add(seed) >> 13) as u8).collect()
}

const BIG: u32 = 3 << 20;

#[test]
fn a_quantization_is_picked_fetched_over_the_redirect_and_pinned() {
    let (q4, q8) = (bytes(1000, 1), bytes(BIG, 2));
    let files: [(&str, &[u8], bool); 3] =
        [("README.md", b"x", false), ("tiny-Q4_K_M.gguf", &q4, true), ("tiny-Q8_0.gguf", &q8, true)];
    let (hub, bench) = (Hub::start(&files), Bench::new());
    let output = bench.run(&hub.endpoint(), &["download", "hf:lab/tiny:q8_0"], &[("HF_TOKEN", TOKEN)]);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{err}");
    assert!(err.contains("licence: apache-2.0"), "{err}");
    let path = PathBuf::from(out.trim_end());
    assert!(path.ends_with(format!("hub/lab/tiny/{}/tiny-Q8_0.gguf", hub.commit())), "{}", path.display());
    assert!(fs::read(&path).unwrap() == q8, "other bytes arrived");
    let pin = &bench.lock()["sources"]["hf:lab/tiny:q8_0"];
    assert_eq!(pin["commit"], hub.commit());
    assert_eq!(pin["files"]["tiny-Q8_0.gguf"]["sha256"], sha256(&q8));
    assert_eq!(pin["files"]["tiny-Q8_0.gguf"]["size"], BIG);
    // The token goes to the hub, not to the storage it redirects to, and stays nowhere.
    let expected = format!("Bearer {TOKEN}");
    let sent = |storage: bool| hub.requests().into_iter().filter(move |request| request.storage == storage);
    assert!(sent(false).count() >= 4 && sent(false).all(|it| it.headers.get("authorization") == Some(&expected)));
    assert!(sent(true).count() >= 1 && sent(true).all(|it| !it.headers.contains_key("authorization")));
    assert!(!out.contains(TOKEN) && !err.contains(TOKEN));
    for (path, content) in bench.files() {
        assert!(!content.windows(TOKEN.len()).any(|part| part == TOKEN.as_bytes()), "{}", path.display());
    }
    // What was asked for and is not there, or is there twice, lists what is.
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny:Q5_0"]);
    assert!(err.contains("tiny-Q4_K_M.gguf") && err.contains("tiny-Q8_0.gguf"), "{err}");
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(err.contains("name one of them"), "{err}");
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny@v9:Q8_0"]);
    assert!(err.contains("no lab/tiny at v9"), "{err}");
    bench.ends(2, &hub.endpoint(), &["download", "no-such-name"]);
}

#[test]
fn a_cut_connection_goes_on_where_it_was() {
    let content = bytes(BIG, 3);
    let (hub, bench) = (Hub::start(&[("a.gguf", &content, true)]), Bench::new());
    // In one command: the first answer is cut, the second sends the rest.
    hub.fail(&[Fault::Cut(1 << 20)]);
    let (out, err) = bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(fs::read(out).unwrap() == content && err.contains("going on at byte"), "{err}");
    let from = |request: &server::Request| {
        let range = request.headers.get("range")?.strip_prefix("bytes=")?.split('-').next()?;
        range.parse::<u64>().ok()
    };
    let ranges: Vec<u64> = hub.requests().iter().filter(|it| it.storage).filter_map(from).collect();
    assert_eq!(ranges.len(), 1);
    assert!((1..=1 << 20).contains(&ranges[0]), "{ranges:?}");
    // Over two commands: the first ends in the middle, the second fetches the rest only.
    let again = Bench::new();
    hub.fail(&[Fault::Cut(2 << 20), Fault::StorageStatus(404)]);
    again.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    let parts = again.parts();
    assert!(matches!(parts[..], [part] if part > 0 && part < u64::from(BIG)), "{parts:?}");
    let before = hub.requests().len();
    let (out, _) = again.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(fs::read(out).unwrap() == content);
    let ranges: Vec<u64> = hub.requests()[before..].iter().filter(|it| it.storage).filter_map(from).collect();
    assert_eq!(ranges, parts);
    // A storage that cannot send parts sends the whole, and that is what is kept.
    let third = Bench::new();
    hub.fail(&[Fault::Cut(2 << 20), Fault::IgnoreRange]);
    let (out, _) = third.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(fs::read(out).unwrap() == content);
    assert_eq!(hub.pending(), 0);
}

/// A storage that sends no parts and breaks off each time is given up, however much came between.
#[test]
fn a_file_does_not_begin_anew_for_ever() {
    let content = bytes(BIG, 11);
    let (hub, bench) = (Hub::start(&[("a.gguf", &content, true)]), Bench::new());
    hub.fail(&[Fault::Cut(2 << 20), Fault::IgnoreRange].repeat(6));
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(err.contains("cannot send a part"), "{err}");
    assert_eq!(hub.pending(), 4);
}

#[test]
fn an_answer_about_another_commit_is_refused() {
    let (hub, bench) = (Hub::start(&[("a.gguf", b"x", true)]), Bench::new());
    hub.fail(&[Fault::OtherCommit]);
    let source = format!("hf:lab/tiny@{}", hub.commit());
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", &source]);
    assert!(err.contains("makes no sense") && err.contains(&"f6".repeat(20)), "{err}");
    assert_eq!(hub.pending(), 0);
    bench.ends(0, &hub.endpoint(), &["download", &source]);
}

/// The hub gives no digest of small files: those computed here are kept, computed again where they
/// are not, and compared with the pin before a file is used.
#[test]
fn small_files_are_pinned_too() {
    let folder: [(&str, &[u8], bool); 3] =
        [("config.json", b"{}", false), ("model.safetensors", b"abc", true), ("tokenizer.json", b"{\"a\": 1}", false)];
    let (hub, bench) = (Hub::start(&folder), Bench::new());
    let download = ["download", "hf:lab/tiny"];
    bench.ends(0, &hub.endpoint(), &download);
    let lock = bench.work().join("ruvlab.lock");
    let pinned = bench.lock();
    assert_eq!(pinned["sources"]["hf:lab/tiny"]["files"]["config.json"]["sha256"], sha256(b"{}"));
    let listing = bench.cache().join("hub/lab/tiny").join(format!("{}.json", hub.commit()));
    for forget in [false, true] {
        fs::remove_file(&lock).unwrap();
        if forget {
            fs::remove_file(&listing).unwrap();
        }
        bench.ends(0, &hub.endpoint(), &download);
        assert_eq!(bench.lock(), pinned);
    }
    let wrong = fs::read_to_string(&lock).unwrap().replace(&sha256(b"{}"), &sha256(b"[]"));
    fs::write(&lock, &wrong).unwrap();
    let (_, err) = bench.ends(14, &hub.endpoint(), &download);
    assert!(err.contains("config.json") && err.contains("--update-lock"), "{err}");
    bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny", "--update-lock"]);
    assert_eq!(bench.lock(), pinned);
    // On another machine it does not get its name.
    let other = Bench::new();
    fs::write(other.work().join("ruvlab.lock"), wrong).unwrap();
    let (_, err) = other.ends(14, &hub.endpoint(), &download);
    assert!(err.contains("config.json") && err.contains("--update-lock"), "{err}");
    assert!(other.files().iter().all(|(path, _)| !path.to_string_lossy().contains("config.json")));
}

#[test]
fn a_changed_byte_is_refused_and_passing_trouble_is_not() {
    let content = bytes(BIG, 4);
    let (hub, bench) = (Hub::start(&[("a.gguf", &content, true)]), Bench::new());
    hub.fail(&[Fault::Flip]);
    let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(err.contains("damaged") && err.contains(&sha256(&content)), "{err}");
    assert!(!bench.work().join("ruvlab.lock").exists());
    assert!(
        bench.files().iter().all(|(path, _)| !path.to_string_lossy().contains("a.gguf")),
        "something of it is left"
    );
    hub.fail(&[Fault::HubStatus(503), Fault::HubStatus(503), Fault::StorageStatus(503)]);
    let (out, _) = bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    assert!(fs::read(out).unwrap() == content);
    assert_eq!(hub.pending(), 0);
}

#[test]
fn without_a_network_the_cache_is_enough() {
    let content = bytes(1000, 5);
    let (hub, bench) = (Hub::start(&[("a-Q8_0.gguf", &content, true)]), Bench::new());
    let endpoint = hub.endpoint();
    let offline = ["download", "hf:lab/tiny:q8_0", "--offline"];
    let (_, err) = bench.ends(14, &endpoint, &offline);
    assert!(err.contains("not on this machine") && hub.requests().is_empty(), "{err}");
    let (path, _) = bench.ends(0, &endpoint, &["download", "hf:lab/tiny:q8_0"]);
    let asked = hub.requests().len();
    assert_eq!(bench.ends(0, &endpoint, &offline).0, path);
    // Without the lock file, too: what the main branch was is remembered.
    fs::remove_file(bench.work().join("ruvlab.lock")).unwrap();
    assert_eq!(bench.ends(0, &endpoint, &offline).0, path);
    let output = bench.run(&endpoint, &["download", "hf:lab/tiny:q8_0"], &[("HF_HUB_OFFLINE", "1")]);
    assert!(output.status.success());
    assert_eq!(hub.requests().len(), asked, "the hub was asked all the same");
    drop(hub);
    fs::remove_file(bench.work().join("ruvlab.lock")).unwrap();
    let (_, err) = bench.ends(14, &endpoint, &["download", "hf:lab/tiny:q8_0"]);
    assert!(err.contains("--offline"), "{err}");
}

#[test]
fn the_lock_file_pins_what_a_branch_was() {
    let (old, new) = (bytes(1000, 6), bytes(1200, 7));
    let (hub, bench) = (Hub::start(&[("a-Q8_0.gguf", &old, true)]), Bench::new());
    let download = ["download", "hf:lab/tiny:q8_0"];
    let (first, _) = bench.ends(0, &hub.endpoint(), &download);
    hub.push(&"e5".repeat(20), "a-Q8_0.gguf", &new);
    // The branch moved; here, and on another machine with this lock file, it did not.
    assert_eq!(bench.ends(0, &hub.endpoint(), &download).0, first);
    let other = Bench::new();
    fs::copy(bench.work().join("ruvlab.lock"), other.work().join("ruvlab.lock")).unwrap();
    let (path, _) = other.ends(0, &hub.endpoint(), &download);
    assert!(fs::read(path).unwrap() == old);
    let (path, err) = bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny:q8_0", "--update-lock"]);
    assert!(fs::read(path).unwrap() == new && err.contains("pinned in"), "{err}");
    assert_eq!(bench.lock()["sources"]["hf:lab/tiny:q8_0"]["commit"], "e5".repeat(20));
    // A lock file of other content is an error that says how to go on.
    let text = fs::read_to_string(bench.work().join("ruvlab.lock")).unwrap();
    fs::write(bench.work().join("ruvlab.lock"), text.replace(&sha256(&new), &sha256(&old))).unwrap();
    let (_, err) = bench.ends(14, &hub.endpoint(), &download);
    assert!(err.contains("pinned") && err.contains("--update-lock"), "{err}");
    fs::write(bench.work().join("ruvlab.lock"), "{").unwrap();
    let (_, err) = bench.ends(14, &hub.endpoint(), &download);
    assert!(err.contains("ruvlab.lock") && err.contains("remove it"), "{err}");
}

#[test]
fn hostile_names_write_nothing() {
    for name in ["../../../evil.gguf", "/tmp/evil.gguf", "a\\..\\evil.gguf", "evil\u{0}.gguf", "evil\u{1b}[2J.gguf"] {
        let content = bytes(100, 8);
        let (hub, bench) = (Hub::start(&[(name, &content, true), ("a-Q8_0.gguf", &content, true)]), Bench::new());
        let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny:q8_0"]);
        assert!(err.contains("nothing of it is used") && !err.contains('\u{1b}'), "{err:?}");
        assert!(bench.files().is_empty(), "{:?}", bench.files());
        assert!(hub.requests().iter().all(|request| !request.storage));
    }
}

#[test]
fn a_gated_repository_says_what_to_do() {
    let (hub, bench) = (Hub::start(&[("a.gguf", b"x", true)]), Bench::new());
    for status in [401, 403] {
        hub.fail(&[Fault::HubStatus(status)]);
        let (_, err) = bench.ends(14, &hub.endpoint(), &["download", "hf:lab/tiny"]);
        assert!(err.contains("HF_TOKEN") && err.contains(&format!("{}/lab/tiny", hub.endpoint())), "{err}");
    }
}

#[test]
fn folders_and_split_files_come_whole() {
    let (a, b) = (bytes(100, 9), bytes(200, 10));
    let folder: [(&str, &[u8], bool); 6] = [
        ("config.json", b"{}", false),
        ("model-00001-of-00002.safetensors", &a, true),
        ("model-00002-of-00002.safetensors", &b, true),
        ("model.safetensors.index.json", b"{\"weight_map\": {}}", false),
        ("pytorch_model.bin", &a, true),
        ("tokenizer.json", b"{\"version\": 1}", false),
    ];
    let (hub, bench) = (Hub::start(&folder), Bench::new());
    let (out, _) = bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    for (name, content, _) in &folder {
        let found = fs::read(Path::new(&out).join(name)).ok();
        assert_eq!(found.as_deref(), Some(*content).filter(|_| *name != "pytorch_model.bin"), "{name}");
    }
    assert_eq!(bench.lock()["sources"]["hf:lab/tiny"]["files"].as_object().unwrap().len(), 5);
    let split: [(&str, &[u8], bool); 2] =
        [("x-Q8_0-00001-of-00002.gguf", &a, true), ("x-Q8_0-00002-of-00002.gguf", &b, true)];
    let (hub, bench) = (Hub::start(&split), Bench::new());
    let (out, _) = bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny@v1:Q8_0"]);
    assert!(out.ends_with("x-Q8_0-00001-of-00002.gguf"), "{out}");
    assert!(fs::read(out.replace("-00001-of", "-00002-of")).unwrap() == b);
    // And they can be listed and removed.
    let (list, _) = bench.ends(0, &hub.endpoint(), &["models", "--format", "json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    assert_eq!(list["files"].as_array().unwrap().len(), 2);
    assert!(list["aliases"].as_array().unwrap().iter().any(|alias| alias["name"] == "qwen2.5-14b"));
    bench.ends(14, &hub.endpoint(), &["models", "rm", "lab/other"]);
    bench.ends(0, &hub.endpoint(), &["models", "rm", "lab/tiny"]);
    assert!(!bench.cache().join("hub/lab/tiny").exists());
}

#[test]
fn only_a_files_or_a_repositorys_whole_name_removes_it() {
    let content = bytes(1000, 11);
    let (hub, bench) = (Hub::start(&[("a-Q8_0.gguf", &content, true)]), Bench::new());
    let remove = |code: i32, name: &str| bench.ends(code, &hub.endpoint(), &["models", "rm", name]).1;
    bench.ends(0, &hub.endpoint(), &["download", "hf:lab/tiny"]);
    // Another repository of the same owner.
    let (tiny, other) = (bench.cache().join("hub/lab/tiny"), bench.cache().join("hub/lab/other"));
    fs::create_dir_all(other.join(hub.commit())).unwrap();
    for file in [format!("{}.json", hub.commit()), format!("{}/a-Q8_0.gguf", hub.commit())] {
        fs::copy(tiny.join(&file), other.join(&file)).unwrap();
    }
    let before = bench.files().len();
    for name in ["lab", "hf:lab", "lab/", "lab/tin", "lab/tiny/"] {
        let message = remove(14, name);
        assert!(name.contains('/') || message.contains("name one repository of lab: lab/other, lab/tiny"), "{message}");
    }
    assert_eq!(bench.files().len(), before);
    remove(0, "lab/other");
    assert!(!other.exists() && tiny.exists());
    remove(0, "hf:lab/tiny");
    assert!(!tiny.exists());
}

/// A recipe runs a model of the hub as it runs the same file by its path: one cell, by content.
#[test]
fn a_recipe_fetches_its_model_once_and_is_the_same_cell() {
    let pico = fs::read("assets/pico/pico.gguf").unwrap();
    let (hub, bench) = (Hub::start(&[("pico-Q8_0.gguf", &pico, true)]), Bench::new());
    let recipe = "schema: ruvlab/v1\nname: tiny\nmodel: {source: \"hf:lab/tiny:q8_0\", revision: v1}\n\
        kernels: {verify: {reference: null}}\n\
        workloads: [{prefill: {prompt_tokens: 8, repetitions: 1}}]\nmeasure: {launches: {min: 2, max: 2}, warmup: 0}\n";
    fs::write(bench.work().join("tiny.yaml"), recipe).unwrap();
    let (_, err) = bench.ends(14, &hub.endpoint(), &["plan", "tiny.yaml"]);
    assert!(err.contains("ruvlab download") && hub.requests().is_empty(), "{err}");
    bench.ends(14, &hub.endpoint(), &["run", "tiny.yaml", "--offline"]);
    bench.ends(0, &hub.endpoint(), &["run", "tiny.yaml", "--quiet"]);
    let source = "hf:lab/tiny@v1:q8_0";
    assert_eq!(bench.lock()["sources"][source]["commit"], hub.commit());
    let endpoint = hub.endpoint();
    drop(hub);
    let plan = |more: &[&str]| -> Value {
        let mut arguments = vec!["plan", "tiny.yaml", "--format", "json"];
        arguments.extend(more);
        serde_json::from_str(&bench.ends(0, &endpoint, &arguments).0).unwrap()
    };
    let planned = plan(&[]);
    assert_eq!(planned["cells"][0]["state"], "cached");
    assert_eq!(planned["cells"][0]["cell"]["model"]["commit"], "a1".repeat(20));
    fs::write(bench.work().join("here.gguf"), &pico).unwrap();
    let by_path = plan(&["--set", "model={source: here.gguf}"]);
    assert_eq!(by_path["cells"][0]["cell"]["hash"], planned["cells"][0]["cell"]["hash"]);
    bench.ends(0, &endpoint, &["run", "tiny.yaml", "--quiet", "--rerun", "all"]);
}
