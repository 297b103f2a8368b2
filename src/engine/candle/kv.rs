//! Cached keys and values of one sequence.
use candle_core::{DType, Result, Tensor};

/// The least room that is made, in tokens.
const FIRST_ROOM: usize = 256;

struct Layer {
    /// `[K, room, D]`.
    keys: Tensor,
    /// `[K, room, D]`.
    values: Tensor,
}

/// A cache, in f32. Room doubles when it runs out, so tokens are not copied anew with each one.
pub(super) struct Cache {
    layers: Vec<Option<Layer>>,
}

impl Cache {
    pub(super) fn new(layers: usize) -> Self {
        Self { layers: (0..layers).map(|_| None).collect() }
    }

    /// Writes keys and values `[K, T, D]` behind the first `past` tokens, and returns all up to
    /// there as views `[K, past + T, D]`.
    pub(super) fn append(
        &mut self,
        layer: usize,
        past: usize,
        keys: &Tensor,
        values: &Tensor,
        context_length: usize,
    ) -> Result<(Tensor, Tensor)> {
        let length = past + keys.dim(1)?;
        let room = length.max(FIRST_ROOM).next_power_of_two().min(context_length.max(length));
        let slot = &mut self.layers[layer];
        let cached = match slot.take() {
            Some(layer) if layer.keys.dim(1)? >= length => layer,
            old => {
                let grown = Layer { keys: with_room(keys, room)?, values: with_room(values, room)? };
                if let Some(old) = old.filter(|_| past > 0) {
                    grown.keys.slice_set(&old.keys.narrow(1, 0, past)?.contiguous()?, 1, 0)?;
                    grown.values.slice_set(&old.values.narrow(1, 0, past)?.contiguous()?, 1, 0)?;
                }
                grown
            }
        };
        let layer = slot.insert(cached);
        layer.keys.slice_set(keys, 1, past)?;
        layer.values.slice_set(values, 1, past)?;
        Ok((layer.keys.narrow(1, 0, length)?, layer.values.narrow(1, 0, length)?))
    }
}

fn with_room(like: &Tensor, room: usize) -> Result<Tensor> {
    let (kv_heads, _, head_dim) = like.dims3()?;
    Tensor::zeros((kv_heads, room, head_dim), DType::F32, like.device())
}

#[cfg(test)]
mod tests {
    use super::*;
    use candle_core::Device;

    #[test]
    fn what_was_written_is_read_back_across_growth() {
        let (kv_heads, head_dim, total) = (2, 3, 700);
        let token = |position: usize, length: usize, sign: f32| {
            let value = |k: usize, t: usize, d: usize| sign * ((k * total + position + t) * head_dim + d) as f32;
            let mut values = Vec::new();
            for k in 0..kv_heads {
                for t in 0..length {
                    values.extend((0..head_dim).map(|d| value(k, t, d)));
                }
            }
            Tensor::from_vec(values, (kv_heads, length, head_dim), &Device::Cpu).unwrap()
        };
        let mut cache = Cache::new(1);
        let mut past = 0;
        for length in [1, 250, 5, 1, 443] {
            let (keys, values) = (token(past, length, 1.0), token(past, length, -1.0));
            let (keys, values) = cache.append(0, past, &keys, &values, 700).unwrap();
            past += length;
            let read = |tensor: Tensor| tensor.flatten_all().unwrap().to_vec1::<f32>().unwrap();
            assert_eq!(read(keys), read(token(0, past, 1.0)));
            assert_eq!(read(values), read(token(0, past, -1.0)));
        }
        assert_eq!(past, total);
    }
}
