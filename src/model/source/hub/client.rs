//! The hub's client, and what it does not do: digests of large files before they are fetched.
//!
//! `hf-hub`'s blocking interface has no streams, and its listing does not read the digest the hub
//! gives (`lfs.oid`); so its async interface runs on a small runtime of our own, and the digest is
//! asked for with the same HTTP library.
use std::{env, fs, future::Future, time::Duration};

use futures::StreamExt;
use hf_hub::{
    HFClient, HFError,
    repository::{HFRepository, ModelInfo, RepoTreeEntry, RepoTypeModel},
};
use reqwest::{StatusCode, Url, header};
use tokio::runtime::Runtime;

use super::{Card, HubError, ListedFile, names};
use crate::model::source::HubSource;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// The longest silence in an answer.
const READ_TIMEOUT: Duration = Duration::from_secs(60);
const MAX_FILES: usize = 20_000;
const ATTEMPTS: u32 = 5;
pub(super) const FIRST_DELAY: Duration = Duration::from_millis(200);

/// A connection to the hub.
pub(crate) struct Client {
    runtime: Runtime,
    hub: HFClient,
    /// Follows no redirect: the digest is in the hub's own answer, not in that of its storage.
    direct: reqwest::Client,
    token: Option<String>,
}

/// How a stream of bytes ended too early.
pub(super) enum StreamError {
    /// The connection broke; what came before is good.
    Cut(String),
    /// The other side sent the whole file where a part was asked for.
    Whole,
    /// The bytes could not be taken.
    Sink(HubError),
    /// There is no use in trying again.
    Hub(HubError),
}

/// Returns the token that may be sent, from where the hub's own tools look for it.
fn token() -> Option<String> {
    let named = |name: &str| env::var(name).ok().filter(|value| !value.trim().is_empty());
    if named("HF_HUB_DISABLE_IMPLICIT_TOKEN").is_some() {
        return None;
    }
    let read = |path: std::path::PathBuf| fs::read_to_string(path).ok().filter(|token| !token.trim().is_empty());
    let token = named("HF_TOKEN")
        .or_else(|| named("HF_TOKEN_PATH").and_then(|path| read(path.into())))
        .or_else(|| read(hf_hub::hf_home().join("token")));
    token.map(|token| token.trim().to_owned())
}

