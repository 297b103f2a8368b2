//! Reading config.json: every value checked, every problem with its key.
use serde_json::{Map, Value as Json};

use super::FolderError;

/// A section of config.json, with its name for messages.
#[derive(Clone, Copy)]
pub(super) struct Section<'a> {
    pub(super) map: &'a Map<String, Json>,
    pub(super) name: &'a str,
}

impl<'a> Section<'a> {
    pub(super) fn new(map: &'a Map<String, Json>) -> Self {
        Self { map, name: "" }
    }

    /// Returns a value that is there and not null.
    pub(super) fn get(self, key: &str) -> Option<&'a Json> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn wrong(self, key: &str, problem: impl Into<String>) -> FolderError {
        FolderError::Setting { key: format!("{}{key}", self.name), problem: problem.into() }
    }

    pub(super) fn optional<T>(
        self,
        key: &str,
        what: &str,
        read: impl Fn(&'a Json) -> Option<T>,
    ) -> Result<Option<T>, FolderError> {
        let found = |value: &'a Json| read(value).ok_or_else(|| self.wrong(key, format!("is {value}, not {what}")));
        self.get(key).map(found).transpose()
    }

    pub(super) fn optional_count(self, key: &str) -> Result<Option<u64>, FolderError> {
        // llama.cpp reads counts as 32 bits.
        let read = |value: &Json| value.as_u64().filter(|count| u32::try_from(*count).is_ok());
        self.optional(key, "a count of at most 32 bits", read)
    }

    pub(super) fn count(self, key: &str) -> Result<u64, FolderError> {
        self.optional_count(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub(super) fn optional_number(self, key: &str) -> Result<Option<f64>, FolderError> {
        self.optional(key, "a number", |value| value.as_f64().filter(|number| number.is_finite()))
    }

    pub(super) fn number(self, key: &str) -> Result<f64, FolderError> {
        self.optional_number(key)?.ok_or_else(|| self.wrong(key, "is missing"))
    }

    pub(super) fn optional_flag(self, key: &str) -> Result<Option<bool>, FolderError> {
        self.optional(key, "true or false", Json::as_bool)
    }

    pub(super) fn optional_text(self, key: &str) -> Result<Option<&'a str>, FolderError> {
        self.optional(key, "a text", Json::as_str)
    }

    pub(super) fn section(self, key: &'a str) -> Result<Option<Self>, FolderError> {
        Ok(self.optional(key, "a map", Json::as_object)?.map(|map| Section { map, name: key_prefix(key) }))
    }

    pub(super) fn numbers(self, key: &str) -> Result<Option<Vec<f32>>, FolderError> {
        let read = |value: &Json| {
            let numbers = value.as_array()?.iter().map(|number| number.as_f64().map(|number| number as f32));
            numbers.collect::<Option<Vec<f32>>>().filter(|numbers| numbers.iter().all(|number| *number > 0.0))
        };
        self.optional(key, "a list of numbers above 0", read)
    }

    /// Refuses a setting that changes the numbers in a way that nothing here knows.
    pub(super) fn refuse(self, keys: &[&str]) -> Result<(), FolderError> {
        for key in keys {
            if let Some(value) = self.get(key).filter(|value| **value != Json::Bool(false)) {
                return Err(self.wrong(key, format!("is {value}: not supported")));
            }
        }
        Ok(())
    }
}

fn key_prefix(key: &str) -> &'static str {
    match key {
        "rope_parameters" => "rope_parameters.",
        "rope_scaling" => "rope_scaling.",
        "full_attention" => "rope_parameters.full_attention.",
        _ => "rope_parameters.sliding_attention.",
    }
}
