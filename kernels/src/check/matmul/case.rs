//! What is multiplied, its definition in f64, and how far off products may be.
use super::super::random::Random;
use crate::{Activations, Arena, Claims, Format, Kernels, Matrix, Output, Precision, dequantize_row};

/// A matrix, the bytes it was packed from, and inputs.
pub(super) struct Case {
    pub(super) format: Format,
    pub(super) rows: usize,
    pub(super) columns: usize,
    pub(super) tokens: usize,
    pub(super) precision: Precision,
    pub(super) matrix: Matrix,
    pub(super) bytes: Vec<u8>,
    pub(super) x: Vec<f32>,
}

impl Case {
    pub(super) fn new(format: Format, rows: usize, columns: usize, tokens: usize) -> Self {
        let mut random = Random::new((rows * 31 + columns * 7 + tokens) as u64);
        let bytes = random.matrix(format, rows, columns);
        let x = random.row(tokens * columns);
        Self::of(format, rows, columns, tokens, bytes, x)
    }

    pub(super) fn of(format: Format, rows: usize, columns: usize, tokens: usize, bytes: Vec<u8>, x: Vec<f32>) -> Self {
        let mut arena = Arena::with_capacity(Matrix::packed_bytes(format, rows, columns).unwrap()).unwrap();
        let matrix = Matrix::pack(&mut arena, format, rows, columns, &bytes).unwrap();
        Self { format, rows, columns, tokens, precision: Precision::Int16, matrix, bytes, x }
    }

    pub(super) fn with(self, precision: Precision) -> Self {
        Self { precision, ..self }
    }

    pub(super) fn name(&self) -> String {
        format!("{} {}x{}, {} tokens, {:?}", self.format, self.rows, self.columns, self.tokens, self.precision)
    }

    pub(super) fn product(&self, kernels: &Kernels) -> Vec<f32> {
        let (mut activations, mut claims) = (Activations::with_precision(self.precision), Claims::new());
        activations.quantize(kernels, &self.x, self.tokens, self.columns, self.matrix.activation_class());
        let mut out = vec![f32::NAN; self.tokens * self.rows];
        let output = Output::new(&mut out, self.tokens, self.rows, &mut claims);
        kernels.matmul(&self.matrix, &activations, &mut output.tile(0..self.rows));
        out
    }

    /// The definition, on the numbers the file's bytes stand for.
    pub(super) fn oracle(&self) -> Vec<f64> {
        let mut out = vec![0.0; self.tokens * self.rows];
        let mut weights = vec![0.0; self.columns];
        let size = self.format.row_bytes(self.columns).unwrap();
        for row in 0..self.rows {
            dequantize_row(self.format, &self.bytes[row * size..][..size], &mut weights);
            for (token, x) in self.x.chunks_exact(self.columns).enumerate() {
                out[token * self.rows + row] = weights.iter().zip(x).map(|(w, x)| f64::from(*w) * f64::from(*x)).sum();
            }
        }
        out
    }
}

/// Mean squared error over mean square.
pub(super) fn nmse(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    let error: f64 = got.iter().zip(want).map(|(got, want)| (f64::from(*got) - want).powi(2)).sum();
    error / want.iter().map(|want| want * want).sum::<f64>()
}

/// Panics at the first number that differs in any bit, except that one NaN is as good as another.
pub(super) fn same(got: &[f32], want: &[f32], name: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (got, want)) in got.iter().zip(want).enumerate() {
        let equal = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
        assert!(equal, "{name}: number {i} is {got}, not {want}");
    }
}

pub(super) const PRECISIONS: [Precision; 2] = [Precision::Int16, Precision::Int8];

/// Error bounds: activations of 15 or 8 bits, and f32 sums of exact products.
pub(super) fn bound(format: Format, precision: Precision) -> f64 {
    match precision {
        _ if !format.is_quantized() => 1.0e-12,
        Precision::Int16 => 1.0e-7,
        Precision::Int8 => 5.0e-4,
    }
}

/// Few and many columns of each format, and how many rows and tokens.
pub(super) fn shapes(format: Format) -> Vec<(usize, usize, usize)> {
    let columns: &[usize] = match format.block_values() {
        1 => &[1, 7, 64, 255, 256, 257, 600],
        32 => &[32, 96, 576, 896],
        _ => &[256, 512, 1280],
    };
    let mut shapes = Vec::new();
    for (i, columns) in columns.iter().enumerate() {
        for tokens in [1, 2, 3, 4, 5, 7, 8, 9, 12, 13, 17, 33] {
            shapes.push(([1, 8, 9, 16, 23, 40, 65][(i + tokens) % 7], *columns, tokens));
        }
        shapes.push((200, *columns, 1));
        shapes.push((203, *columns, 2));
    }
    // More than any tier unpacks at once, so that sums go on where a panel before left them.
    let deep = if format.block_values() == 256 { 1792 } else { 1568 };
    shapes.extend([5, 8, 13].map(|tokens| (40, deep, tokens)));
    // More tokens than any tier's sums wait for beside each other.
    shapes.push((23, columns[columns.len() - 2], 199));
    shapes
}
