//! Adapters on candle tensors, and what they add to a product.
use std::{collections::BTreeMap, ops::Range, sync::Arc};

use candle_core::{Result, Tensor};

use super::weights::Model;
use crate::{
    engine::{Adapter, Choice, LowRank, Place, Target, attached::Attached, mixture::Choices},
    model::{decoder::Step, spec::ModelSpec},
};

/// `Aᵀ` and `scale · Bᵀ`, so that rows are multiplied as they are.
struct Factors {
    down: Tensor,
    up: Tensor,
    /// What the columns of the result are multiplied by, where the change is a decomposed one.
    columns: Option<Tensor>,
    /// How rows choose among its ranks, where they are of several adapters.
    choice: Option<Choice>,
}

/// Returns what A made of rows, with what each has chosen.
fn choose(choice: &Choice, narrow: &Tensor) -> Result<Tensor> {
    let mut rows = narrow.to_vec2::<f32>()?;
    rows.iter_mut().for_each(|row| choice.apply(row));
    Tensor::from_vec(rows.concat(), narrow.shape(), narrow.device())
}

/// An adapter as tensors.
pub(super) struct Ready(BTreeMap<Place, Factors>);

impl Ready {
    pub(super) fn new(adapter: &Adapter, choices: &Choices, model: &Model) -> Result<Self> {
        let device = &model.device;
        let factors = |(place, part): (&Place, &LowRank)| {
            let LowRank { rank, scale, a, b, magnitude } = part;
            let down = Tensor::from_slice(a, (*rank, a.len() / rank), device)?.t()?.contiguous()?;
            let up = (Tensor::from_slice(b, (b.len() / rank, *rank), device)?.t()? * f64::from(*scale))?;
            let mut columns = None;
            if magnitude.is_some() {
                let matrix = model.matrix(*place)?.flatten_all()?.to_vec1::<f32>()?;
                let row = |row: usize, out: &mut [f32]| out.copy_from_slice(&matrix[row * out.len()..][..out.len()]);
                columns = part.factors(row).map(|values| Tensor::new(values, device)).transpose()?;
            }
            let choice = choices.get(place).cloned();
            Ok((*place, Factors { down, up: up.contiguous()?, columns, choice }))
        };
        Ok(Self(adapter.iter().map(factors).collect::<Result<_>>()?))
    }
}

/// Rows that have an adapter.
pub(super) type Run = (Range<usize>, Arc<Ready>);

/// Returns products with what the rows' adapters add to them: inputs `[N, I]`, products `[N, O]` of the
/// matrices of these targets one after the other.
pub(super) fn add(
    runs: &[Run],
    spec: &ModelSpec,
    layer: usize,
    targets: &[Target],
    inputs: &Tensor,
    products: Tensor,
) -> Result<Tensor> {
    let place = |target: Target| Place { layer, target };
    let adds = |(_, ready): &&Run| targets.iter().any(|&target| ready.0.contains_key(&place(target)));
    let (mut pieces, mut done) = (Vec::new(), 0);
    for (rows, ready) in runs.iter().filter(adds) {
        if done < rows.start {
            pieces.push(products.narrow(0, done, rows.start - done)?);
        }
        done = rows.end;
        let inputs = inputs.narrow(0, rows.start, rows.len())?.contiguous()?;
        let (mut parts, mut start) = (Vec::with_capacity(targets.len()), 0);
        for &target in targets {
            let (width, _) = target.shape(spec);
            let own = products.narrow(0, rows.start, rows.len())?.narrow(1, start, width)?;
            start += width;
            parts.push(match ready.0.get(&place(target)) {
                None => own,
                Some(Factors { down, up, columns, choice }) => {
                    let narrow = inputs.matmul(down)?;
                    let narrow = choice.as_ref().map_or(Ok(narrow.clone()), |choice| choose(choice, &narrow))?;
                    let whole = (own + narrow.matmul(up)?)?;
                    columns.as_ref().map_or(Ok(whole.clone()), |columns| whole.broadcast_mul(columns))?
                }
            });
        }
        pieces.push(Tensor::cat(&parts, 1)?);
    }
    if pieces.is_empty() {
        return Ok(products);
    }
    let rows = products.dim(0)?;
    if done < rows {
        pieces.push(products.narrow(0, done, rows - done)?);
    }
    Tensor::cat(&pieces, 0)
}

/// Returns the runs of a step's rows, and those of the rows that give logits.
pub(super) fn lay_out(adapters: &Attached<Ready>, step: &Step) -> [Vec<Run>; 2] {
    let (mut rows, mut logit_rows, mut logits) = (Vec::new(), Vec::new(), 0);
    for segment in &step.segments {
        let wanted = step.logit_rows[logits..].iter().take_while(|row| (**row as usize) < segment.rows.end).count();
        if let Some(ready) = adapters.get(segment.sequence) {
            rows.push((segment.rows.clone(), Arc::clone(ready)));
            if wanted > 0 {
                logit_rows.push((logits..logits + wanted, Arc::clone(ready)));
            }
        }
        logits += wanted;
    }
    [rows, logit_rows]
}
