//! Scales for groups of values: the least weighted error over a few candidates.

/// Groups whose largest value is less are zero.
const TINY: f32 = 1e-15;

/// Returns the value furthest from zero.
pub(super) fn peak(values: &[f32]) -> f32 {
    values.iter().copied().fold(0.0, |peak: f32, value| if value.abs() > peak.abs() { value } else { peak })
}

fn sum(terms: impl Iterator<Item = f32>) -> f32 {
    terms.fold(0.0, |sum, term| sum + term)
}

/// Writes levels `q` of 0 to `2·half - 1` and returns the `scale` for which `scale · (q - half)` is
/// near the values, the largest of which takes the end of the range that has one level more.
///
/// Of 19 inverse scales around the largest value's, the one that explains most of the weighted
/// squares wins; its scale is the least-squares one for its levels.
pub(super) fn symmetric(values: &[f32], weights: &[f32], half: i32, levels: &mut [u8]) -> f32 {
    let peak = peak(values);
    if peak.abs() < TINY {
        levels.fill(0);
        return 0.0;
    }
    let level = |value: f32, inverse: f32| ((inverse * value).round_ties_even() as i32).clamp(-half, half - 1);
    let candidates = std::iter::once(0).chain((-9..=9).filter(|step| *step != 0));
    let (mut best, mut scale, mut best_inverse) = (None, 0.0, 0.0);
    for step in candidates {
        let inverse = -(half as f32 + 0.1 * step as f32) / peak;
        let (mut with_value, mut with_level) = (0.0, 0.0);
        for (value, weight) in values.iter().zip(weights) {
            let level = level(*value, inverse) as f32;
            with_value += weight * value * level;
            with_level += weight * level * level;
        }
        // Where all weights are zero any scale does; the first candidate's is kept.
        let explained = if with_level > 0.0 { with_value * with_value / with_level } else { 0.0 };
        if best.is_none_or(|best| explained > best) {
            best = Some(explained);
            scale = if with_level > 0.0 { with_value / with_level } else { 0.0 };
            best_inverse = inverse;
        }
    }
    for (out, value) in levels.iter_mut().zip(values) {
        *out = (level(*value, best_inverse) + half) as u8;
    }
    scale
}

/// Does what [`symmetric`] does by another way: from the largest value's scale, each level in turn
/// moves to where the whole group is explained better.
pub(super) fn symmetric_by_turns(values: &[f32], weights: &[f32], half: i32, levels: &mut [u8]) -> f32 {
    let peak = peak(values);
    if peak.abs() < TINY {
        levels.fill(0);
        return 0.0;
    }
    let clamp = |level: f32| (level.round_ties_even() as i32).clamp(-half, half - 1);
    let inverse = -half as f32 / peak;
    let mut signed = [0i32; 16];
    let signed = &mut signed[..values.len()];
    let (mut with_value, mut with_level) = (0.0, 0.0);
    for ((level, value), weight) in signed.iter_mut().zip(values).zip(weights) {
        *level = clamp(inverse * value);
        with_value += weight * value * *level as f32;
        with_level += weight * (*level * *level) as f32;
    }
    for _ in 0..5 {
        let mut moved = false;
        for ((level, value), weight) in signed.iter_mut().zip(values).zip(weights) {
            let other_value = with_value - weight * value * *level as f32;
            if other_value <= 0.0 {
                continue;
            }
            let other_level = with_level - weight * (*level * *level) as f32;
            let new = clamp(value * other_level / other_value);
            if new == *level {
                continue;
            }
            let new_value = other_value + weight * value * new as f32;
            let new_level = other_level + weight * (new * new) as f32;
            if new_level > 0.0 && new_value * new_value * with_level > with_value * with_value * new_level {
                (*level, with_value, with_level, moved) = (new, new_value, new_level, true);
            }
        }
        if !moved {
            break;
        }
    }
    for (out, level) in levels.iter_mut().zip(signed) {
        *out = (*level + half) as u8;
    }
    if with_level > 0.0 { with_value / with_level } else { 0.0 }
}

/// Which inverse scales are tried: `(top + first + step·i) / range`, for `i` of 0 to `count`.
#[derive(Clone, Copy)]
pub(super) struct Search {
    pub(super) first: f32,
    pub(super) step: f32,
    pub(super) count: u32,
    /// Whether errors count by their size, not by their square.
    pub(super) absolute: bool,
}

