//! The state of the loops as bytes: to go on after a restart as if there had been none, and to see that a
//! transaction that was taken back left nothing behind. A state is of one model and one set of settings.
use std::{
    fs::{self, File},
    io::{self, Write},
    path::Path,
};

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::{
    Background, BackgroundSettings, Baseline, Counters, MemorySettings, Pattern, Reserve, Sona, SonaError,
    SonaSettings,
    bytes::{Reader, Writer, damaged},
    recall::{Gate, KINDS},
    transaction::Unchanged,
};
use crate::{adapt::ewc::Term, engine::LanguageModel};

const MAGIC: &[u8; 8] = b"ruvsona4";

/// Bytes of a hash: of the model, of the settings, and of all at the end.
const HASH: usize = 32;

impl Sona {
    /// Returns all that was learned, byte by byte: micro adapters, cache, patterns, kept requests, the deep loop's
    /// adapter, anchors and importances, and the baseline of rewards.
    #[must_use]
    pub fn learned(&self) -> Vec<u8> {
        let mut out = Writer::default();
        out.0.extend(self.loops().map(u8::from));
        if let Some(instant) = &self.instant {
            out.micro(instant.micro());
            let (next, keys, tokens) = instant.recall.held();
            out.count(next);
            out.f32s(&keys);
            out.u32s(tokens);
            out.f64s(&instant.recall.gate.shares);
            out.f64s(&instant.recall.gate.evidence);
        }
        self.background.iter().flat_map(Background::micros).for_each(|micro| out.micro(micro));
        out.count(self.memory.bank.patterns().len());
        for Pattern { centroid, sum, count } in self.memory.bank.patterns() {
            out.f32s(centroid);
            out.f64s(sum);
            out.u64(*count);
        }
        out.reservoir(&self.memory.replayed);
        out.reservoir(&self.memory.held_out);
        self.memory.jury.iter().for_each(|jury| out.reservoir(jury));
        out.u64(self.memory.is_due.into());
        out.count(self.reserve.as_ref().map_or(0, Reserve::next));
        out.f64(self.baseline.mean().unwrap_or(f64::NAN));
        if let Some(deep) = &self.deep {
            for change in deep.adapter.values() {
                out.f32s(&change.a);
                out.f32s(&change.b);
            }
            out.count(deep.terms.len());
            for Term { anchor, importance } in &deep.terms {
                out.f32s(anchor);
                out.f32s(importance);
            }
        }
        out.0
    }

    /// Returns which loops are on.
    fn loops(&self) -> [bool; 3] {
        [self.instant.is_some(), self.background.is_some(), self.deep.is_some()]
    }

    /// Puts back what [`Self::learned`] returned.
    pub(super) fn relearn(&mut self, bytes: &[u8]) -> Result<(), SonaError> {
        let mut from = Reader(bytes);
        if from.bytes(3)? != self.loops().map(u8::from) {
            return Err(damaged("other loops are on"));
        }
        if let Some(instant) = &mut self.instant {
            from.micro(instant.micro_mut())?;
            let next = usize::try_from(from.u64()?).unwrap_or(usize::MAX);
            instant.recall.hold(next, from.f32s()?, from.u32s()?)?;
            let mut kinds =
                || <[f64; KINDS]>::try_from(from.f64s()?).map_err(|_found| damaged("a list has another length"));
            instant.recall.gate = Gate { shares: kinds()?, evidence: kinds()? };
        }
        for micro in self.background.iter_mut().flat_map(Background::micros_mut) {
            from.micro(micro)?;
        }
        let one = |from: &mut Reader<'_>| Ok(Pattern { centroid: from.f32s()?, sum: from.f64s()?, count: from.u64()? });
        let patterns = (0..from.count(24)?).map(|_| one(&mut from)).collect::<Result<Vec<_>, SonaError>>()?;
        self.memory.bank.replace(patterns)?;
        self.memory.replayed = from.reservoir(self.memory.replayed.capacity())?;
        self.memory.held_out = from.reservoir(self.memory.held_out.capacity())?;
        if let Some(jury) = &mut self.memory.jury {
            *jury = from.reservoir(jury.capacity())?;
        }
        self.memory.is_due = from.u64()? > 0;
        let next = usize::try_from(from.u64()?).unwrap_or(0);
        self.reserve.iter_mut().for_each(|reserve| reserve.go_on_at(next));
        self.baseline = Baseline::of(Some(from.f64()?).filter(|mean| !mean.is_nan()));
        if let Some(deep) = &mut self.deep {
            for change in deep.adapter.values_mut() {
                from.fill(&mut change.a)?;
                from.fill(&mut change.b)?;
            }
            let Some(first) = deep.terms.first().cloned() else {
                return Err(damaged("nothing protects what the model came with"));
            };
            deep.terms.clear();
            for _ in 0..from.count(16)? {
                let mut term = first.clone();
                from.fill(&mut term.anchor)?;
                from.fill(&mut term.importance)?;
                deep.terms.push(term);
            }
            deep.settle()?;
        }
        if from.0.is_empty() { Ok(()) } else { Err(damaged("something follows its end")) }
    }

