//! Writing GGUF version 3: metadata, tensor entries, then every tensor's bytes as they are made.
//!
//! Nothing of a tensor is kept, so a model of any size is written in constant memory; the size of
//! the file is known before its first byte is.
use std::{
    ffi::OsString,
    fs::{self, File},
    io::{self, BufWriter, Write},
    path::Path,
};

use indexmap::IndexMap;

use super::{TensorType, Value};

const DEFAULT_ALIGNMENT: u64 = 32;
const MAX_ALIGNMENT: u64 = 1 << 16;
const BUFFER_BYTES: usize = 1 << 20;

/// A tensor that will be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Planned {
    /// Its name.
    pub name: String,
    /// How it is stored.
    pub kind: TensorType,
    /// Its shape, rows first: a matrix is `[rows, columns]`.
    pub shape: Vec<usize>,
}

impl Planned {
    /// Returns how many bytes it takes; none if its rows are not whole blocks, or its size overflows.
    #[must_use]
    pub fn bytes(&self) -> Option<u64> {
        let values = self.shape.iter().try_fold(1u64, |product, length| product.checked_mul(*length as u64))?;
        let row = *self.shape.last()? as u64;
        let block = self.kind.block_values() as u64;
        if values == 0 || !row.is_multiple_of(block) {
            return None;
        }
        (values / block).checked_mul(self.kind.block_bytes() as u64)
    }
}

/// Why a file could not be written.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// The system said no.
    #[error("cannot {action} {path}: {error}")]
    File {
        /// What was to be done, as a verb.
        action: &'static str,
        /// The file.
        path: String,
        /// Why.
        #[source]
        error: io::Error,
    },
    /// The destination of the bytes said no.
    #[error("cannot write the model: {0}")]
    Output(#[from] io::Error),
    /// A list whose elements are of several types, or lists.
    #[error("metadata {key:?} is a list that GGUF cannot hold: its elements must be of one type and no lists")]
    List {
        /// Its key.
        key: String,
    },
    /// `general.alignment` is not one.
    #[error("general.alignment is {0:?}; it must be a power of two from 8 to {MAX_ALIGNMENT}")]
    Alignment(Value),
    /// A tensor that cannot be stored so.
    #[error("tensor {name:?} of shape {shape:?} cannot be stored as {kind}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        shape: Vec<usize>,
        /// Its type.
        kind: TensorType,
    },
    /// A name given twice.
    #[error("tensor {name:?} is there twice")]
    Twice {
        /// The tensor.
        name: String,
    },
    /// Its bytes were fewer or more than its shape and type take.
    #[error("tensor {name:?} takes {planned} bytes, {given} were given")]
    Length {
        /// The tensor.
        name: String,
        /// Bytes it takes.
        planned: u64,
        /// Bytes there were, or were until the first too many.
        given: u64,
    },
}

/// A file before it is written: its header, and where every tensor will be.
#[derive(Clone, Debug)]
pub struct Layout {
    header: Vec<u8>,
    tensors: Vec<(Planned, u64)>,
    alignment: u64,
    size: u64,
}

/// Takes one tensor's bytes, in any number of pieces.
pub struct TensorSink<'a> {
    out: &'a mut dyn Write,
    name: &'a str,
    planned: u64,
    given: u64,
}

impl TensorSink<'_> {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// If they cannot be written, or are more than the tensor takes.
    pub fn push(&mut self, bytes: &[u8]) -> Result<(), WriteError> {
        self.given += bytes.len() as u64;
        if self.given > self.planned {
            return Err(self.wrong_length());
        }
        Ok(self.out.write_all(bytes)?)
    }

    fn wrong_length(&self) -> WriteError {
        WriteError::Length { name: self.name.to_owned(), planned: self.planned, given: self.given }
    }
}

