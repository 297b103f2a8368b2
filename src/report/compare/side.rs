//! One side of a comparison.
use indexmap::IndexMap;

use crate::{
    event::Arm,
    host::Host,
    metrics::{METRIC_SCHEMA_VERSION, SampleRow},
    results::{Manifest, RunRecord},
};

/// One side of a comparison.
#[derive(Clone, Copy, Debug)]
pub struct Side<'a> {
    /// What was measured.
    pub manifest: &'a Manifest,
    /// Where it was measured.
    pub host: &'a Host,
    /// The measurements.
    pub samples: &'a [SampleRow],
    /// Which arm of them.
    pub arm: Arm,
    /// The BLAKE3 of the texts that were read for it, by their places in the recipe, where known.
    pub texts: Option<&'a IndexMap<String, String>>,
    /// Version of the metrics' definitions.
    pub metric_schema_version: u32,
}

impl<'a> Side<'a> {
    /// Returns a run as it was measured.
    #[must_use]
    pub fn of(record: &'a RunRecord) -> Self {
        Self {
            manifest: &record.manifest,
            host: &record.manifest.host,
            samples: &record.samples,
            arm: Arm::Candidate,
            texts: record.texts.as_ref(),
            metric_schema_version: METRIC_SCHEMA_VERSION,
        }
    }

    /// Returns a stored baseline as it was measured again, as the baseline arm of a check run, whose
    /// texts are the candidate's.
    #[must_use]
    pub fn rerun(baseline: &'a Manifest, check: &'a RunRecord) -> Self {
        Self { manifest: baseline, arm: Arm::Baseline, texts: None, ..Self::of(check) }
    }

    /// Returns it with the texts of its cell ([`crate::plan::Cell::text_hashes`]).
    #[must_use]
    pub fn with_texts(self, texts: &'a IndexMap<String, String>) -> Self {
        Self { texts: Some(texts), ..self }
    }

    /// Returns it with the version its metrics were defined by.
    #[must_use]
    pub fn with_metric_schema_version(self, metric_schema_version: u32) -> Self {
        Self { metric_schema_version, ..self }
    }

    pub(super) fn run_id(&self) -> &'a str {
        self.samples.first().map_or(&self.manifest.run_id, |row| &row.run_id)
    }
}
