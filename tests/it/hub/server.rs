//! A hub on this machine: enough of the real one's HTTP to fetch models from, with faults on demand.
use std::{
    collections::{BTreeMap, VecDeque},
    io::{Read, Write},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Something that goes wrong, once, with the next request it fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The hub answers with this status.
    HubStatus(u16),
    /// The storage sends this many bytes of a body and closes the connection.
    Cut(usize),
    /// The storage answers a GET with this status.
    StorageStatus(u16),
    /// The storage changes the first byte it sends.
    Flip,
    /// The storage sends the whole file where a part was asked for.
    IgnoreRange,
    /// The hub speaks of another commit than the one it was asked about.
    OtherCommit,
}

/// A request as it came.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) storage: bool,
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: BTreeMap<String, String>,
}

#[derive(Default)]
struct State {
    commit: String,
    /// What is listed: path, content, and whether it is a large file kept in the storage.
    files: BTreeMap<String, (Vec<u8>, bool)>,
    /// Content of earlier commits.
    earlier: BTreeMap<String, BTreeMap<String, (Vec<u8>, bool)>>,
    faults: VecDeque<Fault>,
    log: Vec<Request>,
}

/// The hub and, on another port, its storage.
pub(super) struct Hub {
    address: SocketAddr,
    storage: SocketAddr,
    state: Arc<Mutex<State>>,
    stopped: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

pub(super) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Hub {
    /// Starts a hub with one repository, `lab/tiny`.
    pub(super) fn start(files: &[(&str, &[u8], bool)]) -> Self {
        let listen = || TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (hub, storage) = (listen(), listen());
        let (address, storage_address) = (hub.local_addr().unwrap(), storage.local_addr().unwrap());
        let mut hub_state = State { commit: "a1".repeat(20), ..State::default() };
        for (path, content, large) in files {
            hub_state.files.insert((*path).to_owned(), (content.to_vec(), *large));
        }
        let (state, stopped) = (Arc::new(Mutex::new(hub_state)), Arc::new(AtomicBool::new(false)));
        let serve = |listener: TcpListener, is_storage: bool| {
            let (state, stopped) = (Arc::clone(&state), Arc::clone(&stopped));
            thread::spawn(move || {
                for stream in listener.incoming() {
                    if stopped.load(Ordering::SeqCst) {
                        return;
                    }
                    answer(stream.unwrap(), &state, is_storage, storage_address);
                }
            })
        };
        let threads = vec![serve(hub, false), serve(storage, true)];
        Self { address, storage: storage_address, state, stopped, threads }
    }

    pub(super) fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(super) fn commit(&self) -> String {
        self.state.lock().unwrap().commit.clone()
    }

    /// Changes the main branch: a new commit with one other file.
    pub(super) fn push(&self, commit: &str, path: &str, content: &[u8]) {
        let mut state = self.state.lock().unwrap();
        let (old, files) = (state.commit.clone(), state.files.clone());
        state.earlier.insert(old, files);
        commit.clone_into(&mut state.commit);
        state.files.insert(path.to_owned(), (content.to_vec(), true));
    }

    pub(super) fn fail(&self, faults: &[Fault]) {
        self.state.lock().unwrap().faults.extend(faults);
    }

    pub(super) fn requests(&self) -> Vec<Request> {
        self.state.lock().unwrap().log.clone()
    }

    /// Returns how many faults have not happened yet.
    pub(super) fn pending(&self) -> usize {
        self.state.lock().unwrap().faults.len()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        for address in [self.address, self.storage] {
            drop(TcpStream::connect(address));
        }
        for thread in self.threads.drain(..) {
            thread.join().unwrap();
        }
    }
}

fn read_request(stream: &mut TcpStream, storage: bool) -> Option<Request> {
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read(&mut byte).ok()? == 0 || head.len() > 1 << 16 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).ok()?;
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers = lines.filter_map(|line| line.split_once(": "));
    let headers = headers.map(|(name, value)| (name.to_ascii_lowercase(), value.to_owned())).collect();
    Some(Request { storage, method, target, headers })
}

fn send(
    stream: &mut TcpStream,
    status: u16,
    headers: &[(&str, String)],
    body: &[u8],
    length: usize,
    cut: Option<usize>,
) {
    let lines: String = headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {length}\r\nconnection: close\r\n{lines}");
    let body = &body[..cut.unwrap_or(body.len()).min(body.len())];
    // Who asked may have gone away.
    drop(stream.write_all((head + "\r\n").as_bytes()).and_then(|()| stream.write_all(body)));
}

