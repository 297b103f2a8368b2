//! Packed rows are the file's rows.
use super::*;
use crate::check::random::Random;

#[test]
fn rows_of_a_packed_matrix_are_the_rows_of_the_file() {
    let pool = Pool::new(2).unwrap();
    for format in Format::ALL {
        let mut random = Random::new(7);
        for rows in [1, 3, 8, 9, 16, 21] {
            let columns = if format.is_quantized() { format.block_values() * 3 } else { 37 };
            let bytes = random.matrix(format, rows, columns);
            let size = Matrix::packed_bytes(format, rows, columns).unwrap();
            let mut arena = Arena::with_capacity(2 * size).unwrap();
            let matrix = Matrix::pack(&mut arena, format, rows, columns, &bytes).unwrap();
            let same = Matrix::pack_on(&pool, &mut arena, format, rows, columns, &bytes).unwrap();
            assert!(
                matrix.groups(0..rows.div_ceil(8)).unwrap() == same.groups(0..rows.div_ceil(8)).unwrap(),
                "{format}"
            );
            assert_eq!(arena.used_bytes(), 2 * size);
            drop(arena);
            let (mut got, mut want) = (vec![0.0; columns], vec![0.0; columns]);
            for row in 0..rows {
                matrix.row(row, &mut got);
                let size = format.row_bytes(columns).unwrap();
                dequantize_row(format, &bytes[row * size..][..size], &mut want);
                let bits = |x: &[f32]| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!(bits(&got), bits(&want), "{format}, row {row} of {rows}");
            }
        }
    }
}

#[test]
fn shares_cover_all_rows_in_whole_groups() {
    let mut arena = Arena::with_capacity(1 << 20).unwrap();
    for rows in [1, 7, 8, 40, 41, 100] {
        let matrix = Matrix::pack(&mut arena, Format::F32, rows, 1, &vec![0; 4 * rows]).unwrap();
        for workers in 1..=9 {
            let shares: Vec<_> = (0..workers).map(|worker| matrix.share(worker, workers)).collect();
            assert_eq!((shares[0].start, shares[workers - 1].end), (0, rows));
            for (a, b) in shares.iter().zip(&shares[1..]) {
                assert!(a.end == b.start && (a.end % ROWS == 0 || a.end == rows), "{shares:?}");
            }
        }
    }
}

#[test]
fn what_is_no_matrix_is_refused() {
    let mut arena = Arena::with_capacity(0).unwrap();
    let mut pack = |format, rows, columns, bytes: usize| {
        Matrix::pack(&mut arena, format, rows, columns, &vec![0; bytes]).unwrap_err().to_string()
    };
    assert_eq!(
        pack(Format::Q4K, 2, 128, 144),
        "a 2 x 128 matrix cannot be q4_k: rows are whole blocks of 256 (use another format)"
    );
    assert_eq!(pack(Format::Q8_0, 2, 32, 34), "a 2 x 32 matrix in q8_0 takes 68 bytes, not 34 (is the file cut off?)");
    assert!(pack(Format::F32, usize::MAX / 8, 8, 0).contains("cannot be f32"));
    assert!(pack(Format::F32, 1 << 20, 4, 16 << 20).contains("left in the arena"));
    assert_eq!(Matrix::packed_bytes(Format::Q5_0, 8, 33), None);
    assert_eq!(Matrix::packed_bytes(Format::F32, usize::MAX, usize::MAX), None);
}