impl Client {
    /// Returns a connection to the hub at `HF_ENDPOINT`; nothing is sent yet.
    pub(crate) fn new() -> Result<Self, HubError> {
        let failed =
            |problem: String| HubError::Network { doing: "prepare the connection to the hub".to_owned(), problem };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| failed(error.to_string()))?;
        // A redirect must not lead out of the encryption that the hub's own address promises.
        let encrypted = env::var("HF_ENDPOINT").map_or(true, |endpoint| !is_plain(&endpoint));
        let http = || {
            reqwest::Client::builder()
                .https_only(encrypted)
                .user_agent(concat!("ruvlab/", env!("CARGO_PKG_VERSION")))
                .connect_timeout(CONNECT_TIMEOUT)
                .read_timeout(READ_TIMEOUT)
        };
        let build = |builder: reqwest::ClientBuilder| builder.build().map_err(|error| failed(plain(error)));
        let direct = build(http().redirect(reqwest::redirect::Policy::none()))?;
        let token = token();
        let mut hub = HFClient::builder().client(build(http())?).retry_max_attempts(ATTEMPTS as usize - 1);
        if let Some(token) = &token {
            hub = hub.token(token.clone());
        }
        let hub = hub.cache_enabled(false).build().map_err(|error| failed(error.to_string()))?;
        Ok(Self { runtime, hub, direct, token })
    }

    fn repository(&self, source: &HubSource) -> HFRepository<RepoTypeModel> {
        self.hub.model(source.owner.clone(), source.name.clone())
    }

    fn error(&self, source: &HubSource, what: &str, error: HFError) -> HubError {
        let denied = |status: StatusCode| HubError::Denied {
            repository: source.repository(),
            endpoint: self.hub.endpoint().to_owned(),
            status: status.as_u16(),
            with_token: self.token.is_some(),
        };
        let network = |problem: String| HubError::Network { doing: format!("get {what}"), problem };
        match error {
            HFError::AuthRequired { context } | HFError::Forbidden { context } => denied(context.status),
            HFError::Http { context } => match context.status {
                StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => denied(context.status),
                StatusCode::NOT_FOUND => HubError::NotFound(what.to_owned()),
                status => network(format!("the hub answers {status}")),
            },
            HFError::RepoNotFound { .. } | HFError::RevisionNotFound { .. } | HFError::EntryNotFound { .. } => {
                HubError::NotFound(what.to_owned())
            }
            HFError::RateLimited { .. } => network("the hub asks to slow down (HTTP 429)".to_owned()),
            HFError::Request { source, .. } => network(plain(source)),
            other => network(other.to_string()),
        }
    }

    /// Returns a repository's files at the commit a revision stands for now.
    pub(crate) fn card(&self, source: &HubSource, revision: Option<&str>) -> Result<Card, HubError> {
        let repository = self.repository(source);
        let name = source.repository();
        let what = revision.map_or_else(|| name.clone(), |revision| format!("{name} at {revision}"));
        let info = repository.info().maybe_revision(revision.map(str::to_owned)).send();
        let info = self.runtime.block_on(info).map_err(|error| self.error(source, &what, error))?;
        let commit = info.sha.clone().filter(|commit| names::is_commit(commit));
        let unclear = |problem: &str| HubError::Answer { about: what.clone(), problem: problem.to_owned() };
        let commit = commit.ok_or_else(|| unclear("it names no commit"))?;
        let is_commit = |asked: &&str| names::is_commit(&asked.to_ascii_lowercase());
        if revision.filter(is_commit).is_some_and(|asked| !asked.eq_ignore_ascii_case(&commit)) {
            return Err(unclear(&format!("it speaks of commit {commit}")));
        }
        let entries = self.runtime.block_on(async {
            let entries =
                repository.list_tree().revision(commit.clone()).recursive(true).limit(MAX_FILES + 1).send()?;
            entries.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<_>, _>>()
        });
        let entries = entries.map_err(|error| self.error(source, &format!("the list of files of {what}"), error))?;
        if entries.len() > MAX_FILES {
            return Err(unclear(&format!("it lists more than {MAX_FILES} files")));
        }
        let files = entries.into_iter().filter_map(|entry| match entry {
            RepoTreeEntry::File { path, size, lfs, .. } => {
                let sha256 = lfs.and_then(|lfs| lfs.sha256).filter(|digest| names::is_sha256(digest));
                Some(ListedFile { path, size, sha256 })
            }
            RepoTreeEntry::Directory { .. } => None,
        });
        Ok(Card { repository: name, commit, licence: licence(&info), files: files.collect() })
    }

    /// Returns the SHA-256 the hub keeps of a file; none for small files, which it keeps in git.
    pub(super) fn digest(&self, source: &HubSource, commit: &str, path: &str) -> Result<Option<String>, HubError> {
        let what = format!("{path} of {}", source.repository());
        let network = |problem: String| HubError::Network { doing: format!("get {what}"), problem };
        let mut url = Url::parse(&format!("{}/{}/resolve/{commit}", self.hub.endpoint(), source.repository()))
            .map_err(|error| network(error.to_string()))?;
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.extend(path.split('/'));
        }
        let send = || {
            let mut request = self.direct.head(url.clone());
            if let Some(token) = &self.token {
                request = request.bearer_auth(token);
            }
            request.send()
        };
        let answer = self.runtime.block_on(with_retries(send)).map_err(|error| network(plain(error)))?;
        let status = answer.status();
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(HubError::Denied {
                repository: source.repository(),
                endpoint: self.hub.endpoint().to_owned(),
                status: status.as_u16(),
                with_token: self.token.is_some(),
            }),
            StatusCode::NOT_FOUND => Err(HubError::NotFound(what)),
            status if status.is_client_error() || status.is_server_error() => {
                Err(network(format!("the hub answers {status}")))
            }
            _ => {
                let headers = answer.headers();
                let tag = headers.get("x-linked-etag").or_else(|| headers.get(header::ETAG));
                let tag = tag.and_then(|tag| tag.to_str().ok()).unwrap_or_default();
                let tag = tag.trim_start_matches("W/").trim_matches('"');
                Ok(names::is_sha256(tag).then(|| tag.to_owned()))
            }
        }
    }

    /// Gives a file's bytes from `from` on to `take`.
    pub(super) fn stream(
        &self,
        source: &HubSource,
        commit: &str,
        file: &ListedFile,
        from: u64,
        take: &mut dyn FnMut(&[u8]) -> Result<(), HubError>,
    ) -> Result<(), StreamError> {
        let what = format!("{} of {}", file.path, source.repository());
        let repository = self.repository(source);
        self.runtime.block_on(async {
            let range = (from > 0).then_some(from..file.size);
            let opened = repository.download_file_stream().filename(file.path.clone()).revision(commit.to_owned());
            let (length, mut stream) = match opened.maybe_range(range).send().await {
                Ok(opened) => opened,
                Err(error) => return Err(StreamError::Hub(self.error(source, &what, error))),
            };
            if from > 0 && length == Some(file.size) {
                return Err(StreamError::Whole);
            }
            while let Some(piece) = stream.next().await {
                match piece {
                    Ok(piece) => take(&piece).map_err(StreamError::Sink)?,
                    Err(HFError::Request { source, .. }) => return Err(StreamError::Cut(plain(source))),
                    Err(error) => return Err(StreamError::Cut(error.to_string())),
                }
            }
            Ok(())
        })
    }
}

