//! A model with some of its tensors replaced.
use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Seek, SeekFrom},
    path::Path,
    sync::{Arc, OnceLock},
};

use super::{Bytes, Index, Parts, TensorInfo, TensorType, Weights, WeightsError, quantize, write};

impl Weights {
    /// Returns what a tensor stands for, in f32.
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name, or it cannot be decoded.
    pub fn values(&self, name: &str) -> Result<Vec<f32>, WeightsError> {
        let info = self.info(name)?;
        let failed = |error| WeightsError::Convert { tensor: name.to_owned(), kind: TensorType::F32, error };
        quantize::decode(info.kind, self.parts.tensor(info)).map_err(failed)
    }

    /// Returns values of a tensor as a type would store them, and what those bytes stand for. Rows that
    /// are no whole blocks of the type take the next one that fits, as in
    /// [`requantized`](Self::requantized).
    ///
    /// # Errors
    ///
    /// If there is no tensor of that name, or a value has no place in the type.
    ///
    /// # Panics
    ///
    /// If there are not as many values as the tensor has.
    pub fn stored_as(
        &self,
        name: &str,
        kind: TensorType,
        values: &[f32],
    ) -> Result<(TensorType, Vec<u8>, Vec<f32>), WeightsError> {
        let info = self.info(name)?;
        assert_eq!(values.len(), info.values(), "{name}");
        let kind = super::requantize::target(info, kind);
        let failed = |error| WeightsError::Convert { tensor: name.to_owned(), kind, error };
        let mut bytes = vec![0; info.bytes_as(kind)];
        quantize::quantize(kind, values, info.columns(), None, &mut bytes).map_err(failed)?;
        let back = quantize::decode(kind, bytes.as_slice().into()).map_err(failed)?;
        Ok((kind, bytes, back))
    }

    /// Returns the same model with other bytes in place of some tensors', of the same shapes.
    ///
    /// # Errors
    ///
    /// If there is no tensor of a name.
    ///
    /// # Panics
    ///
    /// If a tensor has not as many bytes as its shape takes in its type.
    pub fn with_tensors(&self, replaced: BTreeMap<String, (TensorType, Vec<u8>)>) -> Result<Self, WeightsError> {
        let Index { version, metadata, tensors, alignment } = &self.parts.index;
        let (mut tensors, mut bytes) = (tensors.clone(), self.parts.bytes.clone());
        for (name, (kind, made)) in replaced {
            let shape = self.info(&name)?.shape.clone();
            let info = TensorInfo { kind, shape, part: bytes.len(), range: 0..made.len(), change: None };
            assert_eq!(info.bytes(), made.len(), "{name}");
            tensors.insert(name, info);
            bytes.push(Arc::new(Bytes::Owned(made)));
        }
        let index = Index { version: *version, metadata: metadata.clone(), tensors, alignment: *alignment };
        let (source, spec) = (self.source.clone(), self.spec.clone());
        Ok(Self { source, parts: Parts { bytes, index }, spec, hash: OnceLock::new() })
    }

    /// Writes the model as one GGUF file, which afterwards is all there or what was there before.
    ///
    /// # Errors
    ///
    /// If its metadata cannot be written as GGUF, there is no room for the file, or it cannot be written.
    pub fn write_file(&self, path: &Path) -> Result<(), WeightsError> {
        let mut image = self.image()?;
        let failed = |error| write::WriteError::File { action: "write", path: path.display().to_string(), error };
        let end = image.seek(SeekFrom::End(0)).and_then(|end| image.rewind().map(|()| end)).map_err(failed);
        let copy = |file: &mut File| io::copy(&mut image, file).map(|_| ()).map_err(failed);
        let written = end.and_then(|size| write::replace(path, size, copy));
        written.map_err(|error| WeightsError::Write { source_name: self.source.clone(), error })
    }
}
