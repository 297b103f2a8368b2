//! Products `x Wᵀ` of a batch of rows with a weight matrix.
use std::{cell::RefCell, ops::Range, slice};

use crate::{
    activations::{ActivationRows, Activations},
    arena::Claims,
    dispatch::Kernels,
    format::Format,
    matrix::{Matrix, layout::ROWS},
    output::{Output, Tile},
    pool::{Chunks, Pool},
    scalar::matmul::FLOAT_COLUMNS,
};

/// Some groups of eight rows of a matrix, as kernels read them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WeightGroups<'a> {
    pub(crate) format: Format,
    pub(crate) columns: usize,
    pub(crate) bytes: &'a [u8],
    /// What is read next: a hint, which changes no result.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 fetches"))]
    pub(crate) ahead: Ahead<'a>,
}

/// Weights that are used soon after a product with few tokens, and are fetched into a near cache while that is
/// computed.
///
/// A product reads its own weights as fast as memory gives them, but whoever begins to read elsewhere waits once
/// more before the first bytes come. Short stretches, as those of a low-rank change, are little but such waiting.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ahead<'a> {
    parts: [&'a [u8]; PARTS],
    /// Whether a product begins with these.
    begins: bool,
}

/// Stretches of weights that are fetched at a time, at most.
const PARTS: usize = 2;

impl<'a> Ahead<'a> {
    /// Returns some rows of up to two matrices, in whole groups of eight; nothing of a mapped one.
    #[must_use]
    pub fn of(parts: [Option<(&'a Matrix, Range<usize>)>; PARTS]) -> Self {
        let bytes = |part: Option<(&'a Matrix, Range<usize>)>| {
            let (matrix, rows) = part?;
            matrix.groups(rows.start / ROWS..rows.end.min(matrix.rows()).div_ceil(ROWS))
        };
        Self { parts: parts.map(|part| bytes(part).unwrap_or_default()), begins: false }
    }

    /// Returns what a product with some rows of a matrix reads first, so many bytes: where it begins, and halfway.
    #[must_use]
    pub fn beginning(matrix: &'a Matrix, rows: Range<usize>, bytes: usize) -> Self {
        let rows = rows.start / ROWS..rows.end.min(matrix.rows()).div_ceil(ROWS);
        let half = matrix.bytes_of(rows.len() / 2 * ROWS);
        let Some((first, second)) = matrix.groups(rows).map(|groups| groups.split_at(half)) else {
            return Self::default();
        };
        let some = |half: &'a [u8]| &half[..half.len().min(bytes / 2)];
        Self { parts: [some(first), some(second)], begins: true }
    }

    /// Returns the same for a tier whose products fetch what lies so many bytes ahead of them: where they begin, no
    /// more is missing.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 fetches"))]
    #[inline]
    pub(crate) fn up_to(self, bytes: usize) -> Self {
        if !self.begins {
            return self;
        }
        Self { parts: self.parts.map(|part| &part[..part.len().min(bytes)]), ..self }
    }

    /// Returns the bytes in up to so many shares, fewer where that needs no division, which takes as long as a few
    /// products.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 fetches"))]
    #[inline]
    pub(crate) fn shares(self, count: usize) -> Shares<'a> {
        let [first, second] = self.parts;
        let shift = count.max(1).ilog2();
        let lines = |bytes: &'a [u8]| bytes.chunks(((bytes.len() >> shift) + 1).next_multiple_of(CACHE_LINE));
        Shares([lines(first), lines(second)])
    }
}

/// What is [`Ahead`], share by share.
pub(crate) struct Shares<'a>([slice::Chunks<'a, u8>; PARTS]);

impl<'a> Shares<'a> {
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code, reason = "only x86 fetches"))]
    #[inline]
    pub(crate) fn next(&mut self) -> [&'a [u8]; PARTS] {
        let [first, second] = &mut self.0;
        [first.next().unwrap_or_default(), second.next().unwrap_or_default()]
    }
}

/// Bytes that are fetched together.
pub(crate) const CACHE_LINE: usize = 64;

/// Rows a thread takes at a time where the work is handed out as it goes.
const CHUNK_ROWS: usize = 64;

/// Batches of more rows than this are handed out as they go; smaller ones in equal shares, whose
/// weights stay with one core from token to token.
const SHARED_OUT_TOKENS: usize = 8;

