//! `10GiB` and `24h`.

use std::time::Duration;

use serde::{Deserialize, Deserializer};

/// A count of bytes: a number, or one with `kB`, `MB`, `GB`, `TB` (thousands) or `KiB`, `MiB`, `GiB`, `TiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteCount(pub u64);

/// A span of time: `90s`, `15m`, `24h`, `30d`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl ByteCount {
    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let factor: u64 = match unit {
            "" | "B" => 1,
            "kB" | "KB" => 1000,
            "MB" => 1_000_000,
            "GB" => 1_000_000_000,
            "TB" => 1_000_000_000_000,
            "KiB" | "k" | "K" => 1 << 10,
            "MiB" | "m" | "M" => 1 << 20,
            "GiB" | "g" | "G" => 1 << 30,
            "TiB" | "t" | "T" => 1 << 40,
            _ => return None,
        };
        number.checked_mul(factor).map(Self)
    }
}

impl Span {
    /// Reads it.
    pub fn parse(text: &str) -> Option<Self> {
        let (number, unit) = split(text)?;
        let seconds: u64 = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            "d" => 86400,
            _ => return None,
        };
        // A thousand years are enough, and overflow nothing.
        number.checked_mul(seconds).filter(|seconds| *seconds < 1000 * 366 * 86400).map(Duration::from_secs).map(Self)
    }
}

fn split(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let end = text.bytes().position(|byte| !byte.is_ascii_digit()).unwrap_or(text.len());
    Some((text[..end].parse().ok()?, text[end..].trim()))
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Raw {
    Number(u64),
    Text(String),
}

impl<'de> Deserialize<'de> for ByteCount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Raw::deserialize(deserializer)? {
            Raw::Number(number) => Ok(Self(number)),
            Raw::Text(text) => Self::parse(&text)
                .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no size; write `500MB` or `10GiB`"))),
        }
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text)
            .ok_or_else(|| serde::de::Error::custom(format!("`{text}` is no span of time; write `90s`, `15m`, `24h`")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_spans() {
        for (text, bytes) in
            [("5", 5), ("5B", 5), ("5 kB", 5000), ("5KiB", 5120), ("2G", 2 << 30), ("1TB", 10u64.pow(12))]
        {
            assert_eq!(ByteCount::parse(text), Some(ByteCount(bytes)), "{text}");
        }
        for text in ["", "x", "-5", "5 apples", "99999999999999999999", "99999999999TiB"] {
            assert_eq!(ByteCount::parse(text), None, "{text}");
        }
        for (text, seconds) in [("0s", 0), ("90s", 90), ("15m", 900), ("1h", 3600), ("2d", 172_800)] {
            assert_eq!(Span::parse(text), Some(Span(Duration::from_secs(seconds))), "{text}");
        }
        for text in ["", "5", "h", "1w", "99999999999999d"] {
            assert_eq!(Span::parse(text), None, "{text}");
        }
    }
}
