//! `ruvlab adapter inspect`
use clap::Args;
use serde_json::json;

use crate::{
    adapt::{compose, file, peft},
    engine::LowRank,
    exit,
    report::tables::{Column, Table},
    ui::Printer,
};

use super::{
    super::{Failure, Format, Global},
    subject::Subject,
};

/// Show what an adapter changes in a model: of each ΔW its size and how many directions it has.
#[derive(Debug, Args)]
pub(in super::super) struct Arguments {
    #[command(flatten)]
    subject: Subject,
}

pub(super) fn execute(global: &Global, arguments: &Arguments) -> Result<u8, Failure> {
    let Arguments { subject } = arguments;
    let (weights, adapter) = subject.open(global)?;
    let hash = file::content_hash(&adapter);
    let parameters: usize = adapter.values().map(LowRank::parameters).sum();
    let norm = |values: &[f32]| values.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let mut total = 0.0;
    let decomposed = adapter.values().any(|part| part.magnitude.is_some());
    let (mut places, mut rows) = (Vec::new(), Vec::new());
    for (place, part) in &adapter {
        let (out, width) = place.target.shape(weights.spec());
        let module = peft::module(place.target);
        let singular = compose::singular_values(part);
        let size = singular.iter().map(|s| s * s).sum::<f64>().sqrt();
        let (largest, effective) = (singular.first().copied().unwrap_or(0.0), compose::effective_rank(&singular));
        let (a, b) = (norm(&part.a), norm(&part.b));
        total += size * size;
        places.push(json!({
            "layer": place.layer, "module": module, "rows": out, "columns": width, "r": part.rank,
            "scale": part.scale, "dora": part.magnitude.is_some(), "norm_a": a, "norm_b": b, "norm": size, "spectral_norm": largest,
            "effective_rank": effective, "singular_values": singular,
        }));
        rows.push(vec![
            place.layer.to_string().into(),
            module.into(),
            format!("{out} x {width}").into(),
            part.rank.to_string().into(),
            part.scale.to_string().into(),
            format!("{a:.4}").into(),
            format!("{b:.4}").into(),
            format!("{size:.4}").into(),
            format!("{largest:.4}").into(),
            format!("{effective:.2}").into(),
        ]);
    }
    let out = Printer::stdout();
    match global.format {
        Format::Json => out.json(&json!({
            "adapter": subject.adapter, "hash": hash, "parameters": parameters, "norm": total.sqrt(), "places": places,
        }))?,
        Format::Human => {
            let columns = vec![
                Column::number("layer", 0),
                Column::text("module", 0),
                Column::text("shape", 4),
                Column::number("r", 1),
                Column::number("scale", 3),
                Column::number("|A|", 5),
                Column::number("|B|", 5),
                Column::number("|ΔW|", 0),
                Column::number("largest", 2),
                Column::number("effective\nrank", 0),
            ];
            let title = format!("{}: {} matrices, {parameters} numbers", subject.adapter.display(), adapter.len());
            let mut notes = vec![format!("|ΔW| of all together {:.4}; content {}", total.sqrt(), &hash[..12])];
            if decomposed {
                let what = "decomposed (DoRA): ΔW is what is added before rows are brought to their magnitudes";
                notes.push(what.to_owned());
            }
            out.table(&Table { title, columns, rows, notes })?;
        }
    }
    Ok(exit::OK)
}
