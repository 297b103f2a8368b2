//! A buffer that several threads fill, each its own part.
use std::{marker::PhantomData, ops::Range};

use super::Claims;

/// A buffer `[rows][columns]` of which threads take strips: some columns of all rows, each column once.
///
/// Columns are taken in parts of so many. That no two strips overlap is settled when one is taken, so this
/// is safe to share.
#[derive(Debug)]
pub(crate) struct Strips<'a, T> {
    start: *mut T,
    rows: usize,
    columns: usize,
    /// Columns of a part; the last part has what is left.
    part: usize,
    claims: &'a Claims,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: the buffer is borrowed exclusively for 'a, its values may go to other threads, and `take` gives
// every one of them to at most one holder.
unsafe impl<T: Send> Send for Strips<'_, T> {}
// SAFETY: as above; `take` settles with atomic flags which of the sharers gets a part.
unsafe impl<T: Send> Sync for Strips<'_, T> {}

impl<'a, T> Strips<'a, T> {
    /// Returns `values` as `rows` rows of `columns`, to be taken in parts of `part` columns, none of them
    /// taken.
    ///
    /// # Panics
    ///
    /// If the length is not `rows * columns`, or parts are empty.
    pub(crate) fn new(values: &'a mut [T], rows: usize, columns: usize, part: usize, claims: &'a mut Claims) -> Self {
        assert!(Some(values.len()) == rows.checked_mul(columns), "{rows} rows of {columns} columns");
        claims.reset(columns.div_ceil(part));
        Self { start: values.as_mut_ptr(), rows, columns, part, claims, values: PhantomData }
    }

    /// Returns the number of columns.
    pub(crate) fn columns(&self) -> usize {
        self.columns
    }

    /// Returns the columns of these parts in all rows, or nothing when any of them was taken before.
    ///
    /// # Panics
    ///
    /// If there are no such parts.
    pub(crate) fn take(&self, parts: Range<usize>) -> Option<Strip<'a, T>> {
        let sound = parts.start <= parts.end && parts.end <= self.columns.div_ceil(self.part);
        assert!(sound, "parts {parts:?} of {} columns", self.columns);
        let columns = parts.start * self.part..parts.end * self.part;
        let columns = columns.start.min(self.columns)..columns.end.min(self.columns);
        let free = self.claims.claim(parts.start, parts.end);
        free.then_some(Strip { start: self.start, rows: self.rows, stride: self.columns, columns, values: PhantomData })
    }
}

/// Some columns of all rows, with one holder.
#[derive(Debug)]
pub(crate) struct Strip<'a, T> {
    /// The first value of the first row, of which the strip may begin further on.
    start: *mut T,
    rows: usize,
    /// From one row to the next.
    stride: usize,
    columns: Range<usize>,
    values: PhantomData<&'a mut [T]>,
}

// SAFETY: a strip is the only holder of its values, which may go to other threads.
unsafe impl<T: Send> Send for Strip<'_, T> {}

impl<'a, T> Strip<'a, T> {
    /// Returns the number of rows.
    pub(crate) fn rows(&self) -> usize {
        self.rows
    }

    /// Returns the columns, counted in the whole buffer.
    pub(crate) fn columns(&self) -> Range<usize> {
        self.columns.clone()
    }

    /// Returns some of the columns, counted from the strip's first, while nothing else uses the strip.
    ///
    /// # Panics
    ///
    /// If the strip has not so many.
    pub(crate) fn part(&mut self, columns: Range<usize>) -> Strip<'_, T> {
        let count = self.columns.len();
        assert!(columns.start <= columns.end && columns.end <= count, "columns {columns:?} of {count}");
        let columns = self.columns.start + columns.start..self.columns.start + columns.end;
        Strip { start: self.start, rows: self.rows, stride: self.stride, columns, values: PhantomData }
    }

    /// Returns the same columns of some rows, while nothing else uses the strip.
    ///
    /// # Panics
    ///
    /// If there are no such rows.
    pub(crate) fn of_rows(&mut self, rows: Range<usize>) -> Strip<'_, T> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "rows {rows:?} of {}", self.rows);
        let start = self.start.wrapping_add(rows.start * self.stride);
        Strip { start, rows: rows.len(), stride: self.stride, columns: self.columns.clone(), values: PhantomData }
    }

    /// Returns the values of one row.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    #[inline]
    pub(crate) fn row(&mut self, row: usize) -> &mut [T] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        // SAFETY: `row` and `columns` lie inside the buffer of `rows * stride` values (or what is left of it
        // from `start` on, where a strip is of some rows) that `Strips` borrows for longer than this strip
        // lives, no other strip has these columns, and `&mut self` keeps two slices of this one apart.
        unsafe {
            std::slice::from_raw_parts_mut(self.start.add(row * self.stride + self.columns.start), self.columns.len())
        }
    }

    /// Returns the values of the only row.
    ///
    /// # Panics
    ///
    /// If there are several, or none.
    pub(crate) fn into_row(self) -> &'a mut [T] {
        assert_eq!(self.rows, 1, "rows");
        // SAFETY: as in `row`; the strip, which is the only holder of these values, ends here.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(self.columns.start), self.columns.len()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_taken_once() {
        let (mut values, mut claims) = ([0; 3 * 20], Claims::new());
        let strips = Strips::new(&mut values, 3, 20, 8, &mut claims);
        assert_eq!(strips.columns(), 20);
        assert_eq!(strips.take(1..3).unwrap().columns(), 8..20);
        assert!(strips.take(0..2).is_none() && strips.take(2..3).is_none());
        // What was refused because of its neighbour counts as taken, too.
        assert!(strips.take(0..1).is_none());
        let mut next = Claims::new();
        assert_eq!(Strips::new(&mut values, 3, 20, 8, &mut next).take(3..3).unwrap().columns(), 20..20);
    }

    #[test]
    #[should_panic(expected = "parts 0..4 of 20 columns")]
    fn no_part_beyond_the_last() {
        let (mut values, mut claims) = ([0; 20], Claims::new());
        let _strip = Strips::new(&mut values, 1, 20, 8, &mut claims).take(0..4);
    }

    #[test]
    fn parts_and_rows_of_a_strip_are_where_they_say() {
        let mut values: Vec<usize> = (0..3 * 20).collect();
        let mut claims = Claims::new();
        let mut strip = Strips::new(&mut values, 3, 20, 8, &mut claims).take(1..3).unwrap();
        assert_eq!(strip.row(2), (48..60).collect::<Vec<_>>());
        assert_eq!(strip.part(3..5).row(1), [31, 32]);
        let mut rest = strip.of_rows(1..3);
        assert_eq!((rest.rows(), rest.part(0..2).row(1).to_vec()), (2, vec![48, 49]));
        assert_eq!(strip.of_rows(2..3).into_row()[0], 48);
    }

    #[test]
    #[should_panic(expected = "row 2 of 2")]
    fn no_row_beyond_the_last() {
        let (mut values, mut claims) = ([0; 3 * 8], Claims::new());
        let mut strip = Strips::new(&mut values, 3, 8, 8, &mut claims).take(0..1).unwrap();
        let _row = strip.of_rows(1..3).row(2);
    }
}
