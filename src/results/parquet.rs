//! The Parquet files of a run; the only file that names polars.
//!
//! Numbers that count are signed (`Int64`), so that differences of columns do not wrap around in
//! readers; what exceeds them is stored as the largest. Values are `Float64`, bit for bit. Text is
//! dictionary-encoded, pages are compressed with Zstd, and the file metadata carries
//! `ruvlab.schema_version`.
use std::{
    fs,
    io::{Cursor, Write},
    path::Path,
};

use polars::prelude::{Column, CompatLevel, DataFrame, NamedFrom, PolarsError, SchemaExt, Series};
use polars_io::{
    SerReader,
    parquet::{
        read::ParquetReader,
        write::{KeyValueMetadata, ParquetCompression, ParquetWriter},
    },
};
use polars_parquet::write::{KeyValue, schema_to_metadata_key};

use super::{
    durable::{FileError, replace},
    record::Manifest,
    summary::Summary,
};
use crate::metrics::{SampleRow, TokenRow};

/// Version of the columns of all three files.
pub const SCHEMA_VERSION: u32 = 1;

const SCHEMA_KEY: &str = "ruvlab.schema_version";

/// Why a Parquet file could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum ParquetError {
    /// The file could not be read or written.
    #[error(transparent)]
    File(#[from] FileError),
    /// It has other columns, or is no Parquet file.
    #[error("{path}: {error}")]
    Content {
        /// The file.
        path: String,
        /// What polars said.
        error: PolarsError,
    },
    /// A newer version wrote it.
    #[error("{path} has columns of version {found}, this ruvlab knows {SCHEMA_VERSION}; use a newer ruvlab")]
    Version {
        /// The file.
        path: String,
        /// Its version.
        found: String,
    },
}

impl ParquetError {
    fn of(path: &Path) -> impl FnOnce(PolarsError) -> Self {
        let path = path.display().to_string();
        move |error| Self::Content { path, error }
    }
}

fn text<'a, R>(name: &str, rows: &'a [R], get: impl Fn(&'a R) -> &'a str) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<&str>>()).into()
}

fn text_or_null<'a, R>(name: &str, rows: &'a [R], get: impl Fn(&'a R) -> Option<&'a str>) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<Option<&str>>>()).into()
}

fn count<R>(name: &str, rows: &[R], get: impl Fn(&R) -> u64) -> Column {
    Series::new(name.into(), rows.iter().map(|row| signed(get(row))).collect::<Vec<i64>>()).into()
}

fn count_or_null<R>(name: &str, rows: &[R], get: impl Fn(&R) -> Option<u64>) -> Column {
    Series::new(name.into(), rows.iter().map(|row| get(row).map(signed)).collect::<Vec<Option<i64>>>()).into()
}

fn flag<R>(name: &str, rows: &[R], get: impl Fn(&R) -> bool) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<bool>>()).into()
}

fn real<R>(name: &str, rows: &[R], get: impl Fn(&R) -> f64) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<f64>>()).into()
}

fn real_or_null<R>(name: &str, rows: &[R], get: impl Fn(&R) -> Option<f64>) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<Option<f64>>>()).into()
}

