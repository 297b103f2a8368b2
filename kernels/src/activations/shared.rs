//! A batch of activations while threads fill it in.
use crate::{arena::Strips, dispatch::Kernels};

use super::CodeBlock;

/// Which of eight columns each byte of codes belongs to: the order in which a lane of 4-bit weights
/// comes apart, the lower half of each byte first.
const BYTE_ORDER: [usize; 8] = [0, 4, 1, 5, 2, 6, 3, 7];

/// Writes 8-bit codes as bytes, in [`BYTE_ORDER`].
fn write_bytes(codes: &[i16], bytes: &mut [i8]) {
    for (codes, bytes) in codes.as_chunks::<8>().0.iter().zip(bytes.as_chunks_mut::<8>().0) {
        *bytes = BYTE_ORDER.map(|at| codes[at] as i8);
    }
}

/// The rows of an [`Activations`](super::Activations) while threads fill them in.
#[derive(Debug)]
pub struct SharedRows<'a> {
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) parts: Parts<'a>,
}

/// The buffers of a batch, of which each row is taken once.
#[derive(Debug)]
pub(super) enum Parts<'a> {
    Floats(Strips<'a, f32>),
    Codes {
        largest: f32,
        codes: Strips<'a, i16>,
        blocks: Strips<'a, CodeBlock>,
        /// The codes once more, where they have 8 bits.
        bytes: Option<Strips<'a, i8>>,
    },
}

impl SharedRows<'_> {
    /// Fills in one row.
    ///
    /// # Panics
    ///
    /// If there is no such row, it was filled in before, or `x` is not as long as a row.
    pub fn quantize(&self, kernels: &Kernels, row: usize, x: &[f32]) {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        assert_eq!(x.len(), self.columns, "a row has {} columns", self.columns);
        match &self.parts {
            Parts::Floats(floats) => take(floats, row)[..x.len()].copy_from_slice(x),
            Parts::Codes { largest, codes, blocks, bytes } => {
                let codes = &mut take(codes, row)[..x.len()];
                (kernels.quantize_codes)(x, *largest, codes, take(blocks, row));
                if let Some(bytes) = bytes {
                    write_bytes(codes, &mut take(bytes, row)[..x.len()]);
                }
            }
        }
    }
}

fn take<'a, T>(rows: &Strips<'a, T>, row: usize) -> &'a mut [T] {
    let Some(strip) = rows.take(row..row + 1) else { panic!("row {row} was filled in before") };
    strip.into_row()
}
