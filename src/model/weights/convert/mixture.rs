//! Mixtures of types: more bits for the matrices whose errors cost most.
//!
//! The rules are those of `llama-quantize` for the names it gives them (`llama-quant.cpp`,
//! `llama_tensor_get_type_impl`, at commit 007dbbf3f), as far as the families here have the tensors.
use super::{EMBEDDING, OUTPUT, TensorType};

use TensorType::{Q3K, Q4K, Q5K, Q6K};

/// A mixture of types, in llama.cpp's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are llama.cpp's")]
pub enum Mixture {
    Q3KS,
    Q3KM,
    Q3KL,
    Q4KS,
    Q4KM,
    Q5KS,
    Q5KM,
}

/// The layers that a rule is about, of all `n` there are.
#[derive(Clone, Copy)]
enum Layers {
    All,
    /// So many at the start.
    First(usize),
    /// The first `n / k`, rounded down.
    FirstPart(usize),
    /// The first and the last eighth, and every third between.
    Sensitive,
}

impl Layers {
    fn contain(self, layer: usize, n: usize) -> bool {
        match self {
            Self::All => true,
            Self::First(count) => layer < count,
            Self::FirstPart(part) => layer < n / part,
            Self::Sensitive => layer < n / 8 || layer >= 7 * n / 8 || (layer - n / 8) % 3 == 2,
        }
    }
}

/// One type in some layers, another in the others.
#[derive(Clone, Copy)]
struct Rule {
    layers: Layers,
    kind: TensorType,
    others: TensorType,
}

const fn all(kind: TensorType) -> Rule {
    Rule { layers: Layers::All, kind, others: kind }
}

const fn some(layers: Layers, kind: TensorType, others: TensorType) -> Rule {
    Rule { layers, kind, others }
}

/// What a mixture does with each kind of matrix; the head takes `q6_k` in all of them.
struct Row {
    mixture: Mixture,
    name: &'static str,
    /// `general.file_type` (`llama.h`, `llama_ftype`).
    file_type: u32,
    /// All that follows none of the rules.
    base: TensorType,
    /// The projection of values, also where queries and keys are in the same matrix.
    values: Rule,
    down: Rule,
    attention_output: TensorType,
}

#[rustfmt::skip]
const ROWS: [Row; 7] = [
    Row { mixture: Mixture::Q3KS, name: "q3_k_s", file_type: 11, base: Q3K,
          values: all(Q3K), down: all(Q3K), attention_output: Q3K },
    Row { mixture: Mixture::Q3KM, name: "q3_k_m", file_type: 12, base: Q3K,
          values: some(Layers::First(2), Q5K, Q4K), down: some(Layers::FirstPart(16), Q5K, Q4K), attention_output: Q4K },
    Row { mixture: Mixture::Q3KL, name: "q3_k_l", file_type: 13, base: Q3K,
          values: all(Q5K), down: all(Q5K), attention_output: Q5K },
    Row { mixture: Mixture::Q4KS, name: "q4_k_s", file_type: 14, base: Q4K,
          values: some(Layers::First(4), Q5K, Q4K), down: some(Layers::FirstPart(8), Q5K, Q4K), attention_output: Q4K },
    Row { mixture: Mixture::Q4KM, name: "q4_k_m", file_type: 15, base: Q4K,
          values: some(Layers::Sensitive, Q6K, Q4K), down: some(Layers::Sensitive, Q6K, Q4K), attention_output: Q4K },
    Row { mixture: Mixture::Q5KS, name: "q5_k_s", file_type: 16, base: Q5K,
          values: all(Q5K), down: all(Q5K), attention_output: Q5K },
    Row { mixture: Mixture::Q5KM, name: "q5_k_m", file_type: 17, base: Q5K,
          values: some(Layers::Sensitive, Q6K, Q5K), down: some(Layers::Sensitive, Q6K, Q5K), attention_output: Q5K },
];

/// Models of so many layers (the 70B of llama, the 72B of qwen2) have value projections an eighth as
/// large as their queries', which may take more bits.
const LAYERS_OF_70B: usize = 80;

impl Mixture {
    /// Returns all mixtures, in a fixed order.
    pub fn all() -> impl Iterator<Item = Self> {
        ROWS.iter().map(|row| row.mixture)
    }

    fn row(self) -> &'static Row {
        // Declared in the order of the table, which a test holds.
        &ROWS[self as usize]
    }

    /// Returns its name (`q4_k_m`).
    #[must_use]
    pub fn name(self) -> &'static str {
        self.row().name
    }

    /// Returns the number of a file that is stored so.
    #[must_use]
    pub fn file_type(self) -> u32 {
        self.row().file_type
    }

    /// Returns the type of a matrix in a model of so many layers, before any fallback. `tied` says that the
    /// token embedding is the head, too.
    #[must_use]
    pub fn tensor_type(self, name: &str, layers: usize, tied: bool) -> TensorType {
        let row = self.row();
        if name == OUTPUT || (tied && name == EMBEDDING) {
            return Q6K;
        }
        let Some((layer, role)) = in_layer(name) else { return row.base };
        let of = |rule: Rule| if rule.layers.contain(layer, layers) { rule.kind } else { rule.others };
        match role {
            "attn_v.weight" | "attn_qkv.weight" => match of(row.values) {
                Q3K | Q4K if layers == LAYERS_OF_70B => Q5K,
                kind => kind,
            },
            "attn_output.weight" => row.attention_output,
            "ffn_down.weight" => of(row.down),
            _ => row.base,
        }
    }
}

