//! A step's way: the gradient of a request's loss by the tokens it is about, where to go, and going there.
use super::{CAME, EPSILON, MicroLora, NONE, PRIOR, RANK, Request, Rule};

impl MicroLora {
    /// Multiplies what B was shrunk by into it.
    pub(super) fn fold(&mut self) {
        let mut squared_norm = 0.0;
        for row in &mut self.b {
            *row = row.map(|value| value * self.shrink);
            squared_norm += row.iter().map(|value| f64::from(value * value)).sum::<f64>();
        }
        (self.shrink, self.squared_norm) = (1.0, squared_norm);
    }

    /// Gives every token of the request a slot, with its row of B.
    pub(super) fn gather(&mut self, request: &Request) {
        self.tokens.clear();
        self.rows.clear();
        self.history_before.clear();
        self.slots.clear();
        for token in request.tokens() {
            let slot = &mut self.slot_of[*token as usize];
            if *slot == NONE {
                *slot = self.tokens.len() as u32;
                self.tokens.push(*token);
                self.rows.push(self.b[*token as usize]);
                self.history_before.push(self.history[*token as usize]);
            }
            self.slots.push(*slot);
        }
        for token in &self.tokens {
            self.slot_of[*token as usize] = NONE;
        }
    }

    /// Fills in the gradient of the weighted mean loss, by slot; with [`Rule::Newton`] the curvature of the sum,
    /// too.
    pub(super) fn differentiate(&mut self, request: &Request, weight: f32) {
        let factor = weight * self.settings.scale / request.len() as f32;
        self.gradient.clear();
        self.gradient.resize(self.tokens.len(), [0.0; RANK]);
        let width = request.width();
        let positions = self.slots.chunks_exact(width).zip(request.errors().chunks_exact(width));
        for ((slots, errors), projected) in positions.zip(request.projected()) {
            let [first, second] = projected.map(|value| value * factor);
            for (slot, error) in slots.iter().zip(errors) {
                let row = &mut self.gradient[*slot as usize];
                row[0] += error * first;
                row[1] += error * second;
            }
        }
        if self.settings.rule != Rule::Newton {
            return;
        }
        self.curvature.clear();
        self.curvature.resize(self.tokens.len(), [0.0; RANK]);
        let factor = weight.abs() * self.settings.scale * self.settings.scale;
        let positions = self.slots.chunks_exact(width).zip(request.errors().chunks_exact(width));
        let positions = positions.zip(request.probabilities().chunks_exact(width)).zip(request.projected());
        for (((slots, errors), probabilities), projected) in positions {
            let [first, second] = projected.map(|value| value * value * factor);
            for ((slot, error), probability) in slots.iter().zip(errors).zip(probabilities) {
                let between = probability - CAME * error;
                let row = &mut self.curvature[*slot as usize];
                row[0] += between * first;
                row[1] += between * second;
            }
        }
    }

    /// Fills in where to go after a request of so many tokens.
    pub(super) fn aim(&mut self, tokens: f32) {
        self.direction.clear();
        self.direction.extend_from_slice(&self.gradient);
        let rows = self.tokens.iter().zip(&mut self.direction);
        match self.settings.rule {
            Rule::Sgd => {}
            Rule::AdaGrad => {
                for (token, row) in rows {
                    let [squares, _] = &mut self.history[*token as usize];
                    *squares += row[0] * row[0] + row[1] * row[1];
                    let factor = 1.0 / (squares.sqrt() + EPSILON);
                    *row = row.map(|value| value * factor);
                }
            }
            Rule::Newton => {
                // A scale of zero has no gradient either.
                let prior = (PRIOR * self.settings.scale * self.settings.scale).max(f32::MIN_POSITIVE);
                for ((token, row), curvature) in rows.zip(&self.curvature) {
                    let history = &mut self.history[*token as usize];
                    let protected = &self.protected[*token as usize];
                    for (((value, sum), more), protected) in row.iter_mut().zip(history).zip(curvature).zip(protected) {
                        *sum += more;
                        *value *= tokens / (prior + protected + *sum);
                    }
                }
            }
        }
    }

    /// Goes that far, and no further than B may grow.
    pub(super) fn descend(&mut self, size: f32) {
        let size = size / self.shrink;
        let squared = |row: &[f32; RANK]| f64::from(row[0] * row[0] + row[1] * row[1]);
        for ((token, before), direction) in self.tokens.iter().zip(&self.rows).zip(&self.direction) {
            if !std::mem::replace(&mut self.has_moved[*token as usize], true) {
                self.moved.push(*token);
            }
            let row = &mut self.b[*token as usize];
            row[0] -= size * direction[0];
            row[1] -= size * direction[1];
            self.squared_norm += squared(row) - squared(before);
        }
        let norm = self.norm();
        let most = f64::from(self.settings.max_norm);
        if norm > most {
            self.shrink *= (most / norm) as f32;
        }
    }
}
