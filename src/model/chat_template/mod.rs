//! Chat templates: a conversation as the text a model was trained on.
//!
//! Templates are Jinja, come with the model and are a stranger's code: they run in bounded time and memory,
//! and see nothing but the conversation. Calls, conversations and what is shown have a greatest depth; a value
//! in between is as deep as steps can nest it, and has a stack on which that much can be freed. They render as
//! transformers' `apply_chat_template` renders them (`transformers.utils.chat_template_utils`). This is the
//! only place that names minijinja.
mod python;

use std::{fmt, io, panic, thread};

use indexmap::IndexMap;
use minijinja::{Environment, Error, ErrorKind, Value, syntax::SyntaxConfig, value::Serde};
use minijinja_contrib::pycompat;
use serde::Serialize;
use serde_json::Value as Json;

use super::{tokenizer::Tokenizer, weights};

/// Most bytes of a template; the longest known has 20 KB. minijinja folds constants in time that grows with the square
/// of an expression's length: a template that is one expression of this length takes it about a second.
const MAX_TEMPLATE_BYTES: usize = 1 << 16;
/// Most bytes of a rendered conversation.
const MAX_OUTPUT_BYTES: usize = 1 << 25;
/// Instructions, and units of 64 bytes of data, a rendering may take: a quarter of a second, and a hundred
/// times what a conversation of a hundred messages takes.
const FUEL: u64 = 1_000_000;
const MAX_DEPTH: usize = 120;
/// The stack a template is read and rendered on. minijinja compares and frees lists in lists, and the
/// expressions it reads, by calls within calls: one instruction or two bytes of a template make one deeper.
/// It is address space; memory is taken as deep as the calls go.
const STACK_BYTES: usize = 1 << 29;

/// Why a conversation could not be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChatTemplateError {
    /// The template is too long.
    #[error("the chat template has {bytes} bytes, more than the {MAX_TEMPLATE_BYTES} that are allowed")]
    TemplateTooLong {
        /// Its bytes.
        bytes: usize,
    },
    /// The template is no Jinja, or uses what is not supported.
    #[error("the chat template is not understood at line {line}: {problem}")]
    Syntax {
        /// Where.
        line: usize,
        /// What is wrong.
        problem: String,
    },
    /// The template itself refuses the conversation.
    #[error("the model's chat template says: {message}")]
    Refused {
        /// In its own words.
        message: String,
    },
    /// The template runs too long or makes too much.
    #[error("the chat template does not come to an end within what is allowed ({what})")]
    TooMuch {
        /// What ran out.
        what: &'static str,
    },
    /// The conversation is of lists in lists in lists.
    #[error("the conversation holds lists or objects more than {MAX_DEPTH} deep in one another")]
    ConversationTooDeep,
    /// There is no thread to render on.
    #[error("no thread can be started for the chat template ({0}); it needs 512 MiB of address space (ulimit -v)")]
    NoThread(io::ErrorKind),
    /// The template fails on this conversation.
    #[error("the chat template fails at line {line}: {problem}")]
    Failed {
        /// Where.
        line: usize,
        /// What went wrong.
        problem: String,
    },
}

/// A conversation, and how to render it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Conversation<'a> {
    /// Messages: objects with `role`, `content`, and whatever the template knows beside them. What is null is
    /// left out.
    pub messages: &'a [Json],
    /// Functions the model may call, as JSON schemas.
    pub tools: Option<&'a [Json]>,
    /// Documents the model may cite.
    pub documents: Option<&'a [Json]>,
    /// Whether the text ends where the model's answer begins.
    pub add_generation_prompt: bool,
    /// The date by a format of C's `strftime`, which some templates tell the model; none where it must not
    /// matter.
    pub strftime_now: Option<fn(&str) -> Option<String>>,
}

/// A model's chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    source: String,
    /// `bos_token` and such, by the names templates use.
    special_tokens: IndexMap<&'static str, String>,
}

/// A message that a template raised.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

#[derive(Serialize)]
struct Context<'a> {
    messages: Vec<Json>,
    tools: Option<&'a [Json]>,
    documents: Option<&'a [Json]>,
    add_generation_prompt: bool,
    #[serde(flatten)]
    special_tokens: &'a IndexMap<&'static str, String>,
}

impl ChatTemplate {
    /// Returns the template of this text. `special_tokens` are texts by the names templates use: `bos_token`,
    /// `eos_token`.
    ///
    /// # Errors
    ///
    /// If it is too long, or no Jinja as supported here.
    pub fn new(source: &str, special_tokens: IndexMap<&'static str, String>) -> Result<Self, ChatTemplateError> {
        if source.len() > MAX_TEMPLATE_BYTES {
            return Err(ChatTemplateError::TemplateTooLong { bytes: source.len() });
        }
        let template = Self { source: without_generation(source), special_tokens };
        on_deep_stack(|| match environment(None).template_from_str(&template.source) {
            Ok(_) => Ok(()),
            Err(error) => Err(template.explain(&error)),
        })?;
        Ok(template)
    }

    /// Returns the template a model's metadata has, if it has one.
    ///
    /// # Errors
    ///
    /// If it is too long, or no Jinja as supported here.
    pub fn from_metadata(
        metadata: &IndexMap<String, weights::Value>,
        tokenizer: &Tokenizer,
    ) -> Result<Option<Self>, ChatTemplateError> {
        let source = metadata.get("tokenizer.chat_template").and_then(weights::Value::as_str);
        let text = |token: u32| String::from_utf8_lossy(tokenizer.piece(token)).into_owned();
        let named = |name: &'static str, token: Option<u32>| token.map(|token| (name, text(token)));
        let special_tokens = named("bos_token", tokenizer.bos()).into_iter().chain(named("eos_token", tokenizer.eos()));
        source.map(|source| Self::new(source, special_tokens.collect())).transpose()
    }

