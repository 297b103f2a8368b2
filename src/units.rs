//! Quantities that are written with a unit, and never without one.
use std::{borrow::Cow, fmt, str::FromStr};

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a quantity could not be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{found:?} is not {expected}")]
pub struct UnitError {
    found: String,
    expected: &'static str,
}

/// A size in bytes, written `512MiB`, `2GiB`, `1GB` or `4096B`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bytes(pub u64);

const BYTE_UNITS: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("B", 1),
];

impl FromStr for Bytes {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error =
            || UnitError { found: text.to_owned(), expected: "a size with a unit, such as 512MiB, 2GiB or 4096B" };
        let (number, scale) =
            BYTE_UNITS.iter().find_map(|(unit, scale)| Some((text.strip_suffix(unit)?, *scale))).ok_or_else(error)?;
        let Ok(number) = number.trim().parse::<f64>() else { return Err(error()) };
        let bytes = number * scale as f64;
        if !(bytes.is_finite() && (0.0..=9.0e15).contains(&bytes)) {
            return Err(error());
        }
        Ok(Self(bytes.round() as u64))
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (unit, scale) = match self.0 {
            n if n >= 1 << 30 => ("GiB", 1u64 << 30),
            n if n >= 1 << 20 => ("MiB", 1 << 20),
            n if n >= 1 << 10 => ("KiB", 1 << 10),
            n => return f.pad(&format!("{n}B")),
        };
        if self.0.is_multiple_of(scale) {
            f.pad(&format!("{}{unit}", self.0 / scale))
        } else {
            f.pad(&format!("{:.2}{unit}", self.0 as f64 / scale as f64))
        }
    }
}

/// A share, written `3%`; held as a ratio (0.03).
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Percent(pub f64);

impl FromStr for Percent {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        let error = || UnitError { found: text.to_owned(), expected: "a percentage from 0% to 1000%, such as 3%" };
        let number = text.strip_suffix('%').ok_or_else(error)?;
        let Ok(percent) = number.trim().parse::<f64>() else { return Err(error()) };
        if !(0.0..=1000.0).contains(&percent) {
            return Err(error());
        }
        Ok(Self(percent / 100.0))
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Twelve significant digits undo the division by 100 without showing its rounding.
        let percent: f64 = format!("{:.12e}", self.0 * 100.0).parse().unwrap_or(self.0 * 100.0);
        f.pad(&format!("{percent}%"))
    }
}

/// A number of worker threads: `auto` (all the process may use) or at least 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Threads {
    /// As many as the process may use.
    #[default]
    Auto,
    /// This many.
    Count(u16),
}

impl Threads {
    /// Returns the number of threads, asking the system when `auto`.
    #[must_use]
    pub fn resolve(self) -> u16 {
        match self {
            Self::Count(n) => n,
            Self::Auto => {
                std::thread::available_parallelism().ok().and_then(|n| u16::try_from(n.get()).ok()).unwrap_or(1)
            }
        }
    }
}

impl fmt::Display for Threads {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Auto => f.pad("auto"),
            Self::Count(n) => f.pad(&n.to_string()),
        }
    }
}

impl FromStr for Threads {
    type Err = UnitError;
    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text == "auto" {
            return Ok(Self::Auto);
        }
        match text.parse() {
            Ok(n) if (1..=1024).contains(&n) => Ok(Self::Count(n)),
            _ => Err(UnitError { found: text.to_owned(), expected: "`auto` or a number of threads from 1 to 1024" }),
        }
    }
}

impl Serialize for Threads {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Auto => s.serialize_str("auto"),
            Self::Count(n) => s.serialize_u16(*n),
        }
    }
}

impl<'de> Deserialize<'de> for Threads {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Threads;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("`auto` or a number of threads from 1 to 1024")
            }
            fn visit_str<E: de::Error>(self, v: &str) -> Result<Threads, E> {
                v.parse().map_err(E::custom)
            }
            fn visit_u64<E: de::Error>(self, v: u64) -> Result<Threads, E> {
                v.to_string().parse().map_err(E::custom)
            }
            fn visit_i64<E: de::Error>(self, v: i64) -> Result<Threads, E> {
                v.to_string().parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

impl JsonSchema for Threads {
    fn schema_name() -> Cow<'static, str> {
        "Threads".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "`auto` or a number of threads.",
            "anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": 1024}],
        })
    }
}

macro_rules! text_quantity {
    ($type:ident, $pattern:literal, $description:literal) => {
        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.serialize_str(&self.to_string())
            }
        }
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let text = Cow::<'_, str>::deserialize(d)?;
                text.parse().map_err(de::Error::custom)
            }
        }
        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({"type": "string", "pattern": $pattern, "description": $description})
            }
        }
    };
}

text_quantity!(Bytes, r"^[0-9]+(\.[0-9]+)? ?(B|KiB|MiB|GiB|KB|MB|GB)$", "A size with its unit, such as `512MiB`.");
text_quantity!(Percent, r"^[0-9]+(\.[0-9]+)? ?%$", "A percentage, such as `3%`.");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_need_a_unit_and_come_back_as_written() {
        for (text, bytes) in [("2GiB", 2u64 << 30), ("512MiB", 512 << 20), ("7B", 7), ("1GB", 1_000_000_000)] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        assert_eq!(Bytes(2 << 30).to_string(), "2GiB");
        for bad in ["", "12", "GiB", "-1GiB", "nanGiB", "1e30GiB", "2 gib"] {
            assert!(bad.parse::<Bytes>().is_err(), "{bad}");
        }
    }

    #[test]
    fn percentages_round_trip() {
        for text in ["3%", "0.5%", "7%", "0%", "29%"] {
            let percent: Percent = text.parse().unwrap();
            assert_eq!(percent.to_string(), text);
        }
        assert!("3".parse::<Percent>().is_err());
        assert!("NaN%".parse::<Percent>().is_err());
    }

    #[test]
    fn threads_are_auto_or_positive() {
        assert_eq!(serde_json::from_str::<Threads>("\"auto\"").unwrap(), Threads::Auto);
        assert_eq!(serde_json::from_str::<Threads>("3").unwrap(), Threads::Count(3));
        assert!(serde_json::from_str::<Threads>("0").is_err());
        assert!(serde_json::from_str::<Threads>("-1").is_err());
    }
}
