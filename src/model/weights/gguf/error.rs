//! What can be wrong with a file.
use super::TensorType;

/// Why bytes are no GGUF file that can be used. Places are bytes from the start of the file.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GgufError {
    /// Another kind of file.
    #[error("not a GGUF file: the first bytes are {found:02x?}, not \"GGUF\"")]
    Magic {
        /// Its first bytes.
        found: Vec<u8>,
    },
    /// A version of the container that is not known.
    #[error("GGUF version {0} is not supported; versions 2 and 3 are (a huge number means a big-endian file)")]
    Version(u32),
    /// The file is shorter than it says.
    #[error("the file ends inside {what} at byte {at}; is the download complete?")]
    Truncated {
        /// What was being read.
        what: String,
        /// Where.
        at: usize,
    },
    /// A number beyond reason.
    #[error("{what} before byte {at} is {found}, outside {lowest} to {highest}")]
    OutOfRange {
        /// What was being read.
        what: String,
        /// Where the number ends.
        at: usize,
        /// What was found.
        found: u64,
        /// The least allowed.
        lowest: u64,
        /// The most allowed.
        highest: u64,
    },
    /// Text that is not text.
    #[error("{what} before byte {at} is not UTF-8")]
    NotUtf8 {
        /// What was being read.
        what: String,
        /// Where it ends.
        at: usize,
    },
    /// A type of metadata value that is not known, or a list of lists.
    #[error("metadata {key:?} before byte {at} has value type {found}, which is not supported here")]
    ValueType {
        /// Its key.
        key: String,
        /// Where the type's number ends.
        at: usize,
        /// The type's number.
        found: u32,
    },
    /// A name given twice.
    #[error("{what} is there twice")]
    Twice {
        /// Whose name.
        what: String,
    },
    /// A type of tensor that is not known.
    #[error("tensor {name:?} is stored as {found}, which is not supported (supported: {})",
        TensorType::all().map(TensorType::name).collect::<Vec<_>>().join(" "))]
    TensorType {
        /// The tensor.
        name: String,
        /// Its type.
        found: String,
    },
    /// A row that does not consist of whole blocks, or a size that overflows.
    #[error("tensor {name:?} of shape {shape:?} cannot be stored as {kind}")]
    Shape {
        /// The tensor.
        name: String,
        /// Its shape, rows first.
        shape: Vec<u64>,
        /// Its type.
        kind: TensorType,
    },
    /// An offset that is not a multiple of the alignment.
    #[error("tensor {name:?} starts at offset {offset}, not a multiple of {alignment}")]
    Misaligned {
        /// The tensor.
        name: String,
        /// Its offset in the data section.
        offset: u64,
        /// The alignment.
        alignment: u64,
    },
    /// A tensor beyond the end.
    #[error("tensor {name:?} ends beyond the file's {size} bytes; is the download complete?")]
    Outside {
        /// The tensor.
        name: String,
        /// The file's size.
        size: usize,
    },
    /// Two tensors in the same place.
    #[error("tensors {first:?} and {second:?} share bytes of the file; it is damaged or was written wrongly")]
    Overlap {
        /// The one that starts first.
        first: String,
        /// The other.
        second: String,
    },
}