fn answer(mut stream: TcpStream, state: &Mutex<State>, storage: bool, storage_address: SocketAddr) {
    let Some(request) = read_request(&mut stream, storage) else { return };
    let mut state = state.lock().unwrap();
    state.log.push(request.clone());
    if storage {
        answer_storage(&mut stream, &mut state, &request);
    } else {
        answer_hub(&mut stream, &mut state, &request, storage_address);
    }
}

fn answer_hub(stream: &mut TcpStream, state: &mut State, request: &Request, storage: SocketAddr) {
    if let Some(Fault::HubStatus(status)) = state.faults.front().copied() {
        state.faults.pop_front();
        return send(stream, status, &[], b"", 0, None);
    }
    let target = request.target.split('?').next().unwrap();
    let found = |value: &Value| (200, value.to_string().into_bytes());
    if let Some(rest) = target.strip_prefix("/api/models/lab/tiny") {
        let revision = rest.rsplit('/').next().unwrap();
        let commit = if state.earlier.contains_key(revision) { revision } else { state.commit.as_str() };
        let known = ["", "main", "v1", state.commit.as_str(), commit].contains(&revision);
        let (status, body) = if !known {
            (404, b"{\"error\": \"Invalid rev id\"}".to_vec())
        } else if rest.starts_with("/tree/") {
            found(&json!(tree(state.earlier.get(commit).unwrap_or(&state.files))))
        } else {
            let other = state.faults.pop_front_if(|fault| *fault == Fault::OtherCommit).map(|_| "f6".repeat(20));
            let commit = other.as_deref().unwrap_or(commit);
            found(&json!({"id": "lab/tiny", "sha": commit, "tags": ["gguf", "license:apache-2.0"], "gated": false}))
        };
        return send(stream, status, &[], &body, body.len(), None);
    }
    let file = target.strip_prefix("/lab/tiny/resolve/").and_then(|rest| rest.split_once('/'));
    let content = file.and_then(|(commit, path)| state.earlier.get(commit).unwrap_or(&state.files).get(path));
    let Some((content, large)) = content else { return send(stream, 404, &[], b"", 0, None) };
    let mut headers = vec![("x-repo-commit", state.commit.clone())];
    if *large {
        headers.push(("x-linked-etag", format!("\"{}\"", sha256(content))));
        headers.push(("x-linked-size", content.len().to_string()));
        headers.push(("location", format!("http://{storage}/{}?signature=private", sha256(content))));
        return send(stream, 302, &headers, b"", 0, None);
    }
    headers.push(("etag", format!("\"{}\"", "b2".repeat(20))));
    let body: &[u8] = if request.method == "HEAD" { b"" } else { content };
    send(stream, 200, &headers, body, content.len(), None);
}

fn tree(files: &BTreeMap<String, (Vec<u8>, bool)>) -> Vec<Value> {
    let entry = |(path, (content, large)): (&String, &(Vec<u8>, bool))| {
        let mut entry = json!({"type": "file", "oid": "c3".repeat(20), "size": content.len(), "path": path});
        if *large {
            entry["lfs"] = json!({"oid": sha256(content), "size": content.len(), "pointerSize": 134});
        }
        entry
    };
    let folder = json!({"type": "directory", "oid": "d4".repeat(20), "path": "folder", "size": 0});
    files.iter().map(entry).chain([folder]).collect()
}

fn answer_storage(stream: &mut TcpStream, state: &mut State, request: &Request) {
    let digest = request.target.trim_start_matches('/').split('?').next().unwrap();
    let all = state.earlier.values().chain([&state.files]);
    let content = all.flat_map(BTreeMap::values).find(|(content, _)| sha256(content) == digest);
    let Some((content, _)) = content.cloned() else { return send(stream, 404, &[], b"", 0, None) };
    if request.method == "HEAD" {
        return send(stream, 200, &[("accept-ranges", "bytes".to_owned())], b"", content.len(), None);
    }
    let fault =
        state.faults.front().copied().filter(|fault| !matches!(fault, Fault::HubStatus(_) | Fault::OtherCommit));
    if fault.is_some() {
        state.faults.pop_front();
    }
    let range = request.headers.get("range").and_then(|range| range.strip_prefix("bytes="));
    let from = range.and_then(|range| range.split('-').next()).map(|from| from.parse::<usize>().unwrap());
    let (status, mut body) = match from {
        Some(from) if fault != Some(Fault::IgnoreRange) => (206, content[from..].to_vec()),
        _ => (200, content),
    };
    let (length, mut cut) = (body.len(), None);
    match fault {
        Some(Fault::StorageStatus(status)) => return send(stream, status, &[], b"", 0, None),
        Some(Fault::Cut(bytes)) => cut = Some(bytes),
        Some(Fault::Flip) => body[0] ^= 1,
        _ => {}
    }
    send(stream, status, &[], &body, length, cut);
}
