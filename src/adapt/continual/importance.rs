//! What a task's importances are estimated from.
use rand::Rng;

use super::{
    protection::{Geometry, Source},
    trainer::{ContinualTrainer, scored, tokens},
};
use crate::{
    adapt::{data::Example, ewc::Method, train::drawn},
    engine::{EngineError, Flow, Gradients, Labels, Noted},
};

impl ContinualTrainer {
    /// Notes what passes the changes, where the geometry wants it, or no longer.
    pub(super) fn note(&mut self, wanted: bool) {
        let noted = match self.protection.penalty.geometry {
            Geometry::Factors => None,
            Geometry::Product => Some(Noted::Product),
            Geometry::Outer => Some(Noted::Squares),
        };
        self.trainee.note_flows(noted.filter(|_| wanted));
    }

    /// Returns the importances of a finished task.
    pub(super) fn importance(&mut self, data: &[Example], order: u64) -> Result<Vec<f32>, EngineError> {
        self.note(true);
        let mut sum = vec![0.0; self.space.importances()];
        let (size, draws) = match self.protection.penalty.source {
            Source::Sampled => (self.updates.batch, true),
            Source::Empirical => (1, false),
            Source::Batched => (self.updates.batch, false),
        };
        for batch in 0..u64::from(self.protection.penalty.batches) * (self.updates.batch / size) as u64 {
            let places = (batch * size as u64..).take(size);
            let batch: Vec<&Example> = places.map(|at| &data[drawn(data.len(), order, at)]).collect();
            let labels = if draws { Labels::Drawn { seed: self.random.random() } } else { Labels::Data };
            let (gradients, flows) = self.single(&batch, labels)?;
            let more = self.squared(&gradients, &flows);
            assert_eq!(more.len(), sum.len(), "importances of another space");
            sum.iter_mut().zip(more).for_each(|(sum, more)| *sum += more);
        }
        self.note(false);
        Ok(sum)
    }

    /// Returns the gradients of the mean loss of one batch, and what passed meanwhile.
    pub(super) fn single(
        &mut self,
        batch: &[&Example],
        labels: Labels<'_>,
    ) -> Result<(Gradients, Vec<Flow>), EngineError> {
        let mut gradients = Gradients::new();
        self.trainee.accumulate_of(&scored(batch), labels, 1.0 / tokens(batch), &mut gradients)?;
        Ok((gradients, self.flows()?))
    }

    /// Returns what was noted since, in the order of the places.
    pub(super) fn flows(&mut self) -> Result<Vec<Flow>, EngineError> {
        Ok(self.trainee.take_flows()?.into_values().collect())
    }

    /// Returns gradients as one list, as parameters are.
    pub(super) fn flat(&self, gradients: &Gradients) -> Vec<f32> {
        let mut flat = Vec::with_capacity(self.parameters.len());
        for (place, factors) in &self.places {
            match gradients.get(place) {
                Some((a, b)) => flat.extend(a.iter().chain(b)),
                None => flat.resize(flat.len() + factors.a + factors.b, 0.0),
            }
        }
        flat
    }

    /// Returns an estimate of importances from one pass.
    pub(super) fn squared(&self, gradients: &Gradients, flows: &[Flow]) -> Vec<f32> {
        match self.protection.penalty.geometry {
            Geometry::Factors | Geometry::Product => {
                let mut gradient = self.in_space(gradients, flows);
                gradient.iter_mut().for_each(|g| *g *= *g);
                gradient
            }
            Geometry::Outer => flows.iter().flat_map(|flow| flow.outputs.iter().chain(&flow.inputs)).copied().collect(),
        }
    }

    /// Returns the gradient in the coordinates of the space; nothing where that is not known.
    pub(super) fn in_space(&self, gradients: &Gradients, flows: &[Flow]) -> Vec<f32> {
        match self.protection.penalty.geometry {
            Geometry::Factors => self.flat(gradients),
            Geometry::Product => flows.iter().flat_map(|flow| &flow.product).copied().collect(),
            Geometry::Outer => Vec::new(),
        }
    }

    /// Returns where parameters are in the coordinates of the space; nothing where nobody looks.
    pub(super) fn positions(&self) -> Vec<f32> {
        // Only `RWalk` looks at paths, and not with importances of rank 1.
        match (self.protection.penalty.method, self.protection.penalty.geometry) {
            (Method::RWalk { .. }, Geometry::Factors | Geometry::Product) => self.space.positions(&self.parameters),
            _ => Vec::new(),
        }
    }
}
