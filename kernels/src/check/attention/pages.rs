//! Keys and values in pages, in parts and in their types.
use super::{
    BLOCK_TYPES, Cached, F16, F32, Half, Numbers, Q4_0, Q5_1, Q8_0, Single, Stored, TYPES, attend, each_tier, nmse,
    oracle, shape, waves,
};
use crate::{AttentionScratch, AttentionShape, ContextPart, part_values};

#[test]
fn no_result_depends_on_the_size_of_pages() {
    each_tier(|kernels| {
        for (d, types) in [(64, &TYPES[..]), (80, &TYPES[..]), (20, &TYPES[..]), (96, &BLOCK_TYPES[..])] {
            for (group, types) in [1, 3, 5, 7].into_iter().zip(types) {
                for (tokens, first) in [(1, 0), (1, 200), (3, 126), (1, 598), (4, 0), (37, 100), (130, 70)] {
                    for window in [None, Some(75)] {
                        let shape = AttentionShape { window, ..shape(d) };
                        let queries = waves(tokens * group * d, 2.0);
                        let mut cached = Cached::new(kernels, first + tokens, d, 2.0, *types);
                        let contiguous = attend(kernels, &shape, &queries, tokens, first, &cached);
                        for page_tokens in [8, 16, 32] {
                            cached.page_tokens = page_tokens;
                            let paged = attend(kernels, &shape, &queries, tokens, first, &cached);
                            let same = contiguous.iter().zip(&paged).all(|(a, b)| a.to_bits() == b.to_bits());
                            assert!(same, "D={d} T={tokens} at {first}, {types:?}, pages of {page_tokens}");
                        }
                    }
                }
            }
        }
    });
}

#[test]
fn parts_merged_in_order_are_the_whole() {
    each_tier(|kernels| {
        for (d, group, types) in [(64, 3, F16), (80, 7, F32), (128, 6, [Q8_0, Q8_0]), (96, 1, [Q5_1, Q4_0])] {
            for position in [0, 255, 256, 599, 1300] {
                for window in [None, Some(300)] {
                    let shape = AttentionShape { window, ..shape(d) };
                    let queries = waves(group * d, 2.0);
                    let cached = Cached::new(kernels, position + 1, d, 2.0, types);
                    let (mut scratch, mut out) = (AttentionScratch::default(), vec![f32::NAN; group * d]);
                    let length = part_values(d, group);
                    let mut parts = vec![f32::NAN; shape.parts(position).len() * length];
                    // Last part first: none needs another.
                    let rows = shape.parts(position).zip(parts.chunks_exact_mut(length)).rev();
                    for (index, to) in rows {
                        let part = ContextPart { cached: &cached, position, index };
                        let following = index.checked_sub(1).map(|index| ContextPart { index, ..part });
                        kernels.attend_part(&shape, &queries, part, following, &mut scratch, to);
                    }
                    kernels.merge_parts(d, &parts, &mut out, None);
                    let whole = attend(kernels, &shape, &queries, 1, position, &cached);
                    let same = out.iter().zip(&whole).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "D={d} at {position}, window {window:?}");
                    let found = nmse(&whole, &oracle(&shape, &queries, group, position, &cached));
                    assert!(found <= 1.0e-10, "D={d} at {position}: {found:e}");
                }
            }
        }
    });
}

#[test]
fn blocks_are_read_as_everywhere_else() {
    each_tier(|kernels| {
        for kind in [Q8_0, Q5_1, Q4_0] {
            for blocks in [1, 2, 7] {
                let mut numbers = waves(blocks * 32, 3.0);
                numbers[5] = 40.0;
                let mut bytes = vec![0; kind.bytes(numbers.len()).unwrap()];
                crate::quantize_row(kind.format(), &numbers, &mut bytes).unwrap();
                // Codes that no quantiser writes, and a scale that is not a number.
                let size = bytes.len() / blocks;
                for byte in &mut bytes[size - 1..] {
                    *byte = byte.wrapping_mul(151) ^ 0x80;
                }
                if blocks == 7 {
                    bytes[3 * size..3 * size + 2].copy_from_slice(&half::f16::NAN.to_le_bytes());
                }
                let (mut got, mut want) = (vec![1.0; numbers.len()], vec![2.0; numbers.len()]);
                let cached = match kind {
                    Q8_0 => Numbers::Q8_0(&bytes),
                    Q5_1 => Numbers::Q5_1(&bytes),
                    _ => Numbers::Q4_0(&bytes),
                };
                kernels.read_cached(cached, &mut got);
                crate::dequantize_row(kind.format(), &bytes, &mut want);
                let same = |(a, b): (&f32, &f32)| a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan();
                assert!(got.iter().zip(&want).all(same), "{kind}");
            }
        }
    });
}

#[test]
fn what_is_written_is_read_back_in_its_type_and_what_is_not_finite_is_not_lost() {
    each_tier(|kernels| {
        // The largest distance from a number, relative to the largest of its block.
        for (kind, bound) in [(Single, 0.0), (Half, 4.9e-4), (Q8_0, 4.5e-3), (Q5_1, 3.3e-2), (Q4_0, 0.13)] {
            let numbers = waves(320, 3.0);
            let mut back = numbers.clone();
            Stored::new(kernels, kind, &mut back);
            for (block, (x, y)) in numbers.chunks(32).zip(back.chunks(32)).enumerate() {
                let largest = x.iter().fold(0.0f32, |most, x| most.max(x.abs()));
                let far = x.iter().zip(y).fold(0.0f32, |most, (x, y)| most.max((x - y).abs()));
                assert!(far <= bound * largest, "{kind} block {block}: {far:e} of {largest}");
            }
            for odd in [f32::NAN, f32::INFINITY] {
                let mut back = numbers.clone();
                back[40] = odd;
                Stored::new(kernels, kind, &mut back);
                assert!(!back[40].is_finite(), "{kind}: {odd} became {}", back[40]);
                assert!(back[..32].iter().chain(&back[64..]).all(|x| x.is_finite()), "{kind}: {odd} spread");
            }
        }
    });
}

#[test]
#[should_panic(expected = "heads of 80 numbers are no whole blocks of q8_0")]
fn heads_that_are_no_whole_blocks_are_refused() {
    let kernels = crate::active();
    // Five tokens of 80 numbers are whole blocks; one is not.
    let cached = Cached::new(kernels, 8, 80, 1.0, [Q8_0, Q8_0]);
    attend(kernels, &shape(80), &waves(80, 1.0), 1, 7, &cached);
}