fn flag_or_null<R>(name: &str, rows: &[R], get: impl Fn(&R) -> Option<bool>) -> Column {
    Series::new(name.into(), rows.iter().map(get).collect::<Vec<Option<bool>>>()).into()
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn write(path: &Path, columns: Vec<Column>) -> Result<(), ParquetError> {
    let mut frame = DataFrame::new_infer_height(columns).map_err(ParquetError::of(path))?;
    // polars names text `string_view` in the Arrow schema it adds, a type pyarrow has no comparisons for.
    let arrow = schema_to_metadata_key(&frame.schema().to_arrow(CompatLevel::oldest()));
    let version = KeyValue { key: SCHEMA_KEY.to_owned(), value: Some(SCHEMA_VERSION.to_string()) };
    let mut bytes = Vec::new();
    ParquetWriter::new(&mut bytes)
        .with_compression(ParquetCompression::Zstd(None))
        .with_key_value_metadata(Some(KeyValueMetadata::Static(vec![arrow, version])))
        .finish(&mut frame)
        .map_err(ParquetError::of(path))?;
    Ok(replace(path, |file| file.write_all(&bytes).map_err(FileError::of("write", path)))?)
}

/// Writes `samples.parquet`.
pub(super) fn write_samples(path: &Path, rows: &[SampleRow]) -> Result<(), ParquetError> {
    write(
        path,
        vec![
            text("run_id", rows, |row| &row.run_id),
            text("cell_hash", rows, |row| &row.cell_hash),
            text("arm", rows, |row| &row.arm),
            count("block", rows, |row| row.block.into()),
            count("slot", rows, |row| row.slot.into()),
            count("launch", rows, |row| row.launch.into()),
            count("rep", rows, |row| row.rep.into()),
            flag("warmup", rows, |row| row.warmup),
            text("phase", rows, |row| &row.phase),
            text("workload", rows, |row| &row.workload),
            count_or_null("step", rows, |row| row.step),
            text_or_null("task", rows, |row| row.task.as_deref()),
            count_or_null("trained_through", rows, |row| row.trained_through.map(u64::from)),
            text("metric", rows, |row| &row.metric),
            real("value", rows, |row| row.value),
            text("unit", rows, |row| &row.unit),
            count("n", rows, |row| row.n),
            count("t_ns", rows, |row| row.t_ns),
            flag("valid", rows, |row| row.valid),
            text_or_null("reason", rows, |row| row.reason.as_deref()),
        ],
    )
}

/// Writes `tokens.parquet`.
pub(super) fn write_tokens(path: &Path, rows: &[TokenRow]) -> Result<(), ParquetError> {
    write(
        path,
        vec![
            text("run_id", rows, |row| &row.run_id),
            text("arm", rows, |row| &row.arm),
            count("launch", rows, |row| row.launch.into()),
            text("workload", rows, |row| &row.workload),
            count("rep", rows, |row| row.rep.into()),
            flag("warmup", rows, |row| row.warmup),
            count("request", rows, |row| row.request.into()),
            count("position", rows, |row| row.position.into()),
            count("token_id", rows, |row| row.token_id.into()),
            count("t_ns", rows, |row| row.t_ns),
            count_or_null("itl_ns", rows, |row| row.itl_ns),
            real_or_null("nll", rows, |row| row.nll),
            real_or_null("reference_nll", rows, |row| row.reference_nll),
            real_or_null("kl_divergence", rows, |row| row.kl_divergence),
            flag_or_null("top1_equal", rows, |row| row.top1_equal),
        ],
    )
}

/// Writes `runs.parquet`: one row, with a column `metric` or `metric[workload]` for each median of
/// the candidate's launches. Files of several runs are put under each other by column name.
pub(super) fn write_run(path: &Path, manifest: &Manifest, summary: &Summary) -> Result<(), ParquetError> {
    let one = [manifest];
    let axes = serde_json::to_string(&manifest.axes).unwrap_or_default();
    let kernel_set = serde_json::to_value(manifest.kernel_set).unwrap_or_default();
    let mut columns = vec![
        text("run_id", &one, |m| &m.run_id),
        text("recipe", &one, |m| &m.recipe),
        text("cell_hash", &one, |m| &m.cell_hash),
        text("kind", &one, |m| m.kind.name()),
        text("state", &one, |m| m.state.name()),
        text_or_null("reason", &one, |m| m.reason.as_deref()),
        text("started_at", &one, |m| &m.started_at),
        text_or_null("ended_at", &one, |m| m.ended_at.as_deref()),
        text("host_id", &one, |m| &m.host.host_id),
        text("ruvlab", &one, |m| &m.host.ruvlab),
        text("commit", &one, |m| &m.host.commit),
        text("kernel_set", &one, |_| kernel_set.as_str().unwrap_or_default()),
        count("threads", &one, |m| m.threads.into()),
        text("model_source", &one, |m| &m.model.source),
        text("model_name", &one, |m| &m.model.name),
        text("model_hash", &one, |m| &m.model.weights_hash),
        text("model_format", &one, |m| &m.model.format),
        count("model_bytes", &one, |m| m.model.weights_bytes),
        count("model_parameters", &one, |m| m.model.parameters),
        // A seed is no count: all 64 bits of it matter.
        Series::new("seed".into(), vec![manifest.seed]).into(),
        text("axes", &one, |_| &axes),
        count("launches_complete", &one, |m| m.launches_complete.into()),
        count("launches_failed", &one, |m| m.launches_failed.into()),
    ];
    for entry in &summary.metrics {
        let name = match entry.workload.as_str() {
            "" => entry.metric.clone(),
            workload => format!("{}[{workload}]", entry.metric),
        };
        columns.push(real(&name, &one, |_| entry.median));
    }
    write(path, columns)
}

/// A file's columns, each read by name and type.
struct Table<'a> {
    path: &'a Path,
    frame: DataFrame,
}