/// Groups of a mapped matrix that are interleaved at a time: what stays in a cache until it is used.
const MAPPED_GROUPS: usize = 8;

thread_local! {
    /// Groups of a mapped matrix.
    static GROUPS: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    /// Products that are added to others.
    static PRODUCTS: RefCell<(Vec<f32>, Claims)> = RefCell::default();
}

impl Kernels {
    /// Writes `Σ_k x[token][k] W[row][k]` into a tile, for all tokens and the tile's rows.
    ///
    /// # Shapes
    ///
    /// `activations` `[tokens][columns]`, the tile `[tokens][rows]` of an [`Output`] with as many rows
    /// as the matrix.
    ///
    /// # Numerics
    ///
    /// Quantised weights: the products of 32 columns with the activations' codes are added up in
    /// integers, exactly; `acc = fma(sum, weight scale * activation scale, acc)`, then for formats
    /// with minima `acc = fma(-minimum, activation scale * total, acc)`, from the first columns to the
    /// last. Float weights: 256 columns are added up with a fused multiply-add each, then these sums.
    /// Every result depends on its own row and token only, not on the batch or the tile, and it is
    /// equal to the last bit in every tier. A NaN or an infinity in a token's activations makes all of
    /// its results NaN for quantised weights; for float weights they propagate as in IEEE arithmetic.
    ///
    /// # Panics
    ///
    /// If the shapes or the activation class do not belong to the matrix.
    pub fn matmul(&self, matrix: &Matrix, activations: &Activations, tile: &mut Tile<'_>) {
        self.matmul_rows(matrix, tile.rows(), activations, tile);
    }

    /// Writes what [`Kernels::matmul`] does for `rows` of the matrix into a tile of as many rows, which
    /// may lie anywhere in its output.
    ///
    /// # Panics
    ///
    /// If the shapes or the activation class do not belong to the matrix, or the rows do not start at a
    /// multiple of eight and end at one or with the last row.
    pub fn matmul_rows(&self, matrix: &Matrix, rows: Range<usize>, activations: &Activations, tile: &mut Tile<'_>) {
        self.matmul_fetching(matrix, rows, activations, tile, Ahead::default());
    }

    /// Does what [`Kernels::matmul_rows`] does, and has fetched meanwhile what is `ahead`, where the processor is
    /// one to be told and the tokens are few.
    ///
    /// # Panics
    ///
    /// As [`Kernels::matmul_rows`].
    pub fn matmul_fetching(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        activations: &Activations,
        tile: &mut Tile<'_>,
        ahead: Ahead<'_>,
    ) {
        assert_eq!(activations.class(), matrix.activation_class(), "class of activations for {}", matrix.format());
        assert_eq!(activations.columns(), matrix.columns(), "columns of the activations and of the matrix");
        assert_eq!(activations.rows(), tile.tokens(), "tokens of the activations and of the tile");
        assert_eq!(rows.len(), tile.rows().len(), "rows of the matrix and of the tile");
        assert!(rows.start <= rows.end && rows.end <= matrix.rows(), "rows {rows:?} of a matrix of {}", matrix.rows());
        let whole = |row: usize| row.is_multiple_of(ROWS) || row == matrix.rows();
        assert!(whole(rows.start) && whole(rows.end), "rows {rows:?} are no whole groups of {ROWS}");
        if rows.is_empty() || tile.tokens() == 0 {
            return;
        }
        let groups = rows.start / ROWS..rows.end.div_ceil(ROWS);
        let (format, columns) = (matrix.format(), matrix.columns());
        if let Some(bytes) = matrix.groups(groups.clone()) {
            return (self.matmul)(WeightGroups { format, columns, bytes, ahead }, activations.view(), tile);
        }
        GROUPS.with_borrow_mut(|packed| {
            for start in groups.clone().step_by(MAPPED_GROUPS) {
                let some = start..(start + MAPPED_GROUPS).min(groups.end);
                let part = (start - groups.start) * ROWS..((some.end - groups.start) * ROWS).min(rows.len());
                matrix.pack_groups(some, packed);
                let weights = WeightGroups { format, columns, bytes: packed, ahead: Ahead::default() };
                (self.matmul)(weights, activations.view(), &mut tile.part(part));
            }
        });
    }

