//! The model as one GGUF file that is never made: what needs a file reads this.
use std::{
    borrow::Cow,
    io::{self, Read, Seek, SeekFrom},
};

use super::{
    Parts, TensorInfo, Weights, WeightsError,
    write::{Layout, Planned},
};

/// A GGUF version 3 file of a model: the header is in memory, tensors are read from the model.
pub struct Image<'a> {
    parts: &'a Parts,
    layout: Layout,
    /// Where each tensor starts, in the file's order.
    starts: Vec<u64>,
    position: u64,
    /// The tensor read last, so that one that is made is made once.
    last: Option<(usize, Cow<'a, [u8]>)>,
}

impl Weights {
    /// Returns the whole model as one GGUF file to read from, whatever it was opened from.
    ///
    /// # Errors
    ///
    /// If its metadata cannot be written as GGUF.
    pub fn image(&self) -> Result<Image<'_>, WeightsError> {
        let planned = |(name, info): (&String, &TensorInfo)| Planned {
            name: name.clone(),
            kind: info.kind,
            shape: info.shape.clone(),
        };
        let index = &self.parts.index;
        let layout = Layout::new(&index.metadata, index.tensors.iter().map(planned).collect());
        let layout = layout.map_err(|error| WeightsError::Write { source_name: self.source.clone(), error })?;
        let mut start = layout.header().len() as u64;
        let mut starts = Vec::with_capacity(index.tensors.len());
        for (_, bytes) in layout.tensors() {
            starts.push(start);
            start = (start + bytes).next_multiple_of(index.alignment as u64);
        }
        Ok(Image { parts: &self.parts, layout, starts, position: 0, last: None })
    }
}

impl Image<'_> {
    /// Returns the file's bytes from the position to where something else begins.
    fn here(&mut self) -> &[u8] {
        const PADDING: [u8; 64] = [0; 64];
        if self.position >= self.layout.size() {
            return &[];
        }
        if let Some(rest) = usize::try_from(self.position).ok().and_then(|at| self.layout.header().get(at..))
            && !rest.is_empty()
        {
            return rest;
        }
        let after = self.starts.partition_point(|start| *start <= self.position);
        let next = self.starts.get(after).copied().unwrap_or(self.layout.size());
        let Some((tensor, start)) = after.checked_sub(1).map(|tensor| (tensor, self.starts[tensor])) else {
            return &PADDING[..(next - self.position).min(PADDING.len() as u64) as usize];
        };
        let (parts, within) = (self.parts, self.position - start);
        if self.last.as_ref().is_none_or(|(last, _)| *last != tensor) {
            let bytes = parts.index.tensors.get_index(tensor).map(|(_, info)| parts.tensor(info)).unwrap_or_default();
            self.last = Some((tensor, bytes));
        }
        let bytes = self.last.as_ref().map_or(&[][..], |(_, bytes)| bytes);
        match usize::try_from(within).ok().and_then(|within| bytes.get(within..)) {
            Some(rest) if !rest.is_empty() => rest,
            _ => &PADDING[..(next - self.position).min(PADDING.len() as u64) as usize],
        }
    }
}

impl Read for Image<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let here = self.here();
        let count = here.len().min(out.len());
        out[..count].copy_from_slice(&here[..count]);
        self.position += count as u64;
        Ok(count)
    }
}

impl Seek for Image<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let position = match to {
            SeekFrom::Start(position) => Some(position),
            SeekFrom::End(offset) => self.layout.size().checked_add_signed(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
        };
        self.position = position.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.position)
    }
}
