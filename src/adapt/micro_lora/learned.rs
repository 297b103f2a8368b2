//! All that a micro adapter has learned, to go on from elsewhere.
use super::{MicroLora, MicroLoraError, RANK};

/// What a micro adapter is beside its settings and directions.
#[derive(Clone, Debug, PartialEq)]
pub struct Learned {
    /// `[V, 2]`, before `shrink`.
    pub b: Vec<[f32; RANK]>,
    /// Of every token, what its rates have come from.
    pub history: Vec<[f32; RANK]>,
    /// What all of B is multiplied by.
    pub shrink: f32,
    /// ‖`b`‖², as it was added up.
    pub squared_norm: f64,
    /// The running mean of what recent requests lost by the adapter.
    pub regret: f64,
    /// Its version.
    pub version: u64,
}

impl MicroLora {
    /// Returns what it has learned.
    #[must_use]
    pub fn learned(&self) -> Learned {
        let Self { b, history, shrink, squared_norm, regret, version, .. } = self;
        Learned {
            b: b.clone(),
            history: history.clone(),
            shrink: *shrink,
            squared_norm: *squared_norm,
            regret: *regret,
            version: *version,
        }
    }

    /// Goes on from what another has learned, to the last bit; there is no step to take back then.
    ///
    /// # Errors
    ///
    /// If it is of another vocabulary.
    pub fn restore(&mut self, learned: Learned) -> Result<(), MicroLoraError> {
        let Learned { b, history, shrink, squared_norm, regret, version } = learned;
        for (what, found) in [("rows of B", b.len()), ("rows of rates", history.len())] {
            if found != self.b.len() {
                return Err(MicroLoraError::Shape { what, found, needed: self.b.len() });
            }
        }
        self.has_moved.iter_mut().zip(&b).for_each(|(moved, row)| *moved = row.iter().any(|value| *value != 0.0));
        self.moved.clear();
        self.moved.extend((0u32..).zip(&self.has_moved).filter(|(_, moved)| **moved).map(|(token, _)| token));
        (self.b, self.history, self.shrink, self.squared_norm) = (b, history, shrink, squared_norm);
        (self.regret, self.version, self.undo) = (regret, version, None);
        Ok(())
    }
}
