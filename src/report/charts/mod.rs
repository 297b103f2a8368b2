//! Charts: SVG drawn by plotters, PNG rendered from that very SVG with the bundled font, and the
//! plotted numbers as CSV. The only module that names plotters.
//!
//! A chart that lacks its data is not drawn; what is missing is returned instead.
mod adapt;
mod cache;
mod canvas;
mod cells;
mod continual;
mod csv;
mod forest;
mod frame;
mod heatmap;
mod itl_ecdf;
mod kl;
mod palette;
mod pareto;
mod png;
mod scale;
mod schedule;
mod sona;
mod text;
mod throughput;
mod training;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use super::{gate::GateReport, tables::BaselineCell};
use crate::{
    adapt::schedule::Rate,
    results::{RunRecord, TokenRow},
};
use cells::Cells;

/// Why charts could not be drawn.
#[derive(Debug, thiserror::Error)]
pub enum ChartError {
    /// plotters said no.
    #[error("cannot draw {chart}: {message}")]
    Draw {
        /// The chart.
        chart: String,
        /// Why.
        message: String,
    },
    /// The SVG could not be made a PNG.
    #[error("cannot render {chart} as PNG: {message}")]
    Render {
        /// The chart.
        chart: String,
        /// Why.
        message: String,
    },
    /// A file could not be written.
    #[error("cannot write {path}: {source}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
}

/// A chart, drawn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chart {
    /// The stem of its files, such as `throughput`.
    pub name: String,
    /// What it compares.
    pub title: String,
    /// The drawing: a whole SVG document, white background.
    pub svg: String,
    /// What is drawn, as numbers.
    pub csv: String,
}

/// A chart that was not drawn.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Skipped {
    /// Its name.
    pub name: String,
    /// What is missing.
    pub reason: String,
}

/// The files of one chart.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ChartFile {
    /// The stem of its files.
    pub name: String,
    /// What it compares.
    pub title: String,
    /// The drawing.
    pub svg: PathBuf,
    /// The same as pixels, two for each unit of the drawing.
    pub png: PathBuf,
    /// The plotted numbers.
    pub csv: PathBuf,
}

/// What became of all charts.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Drawn {
    /// Those that were drawn.
    pub files: Vec<ChartFile>,
    /// Those that were not.
    pub skipped: Vec<Skipped>,
}

/// A chart, or what it lacks.
type Attempt = Result<Result<Chart, Skipped>, ChartError>;

fn skipped(name: &str, reason: &str) -> Attempt {
    Ok(Err(Skipped { name: name.to_owned(), reason: reason.to_owned() }))
}

/// Returns every chart these runs have data for, in memory. `baseline` names the cell that others are
/// compared with.
///
/// # Errors
///
/// If a drawing fails.
pub fn draw(
    records: &[(RunRecord, Vec<TokenRow>)],
    baseline: Option<&BaselineCell>,
) -> Result<(Vec<Chart>, Vec<Skipped>), ChartError> {
    let cells = Cells::new(records, baseline);
    let mut attempts = vec![throughput::draw(&cells)?];
    attempts.extend(itl_ecdf::draw(&cells)?);
    attempts.push(pareto::draw(&cells)?);
    attempts.extend(kl::draw(&cells)?.into_iter().map(Ok));
    attempts.extend(continual::draw(&cells)?.into_iter().map(Ok));
    attempts.extend(cache::draw(&cells)?.into_iter().map(Ok));
    attempts.extend(training::draw(&cells)?.into_iter().map(Ok));
    attempts.extend(adapt::draw(&cells)?.into_iter().map(Ok));
    attempts.extend(sona::draw(&cells)?.into_iter().map(Ok));
    attempts.push(heatmap::draw(&cells)?);
    attempts.push(forest::of_cells(&cells)?);
    let (mut charts, mut gone) = (Vec::new(), Vec::new());
    for attempt in attempts {
        match attempt {
            Ok(chart) => charts.push(chart),
            Err(skipped) => gone.push(skipped),
        }
    }
    Ok((charts, gone))
}

/// Draws every chart these runs have data for, and writes `NAME.svg`, `NAME.png` and `NAME.csv` into
/// `folder`, which is made if need be.
///
/// # Errors
///
/// If a drawing fails or a file cannot be written.
pub fn draw_all(
    records: &[(RunRecord, Vec<TokenRow>)],
    baseline: Option<&BaselineCell>,
    folder: &Path,
) -> Result<Drawn, ChartError> {
    let (charts, skipped) = draw(records, baseline)?;
    let files = charts.iter().map(|chart| write(chart, folder)).collect::<Result<_, _>>()?;
    Ok(Drawn { files, skipped })
}

/// Returns the picture of gates: every change with its interval and the threshold it is held to.
///
/// # Errors
///
/// If the drawing fails.
pub fn draw_gates(reports: &[GateReport]) -> Result<Result<Chart, Skipped>, ChartError> {
    forest::of_gates(reports)
}

/// Returns the picture of a schedule: the learning rate of every step, and the momentum below where it
/// moves.
///
/// # Errors
///
/// If the drawing fails.
pub fn draw_schedule(title: &str, rates: &[Rate]) -> Result<Chart, ChartError> {
    schedule::draw(title, rates)
}

/// Writes a chart's three files into `folder`, which is made if need be.
///
/// # Errors
///
/// If the SVG cannot be rendered or a file cannot be written.
pub fn write(chart: &Chart, folder: &Path) -> Result<ChartFile, ChartError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| ChartError::Write { path, source }
    };
    fs::create_dir_all(folder).map_err(failed(folder))?;
    let path = |extension: &str| folder.join(format!("{}.{extension}", chart.name));
    let files = ChartFile {
        name: chart.name.clone(),
        title: chart.title.clone(),
        svg: path("svg"),
        png: path("png"),
        csv: path("csv"),
    };
    let pixels =
        png::render(&chart.svg).map_err(|message| ChartError::Render { chart: chart.name.clone(), message })?;
    fs::write(&files.svg, &chart.svg).map_err(failed(&files.svg))?;
    fs::write(&files.png, pixels).map_err(failed(&files.png))?;
    fs::write(&files.csv, &chart.csv).map_err(failed(&files.csv))?;
    Ok(files)
}

#[cfg(test)]
mod tests;