    /// Adds the products of `rows` of the matrix to those of some tokens of a tile of as many rows: a low-rank
    /// change of a matrix is its B, added so to what the matrix gave.
    ///
    /// # Shapes
    ///
    /// `activations` has as many rows as there are `tokens`.
    ///
    /// # Numerics
    ///
    /// `y + p`, p as [`Kernels::matmul`] gives it by itself; what is `ahead` is fetched as
    /// [`Kernels::matmul_fetching`] does.
    ///
    /// # Panics
    ///
    /// As [`Kernels::matmul_rows`].
    pub fn matmul_adding(
        &self,
        matrix: &Matrix,
        rows: Range<usize>,
        activations: &Activations,
        tile: &mut Tile<'_>,
        tokens: Range<usize>,
        ahead: Ahead<'_>,
    ) {
        // Kernels finish products of so few columns before they put them anywhere.
        if !matrix.format().is_quantized() && matrix.columns() <= FLOAT_COLUMNS {
            return self.matmul_fetching(matrix, rows, activations, &mut tile.adding(tokens), ahead);
        }
        PRODUCTS.with_borrow_mut(|(values, claims)| {
            values.clear();
            values.resize(tokens.len() * rows.len(), 0.0);
            let width = rows.len();
            let mut products = Output::new(values, tokens.len(), width, claims).tile(0..width);
            self.matmul_fetching(matrix, rows, activations, &mut products, ahead);
            for (index, token) in tokens.enumerate() {
                self.add(tile.token(token), products.token(index));
            }
        });
    }
}

/// The signature of a tier's product: weights, activations, where the results go.
pub(crate) type MatmulKernel = fn(WeightGroups<'_>, ActivationRows<'_>, &mut Tile<'_>);

/// Writes `x Wᵀ` into `out`, on all threads of a pool.
///
/// `activations` and `claims` are buffers to reuse. See [`Kernels::matmul`] for shapes and numerics.
///
/// # Panics
///
/// If `x` is not `tokens` rows of the matrix's columns or `out` not `tokens` rows of its rows.
///
/// # Examples
///
/// ```
/// use ruvlab_kernels::{Activations, Arena, Claims, Format, Matrix, Pool, active, matmul_pooled};
///
/// let mut arena = Arena::with_capacity(1 << 20).unwrap();
/// let bytes: Vec<u8> = [1.0f32, 2.0, 3.0, 4.0].iter().flat_map(|x| x.to_le_bytes()).collect();
/// let matrix = Matrix::pack(&mut arena, Format::F32, 2, 2, &bytes).unwrap();
/// let (mut activations, mut claims, mut out) = (Activations::new(), Claims::new(), [0.0; 2]);
/// let pool = Pool::new(2).unwrap();
/// matmul_pooled(active(), &pool, &matrix, &[10.0, 1.0], 1, &mut activations, &mut claims, &mut out);
/// assert_eq!(out, [12.0, 34.0]);
/// ```
#[expect(clippy::too_many_arguments, reason = "two of them are buffers, so that nothing is allocated")]
pub fn matmul_pooled(
    kernels: &Kernels,
    pool: &Pool,
    matrix: &Matrix,
    x: &[f32],
    tokens: usize,
    activations: &mut Activations,
    claims: &mut Claims,
    out: &mut [f32],
) {
    assert_eq!(Some(x.len()), tokens.checked_mul(matrix.columns()), "{tokens} rows of {}", matrix.columns());
    let workers = pool.threads();
    {
        let rows = activations.shared(tokens, matrix.columns(), matrix.activation_class());
        let fill = |from: usize, to: usize| {
            for row in from..to {
                rows.quantize(kernels, row, &x[row * matrix.columns()..][..matrix.columns()]);
            }
        };
        if tokens < 2 * workers {
            fill(0, tokens);
        } else {
            pool.run(&|worker| fill(tokens * worker / workers, tokens * (worker + 1) / workers));
        }
    }
    let activations = &*activations;
    let output = Output::new(out, tokens, matrix.rows(), claims);
    if tokens <= SHARED_OUT_TOKENS {
        pool.run(&|worker| {
            kernels.matmul(matrix, activations, &mut output.tile(matrix.share(worker, workers)));
        });
    } else {
        let chunks = Chunks::new(matrix.rows(), CHUNK_ROWS);
        pool.run(&|_| {
            while let Some(rows) = chunks.next() {
                kernels.matmul(matrix, activations, &mut output.tile(rows));
            }
        });
    }
}
