//! The 6-bit scales inside a block of 256.

/// Returns the eight scales and eight minima that 12 bytes hold (`Q4_K`, `Q5_K`).
///
/// Bytes 0 to 3 hold the low six bits of scales 0 to 3 and, on top, the high two of scales 4 to 7;
/// bytes 4 to 7 the same for the minima; bytes 8 to 11 the low four bits of scales and minima 4 to 7.
pub(crate) fn scales_and_minima(packed: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for j in 0..4 {
        scales[j] = packed[j] & 63;
        minima[j] = packed[j + 4] & 63;
        scales[j + 4] = (packed[j + 8] & 15) | (packed[j] >> 6) << 4;
        minima[j + 4] = (packed[j + 8] >> 4) | (packed[j + 4] >> 6) << 4;
    }
    (scales, minima)
}

/// Returns the 12 bytes that [`scales_and_minima`] reads.
pub(crate) fn pack_scales_and_minima(scales: &[u8; 8], minima: &[u8; 8]) -> [u8; 12] {
    let mut packed = [0; 12];
    for j in 0..4 {
        packed[j] = scales[j] | (scales[j + 4] >> 4) << 6;
        packed[j + 4] = minima[j] | (minima[j + 4] >> 4) << 6;
        packed[j + 8] = (scales[j + 4] & 15) | (minima[j + 4] & 15) << 4;
    }
    packed
}

/// Returns the sixteen signed scales that 12 bytes hold (`Q3_K`): the low four bits of two scales in
/// each of bytes 0 to 7, the high two of four scales in each of bytes 8 to 11.
pub(crate) fn signed_scales(packed: &[u8]) -> [i8; 16] {
    std::array::from_fn(|j| {
        let low = (packed[j % 8] >> (4 * (j / 8))) & 15;
        let high = (packed[8 + j % 4] >> (2 * (j / 4))) & 3;
        (low | high << 4) as i8 - 32
    })
}
