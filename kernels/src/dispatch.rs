//! Picks one kernel table for the process, once.
use std::sync::OnceLock;

use crate::{
    activation::ActivationKernels, activations::CodeBlock, attention::AttentionKernels, half::HalfKernels,
    matmul::MatmulKernel, nearest::NearestKernels, norm::NormKernels, rope::RopeKernels, scalar,
    softmax::SoftmaxKernels,
};

/// An instruction-set level that has a complete kernel table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Tier {
    /// Portable Rust.
    Scalar,
    /// AVX2, FMA and F16C.
    Avx2,
    /// AVX-512 with VNNI, on top of [`Tier::Avx2`].
    Avx512,
    /// NEON, on 64-bit ARM; with `dotprod` where the processor has it.
    Neon,
}

impl Tier {
    /// All tiers, the meaning of all others first.
    pub const ALL: [Self; 4] = [Self::Scalar, Self::Avx2, Self::Avx512, Self::Neon];

    /// Returns its name, as `RUVLAB_KERNELS` takes it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar => "scalar",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
            Self::Neon => "neon",
        }
    }
}

/// One implementation of every kernel. Having one is the proof that the processor runs it.
#[derive(Debug)]
pub struct Kernels {
    pub(crate) tier: Tier,
    pub(crate) norm: NormKernels,
    pub(crate) rope: RopeKernels,
    pub(crate) activation: ActivationKernels,
    pub(crate) softmax: SoftmaxKernels,
    pub(crate) half: HalfKernels,
    pub(crate) nearest: NearestKernels,
    pub(crate) attention: AttentionKernels,
    // activations/, matmul.rs
    pub(crate) quantize_codes: fn(&[f32], f32, &mut [i16], &mut [CodeBlock]),
    pub(crate) matmul: MatmulKernel,
    // probe.rs
    pub(crate) read: fn(&[u8]) -> u64,
    pub(crate) multiply_adds: fn(usize) -> f32,
    pub(crate) multiply_add_pairs: fn(usize) -> i32,
}

impl Kernels {
    /// Returns the level this table needs.
    #[must_use]
    pub fn tier(&self) -> Tier {
        self.tier
    }
}

/// Why a tier cannot be had.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierError {
    /// No tier of that name.
    Unknown {
        /// The name given.
        name: String,
    },
    /// This processor does not run it.
    Unavailable {
        /// The tier asked for.
        tier: Tier,
    },
}

impl std::fmt::Display for TierError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unknown { name } => {
                let known = Tier::ALL.map(Tier::name).join(", ");
                write!(f, "RUVLAB_KERNELS names no tier: {name:?} (there are {known})")
            }
            Self::Unavailable { tier } => {
                let here = Tier::ALL.into_iter().filter(|tier| for_tier(*tier).is_some());
                let here = here.map(Tier::name).collect::<Vec<_>>().join(", ");
                write!(f, "RUVLAB_KERNELS={}: this processor runs {here}", tier.name())
            }
        }
    }
}

impl std::error::Error for TierError {}

/// Returns the table for `tier`, or nothing where this processor cannot run it.
#[must_use]
pub fn for_tier(tier: Tier) -> Option<&'static Kernels> {
    match tier {
        Tier::Scalar => Some(&scalar::KERNELS),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx2 => crate::avx2::detect(),
        #[cfg(target_arch = "x86_64")]
        Tier::Avx512 => crate::avx512::detect(),
        #[cfg(not(target_arch = "x86_64"))]
        Tier::Avx2 | Tier::Avx512 => None,
        #[cfg(target_arch = "aarch64")]
        Tier::Neon => crate::neon::detect(),
        #[cfg(not(target_arch = "aarch64"))]
        Tier::Neon => None,
    }
}

/// Returns what `RUVLAB_KERNELS` says; nothing where it is not set, empty, or `auto`.
#[must_use]
pub fn setting() -> Option<String> {
    let value = std::env::var_os("RUVLAB_KERNELS")?.to_string_lossy().into_owned();
    (!value.is_empty() && value != "auto").then_some(value)
}

/// Returns the table a setting asks for: the best there is without one.
///
/// # Errors
///
/// If the setting names no tier, or one this processor does not run.
pub fn select(setting: Option<&str>) -> Result<&'static Kernels, TierError> {
    let Some(name) = setting else {
        return Ok(Tier::ALL.into_iter().rev().find_map(for_tier).unwrap_or(&scalar::KERNELS));
    };
    let tier = Tier::ALL.into_iter().find(|tier| tier.name() == name);
    let tier = tier.ok_or_else(|| TierError::Unknown { name: name.to_owned() })?;
    for_tier(tier).ok_or(TierError::Unavailable { tier })
}

/// Returns the table in use.
///
/// # Panics
///
/// If `RUVLAB_KERNELS` names no tier or one this processor does not run; a program checks its
/// [`setting`] with [`select`] first.
#[must_use]
pub fn active() -> &'static Kernels {
    static ACTIVE: OnceLock<&'static Kernels> = OnceLock::new();
    ACTIVE.get_or_init(|| match select(setting().as_deref()) {
        Ok(kernels) => kernels,
        Err(error) => panic!("{error}"),
    })
}
