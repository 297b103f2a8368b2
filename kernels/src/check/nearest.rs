//! What is nearest, against its definition, bit by bit and product by product.
use super::each_tier;

/// A deterministic sequence of 64-bit numbers (Marsaglia 2003).
fn numbers() -> impl FnMut() -> u64 {
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    }
}

#[test]
fn distances_are_the_bits_that_differ() {
    let mut next = numbers();
    let [first, second]: [Vec<u64>; 2] = std::array::from_fn(|_| (0..48).map(|_| next()).collect());
    each_tier(|kernels| {
        for to in [[0, 0], [u64::MAX, 0], [u64::MAX; 2], [first[5], second[5]], [1, 1 << 63]] {
            for range in super::lengths_and_offsets() {
                let mut out = [0xee; 48];
                kernels.bit_distances([&first[range.clone()], &second[range.clone()]], to, &mut out[range.clone()]);
                for at in 0..48 {
                    let differ = |bit: usize| (first[at] ^ to[0]) >> bit & 1 == 1;
                    let others = (0..64).filter(|bit| (second[at] ^ to[1]) >> bit & 1 == 1).count();
                    let want =
                        if range.contains(&at) { (0..64).filter(|bit| differ(*bit)).count() + others } else { 0xee };
                    assert_eq!(usize::from(out[at]), want, "{at} of {range:?}");
                }
            }
        }
        let mut all = [0; 9];
        kernels.bit_distances([&[u64::MAX; 9]; 2], [0; 2], &mut all);
        assert_eq!(all, [128; 9]);
    });
}

#[test]
fn masks_are_of_those_within_the_limit() {
    let mut next = numbers();
    let distances: Vec<u8> = (0..200).map(|_| next() as u8).collect();
    each_tier(|kernels| {
        for limit in [0, 1, 64, 127, 128, 254, 255] {
            for length in 0..=distances.len() {
                let distances = &distances[..length];
                let mut masks = vec![u64::MAX; length.div_ceil(64)];
                kernels.within(distances, limit, &mut masks);
                let is_within = |at: usize| distances.get(at).is_some_and(|distance| *distance <= limit);
                for at in 0..64 * masks.len() {
                    assert_eq!(masks[at / 64] >> (at % 64) & 1 == 1, is_within(at), "{at} of {length}, limit {limit}");
                }
            }
        }
    });
}

#[test]
fn products_are_exact_and_wrap_alike() {
    let mut next = numbers();
    let random: Vec<i16> = (0..2200).map(|_| next() as i16).collect();
    let extreme: Vec<i16> = (0..2200).map(|at| if at % 7 == 0 { i16::MAX } else { i16::MIN }).collect();
    let small: Vec<i16> = random.iter().map(|x| x / 1024).collect();
    each_tier(|kernels| {
        for values in [&random, &extreme, &small] {
            for width in 1..=100 {
                let (rows, vector) = (&values[1..][..20 * width], &values[2100..][..width]);
                // Fewer than are asked for at once, and more.
                for count in [0, 1, 8, 9, 20] {
                    let places: Vec<u32> = (0..count).map(|at| at * 7 % 20).collect();
                    let mut out = vec![-1; places.len()];
                    kernels.dots_i16(rows, &places, vector, &mut out);
                    for (place, out) in places.iter().zip(out) {
                        let row = &rows[*place as usize * width..][..width];
                        let products = row.iter().zip(vector).map(|(a, b)| i64::from(*a) * i64::from(*b));
                        assert_eq!(out, products.sum::<i64>() as i32, "row {place} of {width}");
                    }
                }
            }
        }
        // Of a vector of length 32767 the square is the greatest there is, and whole.
        let one = [[0, i16::MAX].as_slice(), &[0; 62]].concat();
        let mut out = [0];
        kernels.dots_i16(&one, &[0], &one, &mut out);
        assert_eq!(out, [32_767 * 32_767]);
    });
}

#[test]
fn other_lengths_are_refused() {
    each_tier(|kernels| {
        let refuses = |run: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)).is_err();
        assert!(refuses(&|| kernels.bit_distances([&[0; 3], &[0; 2]], [0; 2], &mut [0; 3])));
        assert!(refuses(&|| kernels.bit_distances([&[0; 3]; 2], [0; 2], &mut [0; 2])));
        assert!(refuses(&|| kernels.within(&[0; 65], 1, &mut [0])));
        assert!(refuses(&|| kernels.dots_i16(&[0; 6], &[0, 1], &[0; 3], &mut [0])));
        assert!(refuses(&|| kernels.dots_i16(&[0; 6], &[2], &[0; 3], &mut [0])));
        assert!(refuses(&|| kernels.dots_i16(&[0; 5], &[0, 1], &[0; 3], &mut [0; 2])));
    });
}