    /// Returns the text of a conversation.
    ///
    /// # Errors
    ///
    /// If the template refuses the conversation, fails on it, or takes more than is allowed.
    pub fn render(&self, conversation: &Conversation<'_>) -> Result<String, ChatTemplateError> {
        let data = [conversation.messages, conversation.tools.unwrap_or(&[]), conversation.documents.unwrap_or(&[])];
        if data.into_iter().flatten().any(|value| !is_within(value, MAX_DEPTH)) {
            return Err(ChatTemplateError::ConversationTooDeep);
        }
        on_deep_stack(|| self.render_here(conversation))
    }

    fn render_here(&self, conversation: &Conversation<'_>) -> Result<String, ChatTemplateError> {
        let environment = environment(conversation.strftime_now);
        let context = Context {
            messages: conversation.messages.iter().map(without_nulls).collect(),
            tools: conversation.tools,
            documents: conversation.documents,
            add_generation_prompt: conversation.add_generation_prompt,
            special_tokens: &self.special_tokens,
        };
        let rendered = environment
            .template_from_str(&self.source)
            .and_then(|template| template.render(Serde(&context)))
            .map_err(|error| self.explain(&error))?;
        if rendered.len() > MAX_OUTPUT_BYTES {
            return Err(ChatTemplateError::TooMuch { what: "bytes of text" });
        }
        Ok(rendered)
    }

    fn explain(&self, error: &Error) -> ChatTemplateError {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut line = error.line().unwrap_or(1);
        while let Some(cause) = source {
            if let Some(Raised(message)) = cause.downcast_ref::<Raised>() {
                return ChatTemplateError::Refused { message: message.clone() };
            }
            if let Some(error) = cause.downcast_ref::<Error>() {
                line = error.line().unwrap_or(line);
                if error.kind() == ErrorKind::OutOfFuel {
                    return ChatTemplateError::TooMuch { what: "steps" };
                }
            }
            source = cause.source();
        }
        let problem = match error.detail() {
            Some(detail) => format!("{}: {detail}", error.kind()),
            None => error.kind().to_string(),
        };
        match error.kind() {
            ErrorKind::SyntaxError => ChatTemplateError::Syntax { line, problem },
            _ if problem.contains("recursion limit") => ChatTemplateError::TooMuch { what: "depth" },
            _ => ChatTemplateError::Failed { line, problem },
        }
    }
}

/// Runs on a stack of [`STACK_BYTES`].
fn on_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, ChatTemplateError> + Send) -> Result<T, ChatTemplateError> {
    thread::scope(|scope| {
        let spawned = thread::Builder::new().stack_size(STACK_BYTES).spawn_scoped(scope, work);
        let thread = spawned.map_err(|error| ChatTemplateError::NoThread(error.kind()))?;
        thread.join().unwrap_or_else(|panic| panic::resume_unwind(panic))
    })
}

/// Returns whether lists and objects are at most so deep in one another.
fn is_within(value: &Json, depth: usize) -> bool {
    let Some(deeper) = depth.checked_sub(1) else { return !value.is_array() && !value.is_object() };
    match value {
        Json::Array(items) => items.iter().all(|item| is_within(item, deeper)),
        Json::Object(fields) => fields.values().all(|field| is_within(field, deeper)),
        _ => true,
    }
}

fn without_nulls(message: &Json) -> Json {
    let Json::Object(fields) = message else { return message.clone() };
    let kept = fields.iter().filter(|(_, value)| !value.is_null());
    Json::Object(kept.map(|(key, value)| (key.clone(), value.clone())).collect())
}

/// Returns the template with `{% generation %}` … `{% endgeneration %}`, which marks what is trained on, as a plain
/// scope: transformers ignores it when it renders, and minijinja does not know it.
fn without_generation(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let name = tag.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        out.push_str(&rest[..start + 2]);
        match name {
            "generation" => out.push_str(&tag.replacen("generation", "with", 1)),
            "endgeneration" => out.push_str(&tag.replacen("endgeneration", "endwith", 1)),
            _ => {
                // The end of a tag may stand inside one of its strings; going on behind its start is always right.
                rest = &rest[start + 2..];
                continue;
            }
        }
        rest = &rest[start + length..];
    }
    out.push_str(rest);
    out
}

fn environment(strftime_now: Option<fn(&str) -> Option<String>>) -> Environment<'static> {
    let mut environment = Environment::new();
    if let Ok(syntax) = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build() {
        environment.set_syntax(syntax);
    }
    environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_DEPTH);
    environment.set_unknown_method_callback(pycompat::unknown_method_callback);
    environment.set_formatter(python::write);
    environment.add_filter("tojson", python::to_json);
    environment.add_filter("string", |value: &Value| python::text(value));
    // Python's strings can be walked, and are sequences; so are its mappings.
    environment.add_test("iterable", |value: &Value| value.as_str().is_some() || value.try_iter().is_ok());
    environment.add_test("sequence", |value: &Value| {
        use minijinja::value::ValueKind::{Map, Seq, String};
        matches!(value.kind(), Seq | Map | String)
    });
    environment.add_function("raise_exception", |message: &Value| -> Result<Value, Error> {
        let message = python::text(message)?;
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    if let Some(strftime_now) = strftime_now {
        environment.add_function("strftime_now", move |format: &str| {
            let problem = || Error::new(ErrorKind::InvalidOperation, format!("no date has the format {format:?}"));
            strftime_now(format).ok_or_else(problem)
        });
    }
    environment
}

#[cfg(test)]
mod tests;
