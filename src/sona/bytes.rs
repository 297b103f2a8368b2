//! Numbers as bytes, little-endian; every list begins with its length. Whatever is read is checked against what is
//! left.
use super::{Reservoir, SonaError, Trajectory};
use crate::adapt::micro_lora::{Learned, MicroLora};

#[derive(Default)]
pub(super) struct Writer(pub(super) Vec<u8>);

impl Writer {
    pub(super) fn u64(&mut self, value: u64) {
        self.0.extend(value.to_le_bytes());
    }

    pub(super) fn f64(&mut self, value: f64) {
        self.u64(value.to_bits());
    }

    pub(super) fn count(&mut self, count: usize) {
        self.u64(count as u64);
    }

    pub(super) fn u32s(&mut self, values: &[u32]) {
        self.count(values.len());
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    pub(super) fn f32s(&mut self, values: &[f32]) {
        self.count(values.len());
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    pub(super) fn f64s(&mut self, values: &[f64]) {
        self.count(values.len());
        self.0.extend(values.iter().flat_map(|value| value.to_le_bytes()));
    }

    pub(super) fn micro(&mut self, micro: &MicroLora) {
        let Learned { b, history, shrink, squared_norm, regret, version } = micro.learned();
        self.f32s(b.as_flattened());
        self.f32s(history.as_flattened());
        self.f64(shrink.into());
        self.f64(squared_norm);
        self.f64(regret);
        self.u64(version);
    }

    pub(super) fn reservoir(&mut self, reservoir: &Reservoir) {
        self.u64(reservoir.offered());
        self.count(reservoir.kept().len());
        for Trajectory { id, prompt, answer, key } in reservoir.kept() {
            self.u64(*id);
            self.u32s(prompt);
            self.u32s(answer);
            self.f32s(key);
        }
    }
}

pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn bytes(&mut self, count: usize) -> Result<&'a [u8], SonaError> {
        let (taken, rest) = self.0.split_at_checked(count).ok_or_else(|| damaged("it ends too early"))?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], SonaError> {
        let mut value = [0; N];
        value.copy_from_slice(self.bytes(N)?);
        Ok(value)
    }

    pub(super) fn u64(&mut self) -> Result<u64, SonaError> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    pub(super) fn u128(&mut self) -> Result<u128, SonaError> {
        Ok(u128::from_le_bytes(self.array()?))
    }

    pub(super) fn f64(&mut self) -> Result<f64, SonaError> {
        Ok(f64::from_bits(self.u64()?))
    }

    /// Reads how many items follow, of so many bytes each at least.
    pub(super) fn count(&mut self, bytes: usize) -> Result<usize, SonaError> {
        let count = usize::try_from(self.u64()?).ok();
        let fits = count.filter(|count| count.checked_mul(bytes).is_some_and(|bytes| bytes <= self.0.len()));
        fits.ok_or_else(|| damaged("a list is longer than what is left"))
    }

    pub(super) fn u32s(&mut self) -> Result<Vec<u32>, SonaError> {
        let count = self.count(4)?;
        Ok(self.bytes(4 * count)?.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn f32s(&mut self) -> Result<Vec<f32>, SonaError> {
        let count = self.count(4)?;
        Ok(self.bytes(4 * count)?.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn f64s(&mut self) -> Result<Vec<f64>, SonaError> {
        let count = self.count(8)?;
        Ok(self.bytes(8 * count)?.as_chunks::<8>().0.iter().map(|bytes| f64::from_le_bytes(*bytes)).collect())
    }

    pub(super) fn micro(&mut self, micro: &mut MicroLora) -> Result<(), SonaError> {
        let b = self.f32s()?.as_chunks::<2>().0.to_vec();
        let history = self.f32s()?.as_chunks::<2>().0.to_vec();
        let (shrink, squared_norm, regret) = (self.f64()? as f32, self.f64()?, self.f64()?);
        Ok(micro.restore(Learned { b, history, shrink, squared_norm, regret, version: self.u64()? })?)
    }

    pub(super) fn reservoir(&mut self, capacity: usize) -> Result<Reservoir, SonaError> {
        let offered = self.u64()?;
        let count = self.count(32)?;
        if count > capacity || count as u64 > offered {
            return Err(damaged("it keeps more requests than there is room for"));
        }
        let one = |reader: &mut Self| {
            Ok(Trajectory { id: reader.u64()?, prompt: reader.u32s()?, answer: reader.u32s()?, key: reader.f32s()? })
        };
        let kept = (0..count).map(|_| one(self)).collect::<Result<Vec<_>, SonaError>>()?;
        Ok(Reservoir::of(capacity, offered, kept))
    }

    /// Overwrites numbers by as many.
    pub(super) fn fill(&mut self, own: &mut [f32]) -> Result<(), SonaError> {
        let found = self.f32s()?;
        if found.len() != own.len() {
            return Err(damaged("a list has another length"));
        }
        own.copy_from_slice(&found);
        Ok(())
    }
}

pub(super) fn damaged(problem: &str) -> SonaError {
    SonaError::Stored(problem.to_owned())
}
