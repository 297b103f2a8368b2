//! A step's way: the gradient of a request's loss by the tokens it is about, where to go, and going there.
use super::{CAME, EPSILON, MicroLora, NONE, PRIOR, RANK, Request, Rule, Settings};

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
        let all = request.tokens();
        self.tokens.resize(all.len(), 0);
        self.slots.resize(all.len(), 0);
        let (tokens, slot_of) = (&mut self.tokens[..], &mut self.slot_of[..]);
        let mut count = 0;
        let (width, last) = (request.width(), request.top_k());
        for (all, slots) in all.chunks_exact(width).zip(self.slots.chunks_exact_mut(width)) {
            for (token, to) in all.iter().zip(&mut *slots).take(last + 1) {
                let slot = &mut slot_of[*token as usize];
                // Whether it is new is anybody's guess, so that nothing branches on it.
                let is_new = *slot == NONE;
                *slot = if is_new { count as u32 } else { *slot };
                *to = *slot;
                tokens[count] = *token;
                count += usize::from(is_new);
            }
            // Behind the likeliest stands the token that came, and again to the end.
            let came = slots[last];
            slots[last..].fill(came);
        }
        self.tokens.truncate(count);
        self.tokens.iter().for_each(|token| slot_of[*token as usize] = NONE);
        self.rows.clear();
        self.rows.extend(self.tokens.iter().map(|token| self.b[*token as usize]));
        self.history_before.clear();
        self.history_before.extend(self.tokens.iter().map(|token| self.history[*token as usize]));
    }

    /// Fills in the gradient of the weighted mean loss, by slot; with [`Rule::Newton`] the curvature of the sum,
    /// too.
    pub(super) fn differentiate(&mut self, request: &Request, weight: f32) {
        let Settings { scale, rule, .. } = self.settings;
        let (of_gradient, of_curvature) = (weight * scale / request.len() as f32, weight.abs() * scale * scale);
        self.gradient.clear();
        self.gradient.resize(self.tokens.len(), [0.0; RANK]);
        self.curvature.clear();
        self.curvature.resize(self.tokens.len(), [0.0; RANK]);
        let (gradient, curvature) = (&mut self.gradient[..], &mut self.curvature[..]);
        let width = request.width();
        let positions = self.slots.chunks_exact(width).zip(request.errors().chunks_exact(width));
        let positions = positions.zip(request.probabilities().chunks_exact(width)).zip(request.projected());
        for (((slots, errors), probabilities), projected) in positions {
            let first = projected.map(|value| value * of_gradient);
            let second = projected.map(|value| value * value * of_curvature);
            // Behind the token that came there is nothing.
            for ((slot, error), probability) in slots.iter().zip(errors).zip(probabilities).take(request.top_k() + 1) {
                let row = &mut gradient[*slot as usize];
                row[0] += error * first[0];
                row[1] += error * first[1];
                if rule == Rule::Newton {
                    let between = probability - CAME * error;
                    let row = &mut curvature[*slot as usize];
                    row[0] += between * second[0];
                    row[1] += between * second[1];
                }
            }
        }
    }

    /// Fills in where to go after a request of so many tokens.
    pub(super) fn aim(&mut self, tokens: f32) {
        self.direction.clear();
        self.direction.extend_from_slice(&self.gradient);
        match self.settings.rule {
            Rule::Sgd => {}
            Rule::AdaGrad => {
                for (token, row) in self.tokens.iter().zip(&mut self.direction) {
                    let [squares, _] = &mut self.history[*token as usize];
                    *squares += row[0] * row[0] + row[1] * row[1];
                    let factor = 1.0 / (squares.sqrt() + EPSILON);
                    *row = row.map(|value| value * factor);
                }
            }
            Rule::Newton => {
                // A scale of zero has no gradient either.
                let prior = (PRIOR * self.settings.scale * self.settings.scale).max(f32::MIN_POSITIVE);
                let (history, protected) = (&mut self.history[..], &self.protected[..]);
                let before = self.tokens.iter().zip(&self.history_before);
                for ((token, before), curvature) in before.zip(&mut self.curvature) {
                    let sums = [before[0] + curvature[0], before[1] + curvature[1]];
                    history[*token as usize] = sums;
                    let protected = protected.get(*token as usize).unwrap_or(&[0.0; RANK]);
                    *curvature = [prior + protected[0] + sums[0], prior + protected[1] + sums[1]];
                }
                // Divisions side by side.
                let values = self.direction.as_flattened_mut().iter_mut();
                values.zip(self.curvature.as_flattened()).for_each(|(value, curvature)| *value *= tokens / curvature);
            }
        }
    }

    /// Goes that far, and no further than B may grow.
    pub(super) fn descend(&mut self, size: f32) {
        let size = size / self.shrink;
        let squared = |row: &[f32; RANK]| f64::from(row[0] * row[0] + row[1] * row[1]);
        let (b, has_moved) = (&mut self.b[..], &mut self.has_moved[..]);
        let mut grown = 0.0;
        for ((token, before), direction) in self.tokens.iter().zip(&self.rows).zip(&self.direction) {
            if !std::mem::replace(&mut has_moved[*token as usize], true) {
                self.moved.push(*token);
            }
            let row = &mut b[*token as usize];
            row[0] -= size * direction[0];
            row[1] -= size * direction[1];
            grown += squared(row) - squared(before);
        }
        self.squared_norm += grown;
        let norm = self.norm();
        let most = f64::from(self.settings.max_norm);
        if norm > most {
            self.shrink *= (most / norm) as f32;
        }
    }
}