/// Writes levels of 0 to `top` and returns `(scale, min)`, neither below 0, for which
/// `scale · level - min` is near the values.
pub(super) fn affine(values: &[f32], weights: &[f32], top: u8, search: Search, levels: &mut [u8]) -> (f32, f32) {
    let mut min = values.iter().copied().fold(f32::INFINITY, f32::min).min(0.0);
    let high = values.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    if high <= min {
        levels.fill(0);
        return (0.0, -min);
    }
    let top_level = f32::from(top);
    let level =
        |value: f32, (inverse, min): (f32, f32)| (inverse * (value - min)).round_ties_even().clamp(0.0, top_level);
    let error = |grid: (f32, f32), scale: f32, min: f32| {
        sum(values.iter().zip(weights).map(|(value, weight)| {
            let off = scale * level(*value, grid) + min - value;
            weight * if search.absolute { off.abs() } else { off * off }
        }))
    };
    let total = sum(weights.iter().copied());
    let total_value = sum(values.iter().zip(weights).map(|(value, weight)| weight * value));
    let mut best_grid = (top_level / (high - min), min);
    let mut scale = 1.0 / best_grid.0;
    let mut best = error(best_grid, scale, min);
    for i in 0..=search.count {
        // Candidates start from the best least value so far.
        let grid = ((search.first + search.step * i as f32 + top_level) / (high - min), min);
        let (mut with_level, mut squares, mut products) = (0.0, 0.0, 0.0);
        for (value, weight) in values.iter().zip(weights) {
            let level = level(*value, grid);
            with_level += weight * level;
            squares += weight * level * level;
            products += weight * level * value;
        }
        // Least squares for these levels.
        let determinant = total * squares - with_level * with_level;
        if determinant <= 0.0 {
            continue;
        }
        let mut new_scale = (total * products - total_value * with_level) / determinant;
        let mut new_min = (squares * total_value - with_level * products) / determinant;
        if new_min > 0.0 {
            (new_scale, new_min) = (products / squares, 0.0);
        }
        let found = error(grid, new_scale, new_min);
        if found < best {
            (best, best_grid, scale, min) = (found, grid, new_scale, new_min);
        }
    }
    for (out, value) in levels.iter_mut().zip(values) {
        *out = level(*value, best_grid) as u8;
    }
    (scale, -min)
}

/// Writes levels of 0 to `top` and returns the scale for which `scale · level` is near the values,
/// none of which is below 0.
pub(super) fn positive(values: &[f32], weights: &[f32], top: u8, levels: &mut [u8]) -> f32 {
    let highest = values.iter().copied().fold(0.0, f32::max);
    if highest < TINY {
        levels.fill(0);
        return 0.0;
    }
    let top = f32::from(top);
    let level = |value: f32, inverse: f32| (inverse * value).round_ties_even().clamp(0.0, top);
    let error = |inverse: f32| {
        sum(values.iter().zip(weights).map(|(value, weight)| {
            let off = value - level(*value, inverse) / inverse;
            weight * off * off
        }))
    };
    let mut inverse = top / highest;
    let mut best = error(inverse);
    for step in (-4..=4).filter(|step| *step != 0) {
        let candidate = (0.1 * step as f32 + top) / highest;
        let found = error(candidate);
        if found < best {
            (best, inverse) = (found, candidate);
        }
    }
    let mut floats = [0.0f32; 16];
    let floats = &mut floats[..values.len()];
    let (mut with_value, mut with_level) = (0.0, 0.0);
    for ((float, value), weight) in floats.iter_mut().zip(values).zip(weights) {
        *float = level(*value, inverse);
        with_value += weight * value * *float;
        with_level += weight * *float * *float;
    }
    for _ in 0..5 {
        let mut moved = false;
        for ((float, value), weight) in floats.iter_mut().zip(values).zip(weights) {
            let other_value = with_value - weight * value * *float;
            let other_level = with_level - weight * *float * *float;
            if other_value <= 0.0 || other_level <= 0.0 {
                continue;
            }
            let new = level(*value, other_level / other_value);
            let (new_value, new_level) = (other_value + weight * value * new, other_level + weight * new * new);
            if (new - *float).abs() > 0.5 && new_value * new_value * with_level > with_value * with_value * new_level {
                (*float, with_value, with_level, moved) = (new, new_value, new_level, true);
            }
        }
        if !moved {
            break;
        }
    }
    for (out, float) in levels.iter_mut().zip(floats) {
        *out = *float as u8;
    }
    if with_level > 0.0 { with_value / with_level } else { 0.0 }
}