    /// Returns the whole state: what was learned, counters and what is drawn next. A background step
    /// under way is ended first.
    ///
    /// # Errors
    ///
    /// If that step fails.
    pub fn save(&mut self, engine: &mut dyn LanguageModel) -> Result<Vec<u8>, SonaError> {
        self.end_step(engine)?;
        let mut out = Writer(MAGIC.to_vec());
        out.0.extend(self.made_with().into_iter().flatten());
        let Counters { requests, commits, rollbacks } = self.counters;
        [requests, commits, rollbacks, self.since_deep].into_iter().for_each(|value| out.u64(value));
        let random = &self.memory.random;
        out.0.extend(random.get_seed());
        out.u64(random.get_stream());
        out.0.extend(random.get_word_pos().to_le_bytes());
        let Unchanged { guard, judges } =
            self.general_static.unwrap_or(Unchanged { guard: f64::NAN, judges: f64::NAN });
        [guard, judges].into_iter().for_each(|loss| out.f64(loss));
        out.0.extend(self.learned());
        let checksum = blake3::hash(&out.0);
        out.0.extend(checksum.as_bytes());
        Ok(out.0)
    }

    /// Goes on from a saved state, and publishes it; general text is read again with the adapter it has.
    ///
    /// # Errors
    ///
    /// If it is damaged, or of other settings or another model, or the engine fails; begin anew then.
    pub fn resume(&mut self, engine: &mut dyn LanguageModel, bytes: &[u8]) -> Result<(), SonaError> {
        let end = bytes.len().checked_sub(HASH).ok_or_else(|| damaged("it ends too early"))?;
        let (content, checksum) = bytes.split_at(end);
        if blake3::hash(content).as_bytes() != checksum {
            return Err(damaged("its checksum is another"));
        }
        let mut from = Reader(content);
        if from.bytes(MAGIC.len())? != MAGIC {
            return Err(damaged("it is of another kind or version"));
        }
        let problems = ["it is of another model, or of other general text", "it is of other settings"];
        for (own, problem) in self.made_with().iter().zip(problems) {
            if from.bytes(HASH)? != own {
                return Err(damaged(problem));
            }
        }
        let counters = Counters { requests: from.u64()?, commits: from.u64()?, rollbacks: from.u64()? };
        let since_deep = from.u64()?;
        let mut seed = [0; 32];
        seed.copy_from_slice(from.bytes(32)?);
        let mut random = ChaCha8Rng::from_seed(seed);
        random.set_stream(from.u64()?);
        random.set_word_pos(from.u128()?);
        let general_static = Unchanged { guard: from.f64()?, judges: from.f64()? };
        let general_static = Some(general_static).filter(|losses| !losses.guard.is_nan());
        self.relearn(from.0)?;
        (self.counters, self.memory.random, self.general_static) = (counters, random, general_static);
        self.since_deep = since_deep;
        self.publish()?;
        if let Some(reserve) = &self.reserve {
            let base = self.registry.pin_active();
            self.reserve = Some(reserve.read_again(engine, base.adapter(), &self.blank)?);
            self.protect();
        }
        Ok(())
    }

    /// Writes the whole state to a file, so that the file is whole or is what it was.
    ///
    /// # Errors
    ///
    /// As [`Self::save`], and if the file cannot be written.
    pub fn write(&mut self, engine: &mut dyn LanguageModel, path: &Path) -> Result<(), SonaError> {
        let state = self.save(engine)?;
        let beside = path.with_extension("partial");
        let write = || {
            fs::create_dir_all(path.parent().unwrap_or(Path::new(".")))?;
            let mut file = File::create(&beside)?;
            file.write_all(&state)?;
            file.sync_all()?;
            fs::rename(&beside, path)
        };
        write().map_err(|source: io::Error| SonaError::File { path: path.display().to_string(), source })
    }

    /// Goes on from the state in a file, as [`Self::resume`] does.
    ///
    /// # Errors
    ///
    /// As [`Self::resume`], and if the file cannot be read.
    pub fn read(&mut self, engine: &mut dyn LanguageModel, path: &Path) -> Result<(), SonaError> {
        let state = fs::read(path).map_err(|source| SonaError::File { path: path.display().to_string(), source })?;
        self.resume(engine, &state)
    }

    /// Returns hashes of the model, by its shape and by what it makes of the text that directions are taken from, and
    /// of the settings: what a state is worth nothing without. How long a slice may take is no part of them, nor is the seed, which the
    /// state goes on from.
    fn made_with(&self) -> [[u8; HASH]; 2] {
        let mut model = blake3::Hasher::new();
        model.update(format!("{:?}", self.spec).as_bytes());
        for value in self.blank.low_rank().a.iter().chain(self.memory.bank.center()) {
            model.update(&value.to_le_bytes());
        }
        let background = self.settings.background.map(|own| BackgroundSettings { slice: None, ..own });
        let memory = MemorySettings { seed: 0, ..self.settings.memory };
        let settings = SonaSettings { background, memory, ..self.settings.clone() };
        let deep = self.deep.as_ref().map(|deep| &deep.settings);
        let settings = format!("{settings:?} {deep:?} {:?}", self.reserve.as_ref().map(Reserve::max_drift));
        [*model.finalize().as_bytes(), *blake3::hash(settings.as_bytes()).as_bytes()]
    }
}