impl<'a> Table<'a> {
    /// Reads a file whole: a mapped one could change under the reader.
    fn read(path: &'a Path) -> Result<Self, ParquetError> {
        let bytes = fs::read(path).map_err(FileError::of("read", path))?;
        let mut reader = ParquetReader::new(Cursor::new(bytes));
        let metadata = reader.get_metadata().map_err(ParquetError::of(path))?;
        let pairs = metadata.key_value_metadata().iter().flatten();
        if let Some(found) = pairs.filter(|pair| pair.key == SCHEMA_KEY).find_map(|pair| pair.value.clone())
            && found.parse::<u32>().is_ok_and(|found| found > SCHEMA_VERSION)
        {
            return Err(ParquetError::Version { path: path.display().to_string(), found });
        }
        let frame = reader.finish().map_err(ParquetError::of(path))?;
        Ok(Self { path, frame })
    }

    fn column<T>(&self, name: &str, get: impl FnOnce(&Column) -> Result<Vec<T>, PolarsError>) -> Cells<T> {
        self.frame.column(name).and_then(get).map(Vec::into_iter).map_err(ParquetError::of(self.path))
    }

    /// Reads a column that earlier versions did not write; without it, there are no values.
    fn added<T>(
        &self,
        name: &str,
        get: impl FnOnce(&Column) -> Result<Vec<Option<T>>, PolarsError>,
    ) -> Cells<Option<T>> {
        if self.frame.column(name).is_err() {
            let none: Vec<Option<T>> = std::iter::repeat_with(|| None).take(self.frame.height()).collect();
            return Ok(none.into_iter());
        }
        self.column(name, get)
    }

    fn text_or_null(&self, name: &str) -> Cells<Option<String>> {
        self.column(name, |column| Ok(column.str()?.iter().map(|text| text.map(str::to_owned)).collect()))
    }

    fn count_or_null(&self, name: &str) -> Cells<Option<u64>> {
        let unsigned = |value: Option<i64>| value.and_then(|value| u64::try_from(value).ok());
        self.column(name, |column| Ok(column.i64()?.iter().map(unsigned).collect()))
    }

    fn text(&self, name: &str) -> Cells<String> {
        self.column(name, |column| Ok(column.str()?.iter().map(|text| text.unwrap_or_default().to_owned()).collect()))
    }

    fn count(&self, name: &str) -> Cells<u64> {
        let unsigned = |value: Option<i64>| u64::try_from(value.unwrap_or_default()).unwrap_or_default();
        self.column(name, |column| Ok(column.i64()?.iter().map(unsigned).collect()))
    }

    fn number(&self, name: &str) -> Cells<u32> {
        let narrow = |value: Option<i64>| u32::try_from(value.unwrap_or_default()).unwrap_or(u32::MAX);
        self.column(name, |column| Ok(column.i64()?.iter().map(narrow).collect()))
    }

    fn flag(&self, name: &str) -> Cells<bool> {
        self.column(name, |column| Ok(column.bool()?.iter().map(Option::unwrap_or_default).collect()))
    }

    fn real(&self, name: &str) -> Cells<f64> {
        self.column(name, |column| Ok(column.f64()?.iter().map(|value| value.unwrap_or(f64::NAN)).collect()))
    }
}

type Cells<T> = Result<std::vec::IntoIter<T>, ParquetError>;