/// Returns whether an address asks for plain HTTP; schemes mean the same in capitals.
fn is_plain(endpoint: &str) -> bool {
    Url::parse(endpoint).is_ok_and(|url| url.scheme() == "http")
}

/// Sends a request until it is answered by anything but a passing trouble, five times at most.
async fn with_retries<F: Future<Output = Result<reqwest::Response, reqwest::Error>>>(
    send: impl Fn() -> F,
) -> Result<reqwest::Response, reqwest::Error> {
    let mut delay = FIRST_DELAY;
    for _ in 1..ATTEMPTS {
        match send().await {
            Ok(answer) if answer.status().is_server_error() || answer.status() == StatusCode::TOO_MANY_REQUESTS => {}
            Err(error) if error.is_connect() || error.is_timeout() => {}
            answer => return answer,
        }
        tokio::time::sleep(delay).await;
        delay *= 2;
    }
    send().await
}

/// Returns an error's message and its causes' without the address, which may hold a signature.
fn plain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Returns the licence of the model card, or of its tags.
fn licence(info: &ModelInfo) -> Option<String> {
    let card = info.card_data.as_ref();
    let field = |name: &str| card.and_then(|card| card.get(name)).and_then(|value| value.as_str());
    let tag = info.tags.iter().flatten().find_map(|tag| tag.strip_prefix("license:"));
    let licence = match (field("license"), field("license_name")) {
        (Some("other"), Some(name)) => format!("other ({name})"),
        (Some(licence), _) => licence.to_owned(),
        (None, _) => tag?.to_owned(),
    };
    Some(licence.chars().filter(|c| !c.is_control()).take(100).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_address_that_says_so_is_not_encrypted() {
        assert!(is_plain("http://127.0.0.1:80") && is_plain("HTTP://hub"));
        for endpoint in ["https://hub", "HTTPS://hub", " Https://hub", "hub", ""] {
            assert!(!is_plain(endpoint), "{endpoint:?}");
        }
    }
}