impl Layout {
    /// Returns the layout of a file with these metadata and tensors, in this order.
    ///
    /// Values are written in the types llama.cpp reads: integers as u32 or i32 (as 64 bits where
    /// they need them), numbers with a fraction as f32, `split.no` and `split.count` as u16, token
    /// types as i32. A list takes the narrowest of these types that holds all its elements.
    ///
    /// # Errors
    ///
    /// If a list mixes types, `general.alignment` is none, a tensor's rows are not whole blocks, or
    /// a name comes twice.
    pub fn new(metadata: &IndexMap<String, Value>, tensors: Vec<Planned>) -> Result<Self, WriteError> {
        let alignment = match metadata.get("general.alignment") {
            None => DEFAULT_ALIGNMENT,
            Some(value) => value
                .as_u64()
                .filter(|alignment| alignment.is_power_of_two() && (8..=MAX_ALIGNMENT).contains(alignment))
                .ok_or_else(|| WriteError::Alignment(value.clone()))?,
        };
        let mut header = Vec::new();
        header.extend_from_slice(b"GGUF");
        header.extend_from_slice(&3u32.to_le_bytes());
        header.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
        header.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            put_text(&mut header, key);
            put_entry(&mut header, key, value)?;
        }
        let mut names = std::collections::HashSet::new();
        let mut offset = 0u64;
        let mut placed = Vec::with_capacity(tensors.len());
        for tensor in &tensors {
            if !names.insert(tensor.name.as_str()) {
                return Err(WriteError::Twice { name: tensor.name.clone() });
            }
            let wrong = || {
                let Planned { name, kind, shape } = tensor.clone();
                WriteError::Shape { name, shape, kind }
            };
            let bytes = tensor.bytes().filter(|_| tensor.shape.len() <= 4).ok_or_else(wrong)?;
            put_text(&mut header, &tensor.name);
            header.extend_from_slice(&(tensor.shape.len() as u32).to_le_bytes());
            for length in tensor.shape.iter().rev() {
                header.extend_from_slice(&(*length as u64).to_le_bytes());
            }
            header.extend_from_slice(&tensor.kind.id().to_le_bytes());
            header.extend_from_slice(&offset.to_le_bytes());
            placed.push(bytes);
            let end = offset.checked_add(bytes).and_then(|end| end.checked_next_multiple_of(alignment));
            offset = end.ok_or_else(wrong)?;
        }
        header.resize((header.len() as u64).next_multiple_of(alignment) as usize, 0);
        let size = header.len() as u64 + offset;
        drop(names);
        Ok(Self { header, tensors: tensors.into_iter().zip(placed).collect(), alignment, size })
    }

    /// Returns how many bytes the file will have. Every tensor is filled up to the alignment, the
    /// last one too, as llama.cpp's own writer does.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns everything before the first tensor's bytes.
    #[must_use]
    pub fn header(&self) -> &[u8] {
        &self.header
    }

    /// Returns the tensors in the file's order, each with the bytes it takes.
    #[must_use]
    pub fn tensors(&self) -> &[(Planned, u64)] {
        &self.tensors
    }

    /// Writes the file to `out`; `fill` is asked for every tensor's bytes in turn.
    ///
    /// # Errors
    ///
    /// If writing fails, `fill` fails, or it gives fewer or more bytes than a tensor takes.
    pub fn write<E: From<WriteError>>(
        &self,
        out: &mut dyn Write,
        mut fill: impl FnMut(&Planned, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let padding = [0u8; 64];
        out.write_all(&self.header).map_err(WriteError::from)?;
        for (tensor, planned) in &self.tensors {
            let mut sink = TensorSink { out, name: &tensor.name, planned: *planned, given: 0 };
            fill(tensor, &mut sink)?;
            if sink.given != sink.planned {
                return Err(sink.wrong_length().into());
            }
            let mut missing = (planned.next_multiple_of(self.alignment) - planned) as usize;
            while missing > 0 {
                let piece = missing.min(padding.len());
                out.write_all(&padding[..piece]).map_err(WriteError::from)?;
                missing -= piece;
            }
        }
        Ok(())
    }

    /// Writes the file at `path`, which afterwards holds all of it or what it held before: the bytes
    /// go to a hidden file beside it that is renamed at the end.
    ///
    /// # Errors
    ///
    /// As [`write`](Self::write), and if the file cannot be made or renamed.
    pub fn write_file<E: From<WriteError>>(
        &self,
        path: &Path,
        fill: impl FnMut(&Planned, &mut TensorSink<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut name = OsString::from(".");
        name.push(path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = path.with_file_name(name);
        let failed = |action| {
            let path = path.display().to_string();
            move |error| WriteError::File { action, path, error }
        };
        let written = File::create(&temporary).map_err(failed("create")).map_err(E::from).and_then(|file| {
            let mut writer = BufWriter::with_capacity(BUFFER_BYTES, file);
            self.write(&mut writer, fill)?;
            let file = writer.into_inner().map_err(|error| failed("write")(error.into_error()))?;
            file.sync_all().map_err(failed("write"))?;
            fs::rename(&temporary, path).map_err(failed("replace"))?;
            Ok(())
        });
        if written.is_err() && fs::remove_file(&temporary).is_err() {
            // The first error is the one to tell; a leftover is hidden, and overwritten by the next attempt.
        }
        written
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

/// The types of metadata that are written, by their numbers in files (ggml's `gguf.h`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    U16 = 2,
    U32 = 4,
    I32 = 5,
    F32 = 6,
    Bool = 7,
    Text = 8,
    U64 = 10,
    I64 = 11,
}

/// Returns the type of values under a key; none if no type holds them all.
fn form(key: &str, values: &[Value]) -> Option<Form> {
    let all = |test: fn(&Value) -> bool| values.iter().all(test);
    if all(|value| matches!(value, Value::Text(_))) {
        // An empty list, too: those of token lists are the only ones that are met.
        return Some(Form::Text);
    }
    if all(|value| matches!(value, Value::Bool(_))) {
        return Some(Form::Bool);
    }
    if matches!(key, "split.no" | "split.count") && all(|value| value.as_u64().is_some_and(|n| n <= u16::MAX.into())) {
        return Some(Form::U16);
    }
    let small = |value: &Value| match value {
        Value::Unsigned(n) => i32::try_from(*n).is_ok(),
        Value::Signed(n) => i32::try_from(*n).is_ok(),
        _ => false,
    };
    if key == "tokenizer.ggml.token_type" && all(small) {
        return Some(Form::I32);
    }
    if all(|value| matches!(value, Value::Unsigned(_))) {
        let narrow = all(|value| value.as_u64().is_some_and(|n| u32::try_from(n).is_ok()));
        return Some(if narrow { Form::U32 } else { Form::U64 });
    }
    if all(|value| matches!(value, Value::Signed(_) | Value::Unsigned(_))) {
        let fits = |value: &Value| match value {
            Value::Unsigned(n) => i64::try_from(*n).is_ok(),
            _ => true,
        };
        return all(fits).then(|| if all(small) { Form::I32 } else { Form::I64 });
    }
    all(|value| value.as_f64().is_some()).then_some(Form::F32)
}

/// Writes a value that [`form`] found to be of that type.
fn put(out: &mut Vec<u8>, form: Form, value: &Value) {
    let unsigned = value.as_u64().unwrap_or(0);
    let signed = match value {
        Value::Signed(n) => *n,
        _ => unsigned as i64,
    };
    match form {
        Form::U16 => out.extend_from_slice(&(unsigned as u16).to_le_bytes()),
        Form::U32 => out.extend_from_slice(&(unsigned as u32).to_le_bytes()),
        Form::U64 => out.extend_from_slice(&unsigned.to_le_bytes()),
        Form::I32 => out.extend_from_slice(&(signed as i32).to_le_bytes()),
        Form::I64 => out.extend_from_slice(&signed.to_le_bytes()),
        Form::F32 => out.extend_from_slice(&(value.as_f64().unwrap_or(f64::NAN) as f32).to_le_bytes()),
        Form::Bool => out.push(u8::from(value.as_bool().unwrap_or(false))),
        Form::Text => put_text(out, value.as_str().unwrap_or_default()),
    }
}

fn put_entry(out: &mut Vec<u8>, key: &str, value: &Value) -> Result<(), WriteError> {
    const LIST: u32 = 9;
    let wrong = || WriteError::List { key: key.to_owned() };
    if let Value::List(values) = value {
        let form = form(key, values).ok_or_else(wrong)?;
        out.extend_from_slice(&LIST.to_le_bytes());
        out.extend_from_slice(&(form as u32).to_le_bytes());
        out.extend_from_slice(&(values.len() as u64).to_le_bytes());
        for value in values {
            put(out, form, value);
        }
    } else {
        let form = form(key, std::slice::from_ref(value)).ok_or_else(wrong)?;
        out.extend_from_slice(&(form as u32).to_le_bytes());
        put(out, form, value);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::Index, *};

    fn metadata() -> IndexMap<String, Value> {
        let texts = ["a", "ä", ""].map(|text| Value::Text(text.to_owned()));
        [
            ("general.architecture", Value::Text("llama".to_owned())),
            ("general.alignment", Value::Unsigned(64)),
            ("llama.block_count", Value::Unsigned(2)),
            ("a.large", Value::Unsigned(1 << 40)),
            ("a.negative", Value::Signed(-3)),
            ("a.large.negative", Value::Signed(-(1 << 40))),
            ("llama.rope.freq_base", Value::Float(10_000.0)),
            ("tokenizer.ggml.add_bos_token", Value::Bool(true)),
            ("tokenizer.ggml.tokens", Value::List(texts.to_vec())),
            ("tokenizer.ggml.scores", Value::List(vec![Value::Float(-0.5), Value::Float(0.25)])),
            ("tokenizer.ggml.token_type", Value::List(vec![Value::Signed(1), Value::Signed(3)])),
            ("tokenizer.ggml.merges", Value::List(Vec::new())),
            ("split.count", Value::Unsigned(1)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect()
    }

    fn planned(name: &str, kind: TensorType, shape: &[usize]) -> Planned {
        Planned { name: name.to_owned(), kind, shape: shape.to_vec() }
    }

    fn tensors() -> Vec<Planned> {
        vec![
            planned("m", TensorType::Q4K, &[3, 512]),
            planned("v", TensorType::F32, &[5]),
            planned("h", TensorType::F16, &[2, 3, 7]),
        ]
    }

    fn fill(tensor: &Planned, sink: &mut TensorSink<'_>) -> Result<(), WriteError> {
        let bytes: Vec<u8> = (0..tensor.bytes().unwrap()).map(|i| (i * 7 + tensor.name.len() as u64) as u8).collect();
        // In pieces that are no multiple of anything.
        bytes.chunks(13).try_for_each(|piece| sink.push(piece))
    }

    fn file() -> Vec<u8> {
        let mut file = Vec::new();
        Layout::new(&metadata(), tensors()).unwrap().write(&mut file, fill).unwrap();
        file
    }

    #[test]
    fn what_is_written_is_read_back() {
        let file = file();
        let index = Index::parse(&file).unwrap();
        assert_eq!((index.version, index.tensors.len()), (3, 3));
        assert_eq!(index.metadata, metadata());
        assert_eq!(file.len() as u64, Layout::new(&metadata(), tensors()).unwrap().size());
        for tensor in tensors() {
            let info = &index.tensors[&tensor.name];
            assert_eq!((info.kind, &info.shape), (tensor.kind, &tensor.shape));
            let bytes = &file[info.range.clone()];
            assert_eq!(bytes.len() as u64, tensor.bytes().unwrap());
            assert!(bytes.iter().enumerate().all(|(i, byte)| *byte == (i * 7 + tensor.name.len()) as u8));
            assert_eq!(info.range.start % 64, 0);
        }
    }

    /// candle's reader keeps the types apart that ours does not.
    #[test]
    fn values_are_in_the_types_llama_cpp_reads() {
        use candle_core::quantized::gguf_file::{Content, Value as Typed};
        let content = Content::read(&mut io::Cursor::new(file())).unwrap();
        let value = |key: &str| &content.metadata[key];
        assert!(matches!(value("llama.block_count"), Typed::U32(2)));
        assert!(matches!(value("a.large"), Typed::U64(_)));
        assert!(matches!(value("a.negative"), Typed::I32(-3)));
        assert!(matches!(value("a.large.negative"), Typed::I64(_)));
        assert!(matches!(value("llama.rope.freq_base"), Typed::F32(_)));
        assert!(matches!(value("split.count"), Typed::U16(1)));
        let element = |key: &str| value(key).to_vec().unwrap()[0].clone();
        assert!(matches!(element("tokenizer.ggml.scores"), Typed::F32(_)));
        assert!(matches!(element("tokenizer.ggml.token_type"), Typed::I32(1)));
        assert!(matches!(element("tokenizer.ggml.tokens"), Typed::String(_)));
    }

    #[test]
    fn a_tensor_of_another_length_is_refused_and_leaves_no_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.gguf");
        let layout = Layout::new(&metadata(), tensors()).unwrap();
        for length in [0, 431, 433] {
            let error = layout.write_file(&path, |tensor, sink| match tensor.name.as_str() {
                "m" => sink.push(&vec![0; length]),
                _ => fill(tensor, sink),
            });
            assert!(matches!(error, Err(WriteError::Length { .. })), "{length}: {error:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        }
        layout.write_file(&path, fill).unwrap();
        assert_eq!(fs::read(&path).unwrap(), file());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_cannot_be_stored_is_refused() {
        let with = |key: &str, value: Value| {
            let mut metadata = metadata();
            metadata.insert(key.to_owned(), value);
            Layout::new(&metadata, tensors()).unwrap_err()
        };
        let mixed = Value::List(vec![Value::Bool(true), Value::Unsigned(1)]);
        assert!(matches!(with("x", mixed), WriteError::List { .. }));
        assert!(matches!(with("x", Value::List(vec![Value::List(Vec::new())])), WriteError::List { .. }));
        assert!(matches!(with("general.alignment", Value::Unsigned(48)), WriteError::Alignment(_)));
        for (kind, shape) in
            [(TensorType::Q4K, &[2, 128][..]), (TensorType::F32, &[]), (TensorType::F32, &[1, 1, 1, 1, 1])]
        {
            let error = Layout::new(&metadata(), vec![planned("t", kind, shape)]).unwrap_err();
            assert!(matches!(error, WriteError::Shape { .. }), "{shape:?}");
        }
        let twice = [tensors(), tensors()].concat();
        assert!(matches!(Layout::new(&metadata(), twice), Err(WriteError::Twice { .. })));
    }
}