/// Reads `samples.parquet`.
pub(super) fn read_samples(path: &Path) -> Result<Vec<SampleRow>, ParquetError> {
    let table = Table::read(path)?;
    let (mut run_id, mut cell_hash, mut arm) = (table.text("run_id")?, table.text("cell_hash")?, table.text("arm")?);
    let (mut block, mut slot) = (table.number("block")?, table.number("slot")?);
    let (mut launch, mut rep, mut warmup) = (table.number("launch")?, table.number("rep")?, table.flag("warmup")?);
    let (mut phase, mut workload) = (table.text("phase")?, table.text("workload")?);
    let (mut step, mut task) = (table.count_or_null("step")?, table.text_or_null("task")?);
    let mut trained_through = table.count_or_null("trained_through")?;
    let (mut metric, mut value, mut unit) = (table.text("metric")?, table.real("value")?, table.text("unit")?);
    let (mut n, mut t_ns) = (table.count("n")?, table.count("t_ns")?);
    let (mut valid, mut reason) = (table.flag("valid")?, table.text_or_null("reason")?);
    // Columns of one frame have one length, so no row is cut short.
    let rows = std::iter::from_fn(|| {
        Some(SampleRow {
            run_id: run_id.next()?,
            cell_hash: cell_hash.next()?,
            arm: arm.next()?,
            block: block.next()?,
            slot: slot.next()?,
            launch: launch.next()?,
            rep: rep.next()?,
            warmup: warmup.next()?,
            phase: phase.next()?,
            workload: workload.next()?,
            step: step.next()?,
            task: task.next()?,
            trained_through: trained_through.next()?.and_then(|value| u32::try_from(value).ok()),
            metric: metric.next()?,
            value: value.next()?,
            unit: unit.next()?,
            n: n.next()?,
            t_ns: t_ns.next()?,
            valid: valid.next()?,
            reason: reason.next()?,
        })
    });
    Ok(rows.collect())
}

/// Reads `tokens.parquet`.
pub(super) fn read_tokens(path: &Path) -> Result<Vec<TokenRow>, ParquetError> {
    let table = Table::read(path)?;
    let (mut run_id, mut arm, mut launch) = (table.text("run_id")?, table.text("arm")?, table.number("launch")?);
    let (mut workload, mut rep, mut warmup) = (table.text("workload")?, table.number("rep")?, table.flag("warmup")?);
    let (mut request, mut position) = (table.number("request")?, table.number("position")?);
    let (mut token_id, mut t_ns) = (table.number("token_id")?, table.count("t_ns")?);
    let mut itl_ns = table.count_or_null("itl_ns")?;
    // Files of before there were scores lack these columns.
    let real = |name: &str| table.added(name, |column| Ok(column.f64()?.iter().collect()));
    let (mut nll, mut reference_nll, mut kl_divergence) =
        (real("nll")?, real("reference_nll")?, real("kl_divergence")?);
    let mut top1_equal = table.added("top1_equal", |column| Ok(column.bool()?.iter().collect()))?;
    let rows = std::iter::from_fn(|| {
        Some(TokenRow {
            run_id: run_id.next()?,
            arm: arm.next()?,
            launch: launch.next()?,
            workload: workload.next()?,
            rep: rep.next()?,
            warmup: warmup.next()?,
            request: request.next()?,
            position: position.next()?,
            token_id: token_id.next()?,
            t_ns: t_ns.next()?,
            itl_ns: itl_ns.next()?,
            nll: nll.next()?,
            reference_nll: reference_nll.next()?,
            kl_divergence: kl_divergence.next()?,
            top1_equal: top1_equal.next()?,
        })
    });
    Ok(rows.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_before_there_were_scores_are_read_without_them() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("tokens.parquet");
        let rows = [TokenRow { run_id: "r".to_owned(), position: 8, itl_ns: Some(4), ..TokenRow::default() }];
        write_tokens(&path, &rows).unwrap();
        let frame = Table::read(&path).unwrap().frame;
        let old = frame.columns()[..11].to_vec();
        assert_eq!(old[10].name().as_str(), "itl_ns");
        write(&path, old).unwrap();
        assert_eq!(read_tokens(&path).unwrap(), rows);
    }
}
