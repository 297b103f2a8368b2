//! Shapes of published models, as data.
//!
//! The numbers are those of each model's `config.json` on the hub (the instruct version where there
//! is one); tensors and settings are what llama.cpp's converter makes of them.

/// A family, as far as files of it differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Architecture {
    /// Separate projections without biases.
    Llama,
    /// Separate projections; query, key and value have biases.
    Qwen2,
    /// Query, key and value in one matrix; gate and up in another.
    Phi3,
}

/// How the rotary frequencies of a shape are changed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum RopeFactors {
    /// As they are.
    None,
    /// Llama 3's piecewise interpolation, stored as one factor a frequency.
    Llama3 { factor: f64, low_freq_factor: f64, high_freq_factor: f64, original_context: f64 },
    /// `LongRoPE`: a factor a frequency for long contexts, ones for short ones.
    Long { long: &'static [f32], original_context: u64 },
}

/// A model's shape.
#[derive(Debug, PartialEq)]
pub(super) struct Shape {
    pub(super) name: &'static str,
    pub(super) architecture: Architecture,
    pub(super) layers: usize,
    pub(super) hidden_size: usize,
    pub(super) intermediate_size: usize,
    pub(super) heads: usize,
    pub(super) kv_heads: usize,
    pub(super) head_dim: usize,
    pub(super) rope_dim: usize,
    pub(super) vocab_size: usize,
    pub(super) context_length: u64,
    pub(super) rope_theta: f64,
    pub(super) rms_norm_eps: f64,
    pub(super) tied: bool,
    pub(super) rope_factors: RopeFactors,
    /// 0 for none.
    pub(super) sliding_window: u64,
}

const QWEN2: Shape = Shape {
    name: "",
    architecture: Architecture::Qwen2,
    layers: 0,
    hidden_size: 0,
    intermediate_size: 0,
    heads: 0,
    kv_heads: 0,
    head_dim: 128,
    rope_dim: 128,
    vocab_size: 151_936,
    context_length: 32_768,
    rope_theta: 1_000_000.0,
    rms_norm_eps: 1e-6,
    tied: true,
    rope_factors: RopeFactors::None,
    sliding_window: 0,
};

const LLAMA: Shape = Shape { architecture: Architecture::Llama, rms_norm_eps: 1e-5, ..QWEN2 };

/// `rope_scaling.long_factor` of Phi-4-mini-instruct.
const PHI_4_MINI_LONG: [f32; 48] = [
    1.0,
    1.118_320_7,
    1.250_641_1,
    1.398_617_9,
    1.564_103_2,
    1.749_169,
    1.956_131_8,
    2.187_582_7,
    2.446_418_8,
    2.735_880_9,
    3.059_592,
    3.421_605,
    3.826_451_8,
    4.279_2,
    4.785_518,
    5.351_743_7,
    5.984_965_3,
    6.693_110_5,
    7.485_044,
    8.370_68,
    9.361_104,
    10.468_716,
    11.707_381,
    13.092_607,
    14.641_733,
    16.374_151,
    18.311_552,
    20.478_188,
    22.901_18,
    25.610_865,
    28.641_16,
    32.03,
    32.1,
    32.13,
    32.23,
    32.6,
    32.61,
    32.64,
    32.66,
    32.7,
    32.71,
    32.93,
    32.97,
    33.28,
    33.49,
    33.5,
    44.16,
    47.77,
];

/// Every shape there is.
pub(super) const SHAPES: &[Shape] = &[
    Shape {
        name: "qwen2.5-0.5b",
        layers: 24,
        hidden_size: 896,
        intermediate_size: 4864,
        heads: 14,
        kv_heads: 2,
        head_dim: 64,
        rope_dim: 64,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-1.5b",
        layers: 28,
        hidden_size: 1536,
        intermediate_size: 8960,
        heads: 12,
        kv_heads: 2,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-3b",
        layers: 36,
        hidden_size: 2048,
        intermediate_size: 11_008,
        heads: 16,
        kv_heads: 2,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-7b",
        layers: 28,
        hidden_size: 3584,
        intermediate_size: 18_944,
        heads: 28,
        kv_heads: 4,
        vocab_size: 152_064,
        tied: false,
        ..QWEN2
    },
    Shape {
        name: "qwen2.5-14b",
        layers: 48,
        hidden_size: 5120,
        intermediate_size: 13_824,
        heads: 40,
        kv_heads: 8,
        vocab_size: 152_064,
        tied: false,
        ..QWEN2
    },
    // Version 0.3, the one without a sliding window.
    Shape {
        name: "mistral-7b",
        layers: 32,
        hidden_size: 4096,
        intermediate_size: 14_336,
        heads: 32,
        kv_heads: 8,
        vocab_size: 32_768,
        tied: false,
        ..LLAMA
    },
    Shape {
        name: "phi-4-mini",
        architecture: Architecture::Phi3,
        layers: 32,
        hidden_size: 3072,
        intermediate_size: 8192,
        heads: 24,
        kv_heads: 8,
        rope_dim: 96,
        vocab_size: 200_064,
        context_length: 131_072,
        rope_theta: 10_000.0,
        rope_factors: RopeFactors::Long { long: &PHI_4_MINI_LONG, original_context: 4096 },
        sliding_window: 262_144,
        ..LLAMA
    },
    Shape {
        name: "llama-3.2-1b",
        layers: 16,
        hidden_size: 2048,
        intermediate_size: 8192,
        heads: 32,
        kv_heads: 8,
        head_dim: 64,
        rope_dim: 64,
        vocab_size: 128_256,
        context_length: 131_072,
        rope_theta: 500_000.0,
        rope_factors: RopeFactors::Llama3 {
            factor: 32.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context: 8192.0,
        },
        ..LLAMA
    },
    Shape {
        name: "smollm2-135m",
        layers: 30,
        hidden_size: 576,
        intermediate_size: 1536,
        heads: 9,
        kv_heads: 3,
        head_dim: 64,
        rope_dim: 64,
        vocab_size: 49_152,
        context_length: 8192,
        rope_theta: 100_000.0,
        ..LLAMA
    },
];

impl Architecture {
    /// Returns its name in files.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Qwen2 => "qwen2",
            Self::Phi3 => "phi3",
        }
    }
}

impl RopeFactors {
    /// Returns what each of the `rope_dim / 2` frequencies is divided by, by tensor name.
    pub(super) fn tensors(&self, rope_dim: usize, theta: f64) -> Vec<(&'static str, Vec<f32>)> {
        match *self {
            Self::None => Vec::new(),
            Self::Llama3 { factor, low_freq_factor, high_freq_factor, original_context } => {
                let factors = (0..rope_dim / 2).map(|pair| {
                    // Long waves are stretched by the factor, short ones stay, those between get a
                    // mixture (transformers, `_compute_llama3_parameters`).
                    let frequency = theta.powf(-((2 * pair) as f64) / rope_dim as f64);
                    let wavelength = std::f64::consts::TAU / frequency;
                    if wavelength > original_context / low_freq_factor {
                        factor as f32
                    } else if wavelength < original_context / high_freq_factor {
                        1.0
                    } else {
                        let share =
                            (original_context / wavelength - low_freq_factor) / (high_freq_factor - low_freq_factor);
                        (1.0 / ((1.0 - share) / factor + share)) as f32
                    }
                });
                vec![("rope_freqs.weight", factors.collect())]
            }
            Self::Long { long, .. } => {
                vec![("rope_factors_long.weight", long.to_vec()), ("rope_factors_short.weight", vec![1.0; long.len()])]
            }
        }
    }
}
