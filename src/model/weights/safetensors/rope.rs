//! The rotary settings of config.json, which every version of transformers has written elsewhere.
use super::{FolderError, section::Section};

/// The rotary settings of a model, wherever its version of transformers wrote them.
pub(super) struct Rope<'a> {
    /// What is said of all layers, or of those with full attention.
    pub(super) full: Option<Section<'a>>,
    pub(super) sliding_theta: Option<f64>,
    pub(super) theta: Option<f64>,
    pub(super) kind: &'a str,
}

impl<'a> Rope<'a> {
    pub(super) fn read(config: Section<'a>) -> Result<Self, FolderError> {
        let section = match config.section("rope_parameters")? {
            Some(section) => Some(section),
            None => config.section("rope_scaling")?,
        };
        let (mut full, mut sliding) = (section, None);
        if let Some(section) = section {
            if let Some(layers) = section.section("full_attention")? {
                full = Some(layers);
            }
            sliding = section.section("sliding_attention")?;
        }
        let mut kind = "default";
        let (mut theta, mut sliding_theta) = (None, None);
        if let Some(full) = full {
            full.refuse(&["mrope_section", "mscale", "mscale_all_dim"])?;
            if full.optional_flag("truncate")? == Some(false) {
                return Err(full.wrong("truncate", "is false: not supported"));
            }
            theta = full.optional_number("rope_theta")?;
            kind = match full.optional_text("rope_type")? {
                Some(kind) => kind,
                None => full.optional_text("type")?.unwrap_or(kind),
            };
        }
        if let Some(sliding) = sliding {
            sliding_theta = sliding.optional_number("rope_theta")?;
            if let Some(kind) = sliding.optional_text("rope_type")?.filter(|kind| *kind != "default") {
                return Err(sliding.wrong("rope_type", format!("is {kind:?}: not supported in sliding layers")));
            }
        }
        Ok(Self {
            full,
            theta: theta.or(config.optional_number("rope_theta")?),
            sliding_theta: sliding_theta.or(config.optional_number("rope_local_base_freq")?),
            kind,
        })
    }

    /// Returns a setting from beside the scaling, or from the top of config.json.
    pub(super) fn count(&self, config: Section<'a>, key: &str) -> Result<Option<u64>, FolderError> {
        match self.full.map(|full| full.optional_count(key)).transpose()?.flatten() {
            Some(count) => Ok(Some(count)),
            None => config.optional_count(key),
        }
    }

    pub(super) fn number(&self, config: Section<'a>, key: &str) -> Result<Option<f64>, FolderError> {
        match self.full.map(|full| full.optional_number(key)).transpose()?.flatten() {
            Some(number) => Ok(Some(number)),
            None => config.optional_number(key),
        }
    }

    pub(super) fn unknown(&self) -> FolderError {
        let section = self.full.map_or("", |full| full.name);
        FolderError::Setting {
            key: format!("{section}rope_type"),
            problem: format!(
                "is {:?}: not supported here (supported: default, linear, yarn, llama3, longrope)",
                self.kind
            ),
        }
    }
}

/// Returns what llama 3 divides its rotary frequencies by, in f32 as the converter computes it:
/// short waves stay, long ones are stretched by the factor, those between by something between.
pub(super) fn llama3(full: Section<'_>, rope: &Rope<'_>, width: u64, original: u64) -> Result<Vec<f32>, FolderError> {
    let setting = |key: &str, default: f64| -> Result<f32, FolderError> {
        Ok(full.optional_number(key)?.unwrap_or(default) as f32)
    };
    let (factor, low, high) =
        (setting("factor", 8.0)?, setting("low_freq_factor", 1.0)?, setting("high_freq_factor", 4.0)?);
    if !(factor > 0.0 && low > 0.0 && high > low) {
        return Err(full.wrong("high_freq_factor", "must be above low_freq_factor, and both and factor above 0"));
    }
    if width > 1 << 16 {
        return Err(full.wrong("head_dim", "is more than 65536"));
    }
    let (theta, original) = (rope.theta.unwrap_or(10_000.0) as f32, original as f32);
    let divisor = |pair: u64| {
        let frequency = 1.0 / theta.powf((pair * 2) as f32 / width as f32);
        let wave = (2.0 * std::f64::consts::PI) as f32 / frequency;
        if wave < original / high {
            1.0
        } else if wave > original / low {
            factor
        } else {
            let smooth = (original / wave - low) / (high - low);
            1.0 / ((1.0 - smooth) / factor + smooth)
        }
    };
    Ok((0..width / 2).map(divisor).collect())
}