/// Returns layer and role of a tensor's name (`blk.LAYER.ROLE`).
fn in_layer(name: &str) -> Option<(usize, &str)> {
    let (layer, role) = name.strip_prefix("blk.")?.split_once('.')?;
    Some((layer.parse().ok()?, role))
}

/// The type of a model's matrices: one for all, or a mixture.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// All matrices alike (`llama-quantize --pure`).
    Plain(TensorType),
    /// By layer and role.
    Mixed(Mixture),
}

impl Scheme {
    /// Returns all schemes, the plain ones first.
    pub fn all() -> impl Iterator<Item = Self> {
        TensorType::all().map(Self::Plain).chain(Mixture::all().map(Self::Mixed))
    }

    /// Returns the scheme of that name (`q4_k`, `q4_k_m`).
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::all().find(|scheme| scheme.name() == name)
    }

    /// Returns its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain(kind) => kind.name(),
            Self::Mixed(mixture) => mixture.name(),
        }
    }

    /// Returns the number of a file that is stored so.
    #[must_use]
    pub fn file_type(self) -> u32 {
        match self {
            Self::Plain(kind) => kind.file_type(),
            Self::Mixed(mixture) => mixture.file_type(),
        }
    }

    /// Returns the type of a matrix, as [`Mixture::tensor_type`] does.
    #[must_use]
    pub fn tensor_type(self, name: &str, layers: usize, tied: bool) -> TensorType {
        match self {
            Self::Plain(kind) => kind,
            Self::Mixed(mixture) => mixture.tensor_type(name, layers, tied),
        }
    }
}

impl From<TensorType> for Scheme {
    fn from(kind: TensorType) -> Self {
        Self::Plain(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns the layers, of so many, where a role takes a type.
    fn layers_with(mixture: Mixture, role: &str, kind: TensorType, layers: usize) -> Vec<usize> {
        let takes = |layer: &usize| mixture.tensor_type(&format!("blk.{layer}.{role}.weight"), layers, false) == kind;
        (0..layers).filter(takes).collect()
    }

    #[test]
    fn every_scheme_has_a_name_of_its_own() {
        for (index, row) in ROWS.iter().enumerate() {
            assert_eq!(row.mixture as usize, index);
        }
        for scheme in Scheme::all() {
            assert_eq!(Scheme::from_name(scheme.name()), Some(scheme));
        }
        assert_eq!(Scheme::from_name("q4_k"), Some(Scheme::Plain(Q4K)));
        assert_eq!(Scheme::from_name("q6_k_m"), None);
    }

    /// Layers as llama.cpp chose them in files of its own (gemma-3-270m has 18, SmolLM2-135M 30).
    #[test]
    fn sensitive_layers_take_more_bits() {
        let of_18 = [0, 1, 4, 7, 10, 13, 15, 16, 17];
        let of_30 = [0, 1, 2, 5, 8, 11, 14, 17, 20, 23, 26, 27, 28, 29];
        for mixture in [Mixture::Q4KM, Mixture::Q5KM] {
            for role in ["attn_v", "ffn_down", "attn_qkv"] {
                assert_eq!(layers_with(mixture, role, Q6K, 18), of_18, "{mixture:?} {role}");
                assert_eq!(layers_with(mixture, role, Q6K, 30), of_30, "{mixture:?} {role}");
            }
            assert_eq!(layers_with(mixture, "ffn_up", Q6K, 18), [0; 0]);
        }
        assert_eq!(layers_with(Mixture::Q4KS, "attn_v", Q5K, 30), [0, 1, 2, 3]);
        assert_eq!(layers_with(Mixture::Q4KS, "ffn_down", Q5K, 30), [0, 1, 2]);
        assert_eq!(layers_with(Mixture::Q3KM, "attn_v", Q5K, 40), [0, 1]);
        assert_eq!(layers_with(Mixture::Q3KM, "ffn_down", Q5K, 40), [0, 1]);
        assert_eq!(layers_with(Mixture::Q3KM, "ffn_down", Q4K, 40), (2..40).collect::<Vec<_>>());
        assert_eq!(layers_with(Mixture::Q3KL, "attn_output", Q5K, 3), [0, 1, 2]);
        assert_eq!(layers_with(Mixture::Q5KS, "attn_v", Q5K, 3), [0, 1, 2]);
        assert_eq!(layers_with(Mixture::Q3KS, "attn_v", Q5K, LAYERS_OF_70B).len(), LAYERS_OF_70B);
    }

    #[test]
    fn the_head_takes_more_bits_also_where_it_is_the_embedding() {
        for mixture in Mixture::all() {
            let base = mixture.tensor_type("blk.0.ffn_up.weight", 4, false);
            assert_eq!(mixture.tensor_type(OUTPUT, 4, false), Q6K);
            assert_eq!(mixture.tensor_type(EMBEDDING, 4, true), Q6K);
            assert_eq!(mixture.tensor_type(EMBEDDING, 4, false), base);
        }
    }
}
