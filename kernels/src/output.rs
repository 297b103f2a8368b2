//! The result of a product, written by several threads.
use std::ops::Range;

use crate::{
    arena::{Claims, Strip, Strips},
    matrix::layout::ROWS,
};

/// An f32 buffer `[tokens][rows]` of which threads take disjoint tiles: some rows of all tokens.
///
/// That no two tiles overlap is checked when a tile is taken, so this is safe to share.
///
/// # Examples
///
/// ```
/// use ruvlab_kernels::{Claims, Output};
///
/// let (mut values, mut claims) = (vec![0.0; 2 * 20], Claims::new());
/// let output = Output::new(&mut values, 2, 20, &mut claims);
/// std::thread::scope(|scope| {
///     for rows in [0..16, 16..20] {
///         let output = &output;
///         scope.spawn(move || output.tile(rows).token(1).fill(1.0));
///     }
/// });
/// assert_eq!(values, [[0.0; 20], [1.0; 20]].concat());
/// ```
#[derive(Debug)]
pub struct Output<'a>(Strips<'a, f32>);

impl<'a> Output<'a> {
    /// Returns `values` as `tokens` rows of `rows` numbers, none of them taken.
    ///
    /// # Panics
    ///
    /// If the length is not `tokens * rows`.
    #[must_use]
    pub fn new(values: &'a mut [f32], tokens: usize, rows: usize, claims: &'a mut Claims) -> Self {
        assert_eq!(Some(values.len()), tokens.checked_mul(rows), "{tokens} tokens of {rows} rows");
        Self(Strips::new(values, tokens, rows, ROWS, claims))
    }

    /// Returns the part of all tokens that belongs to `rows`; it starts at a multiple of eight and
    /// ends at one or with the last row.
    ///
    /// # Panics
    ///
    /// If the range does not start and end so, or if a part of it was taken before.
    #[must_use]
    pub fn tile(&self, rows: Range<usize>) -> Tile<'a> {
        let all = self.0.columns();
        assert!(rows.start <= rows.end && rows.end <= all, "rows {rows:?} of {all}");
        let whole = |row: usize| row.is_multiple_of(ROWS) || row == all;
        assert!(whole(rows.start) && whole(rows.end), "rows {rows:?} are no whole groups of {ROWS}");
        let strip = self.0.take(rows.start.div_ceil(ROWS)..rows.end.div_ceil(ROWS));
        let Some(strip) = strip else { panic!("rows {rows:?} were taken before") };
        Tile { strip, adds: false }
    }
}

/// Some rows of all tokens of an [`Output`].
#[derive(Debug)]
pub struct Tile<'a> {
    strip: Strip<'a, f32>,
    /// Whether what is put is added to what is there.
    adds: bool,
}

impl Tile<'_> {
    /// Returns how many groups of rows it has.
    pub(crate) fn groups(&self) -> usize {
        self.rows().len().div_ceil(ROWS)
    }

    /// Returns the rows.
    #[must_use]
    pub fn rows(&self) -> Range<usize> {
        self.strip.columns()
    }

    /// Returns the number of tokens.
    #[must_use]
    pub fn tokens(&self) -> usize {
        self.strip.rows()
    }

    /// Returns some of the rows, counted from the tile's first, while nothing else uses the tile.
    ///
    /// # Panics
    ///
    /// If the tile has not so many.
    pub(crate) fn part(&mut self, rows: Range<usize>) -> Tile<'_> {
        Tile { strip: self.strip.part(rows), adds: self.adds }
    }

    /// Returns the same rows of some of the tokens, to be added to by what is put, while nothing else uses the
    /// tile: by a kernel that puts only what it has finished, for sums cannot be read back.
    ///
    /// # Panics
    ///
    /// If there are no such tokens.
    pub(crate) fn adding(&mut self, tokens: Range<usize>) -> Tile<'_> {
        Tile { strip: self.strip.of_rows(tokens), adds: true }
    }

    /// Returns the numbers of one token.
    ///
    /// # Panics
    ///
    /// If there is no such token.
    #[inline]
    pub fn token(&mut self, token: usize) -> &mut [f32] {
        self.strip.row(token)
    }

    /// Reads what [`Tile::put`] wrote.
    #[inline]
    pub(crate) fn get<const W: usize, const G: usize>(
        &mut self,
        token: usize,
        group: usize,
        values: &mut [[f32; W]; G],
    ) {
        let from = &self.token(token)[group * ROWS..];
        match from.as_chunks().0.first_chunk() {
            Some(from) => *values = *from,
            None => copy_some(from, values.as_flattened_mut()),
        }
    }

    /// Writes some groups of rows from group `group` of the tile on, as many rows as it has there.
    #[inline(always)]
    pub(crate) fn put<const W: usize, const G: usize>(&mut self, token: usize, group: usize, values: &[[f32; W]; G]) {
        let adds = self.adds;
        let out = &mut self.token(token)[group * ROWS..];
        match out.as_chunks_mut().0.first_chunk_mut() {
            Some(out) if adds => {
                for g in 0..G {
                    for w in 0..W {
                        out[g][w] += values[g][w];
                    }
                }
            }
            Some(out) => *out = *values,
            None if adds => add_some(values.as_flattened(), out),
            None => copy_some(values.as_flattened(), out),
        }
    }
}

/// Copies as many numbers as there are in both, apart from the copies of a known length, which stay in registers.
#[cold]
#[inline(never)]
fn copy_some(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = *from);
}

/// Adds as many, likewise.
#[cold]
#[inline(never)]
fn add_some(from: &[f32], to: &mut [f32]) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_what_they_say() {
        let (mut values, mut claims) = (vec![0.0; 3 * 27], Claims::new());
        let output = Output::new(&mut values, 3, 27, &mut claims);
        for rows in [8..16, 0..8, 16..27, 27..27] {
            let mut tile = output.tile(rows.clone());
            for token in 0..3 {
                assert_eq!(tile.token(token).len(), rows.len());
                for (row, value) in rows.clone().zip(tile.token(token)) {
                    *value = (100 * token + row) as f32;
                }
            }
        }
        for (i, value) in values.iter().enumerate() {
            assert_eq!(*value, (i / 27 * 100 + i % 27) as f32);
        }
    }

    #[test]
    #[should_panic(expected = "were taken before")]
    fn overlapping_tiles_are_refused() {
        let (mut values, mut claims) = (vec![0.0; 32], Claims::new());
        let output = Output::new(&mut values, 1, 32, &mut claims);
        let _first = output.tile(0..16);
        let _second = output.tile(8..24);
    }

    #[test]
    #[should_panic(expected = "no whole groups")]
    fn tiles_are_whole_groups() {
        let (mut values, mut claims) = (vec![0.0; 32], Claims::new());
        let _tile = Output::new(&mut values, 1, 32, &mut claims).tile(0..12);
    }

    #[test]
    #[should_panic(expected = "row 1 of 1")]
    fn no_token_beyond_the_last() {
        let (mut values, mut claims) = (vec![0.0; 32], Claims::new());
        let _token = Output::new(&mut values, 1, 32, &mut claims).tile(0..32).token(1);
    }
}
