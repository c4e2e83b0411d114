//! Identifiers and names of containers, parsed so that each is safe as a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::digest::printable;
use crate::{Error, Result};

/// A container's identifier: 64 lower-case hexadecimal digits, as docker's.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerId(String);

impl ContainerId {
    /// An identifier from 32 random bytes. Never one whose short form is all digits: it would read as a number, and a
    /// host name of digits is refused by some programs.
    pub fn from_random(bytes: [u8; 32]) -> Self {
        use fmt::Write;
        let mut text = String::with_capacity(64);
        for byte in bytes {
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        if text.as_bytes()[..12].iter().all(u8::is_ascii_digit) {
            text.replace_range(..1, "c");
        }
        Self(text)
    }

    /// Parses a whole identifier.
    pub fn parse(text: &str) -> Result<Self> {
        if text.len() == 64 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self(text.to_owned()));
        }
        Err(Error::invalid(format!("`{}` is not a container's identifier", printable(text))))
    }

    /// The 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first twelve digits.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

/// A container's name: two or more of letters, digits, `_`, `.`, `-`; the first a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerName(String);

impl ContainerName {
    /// Parses a name; docker's leading `/` is dropped.
    pub fn parse(text: &str) -> Result<Self> {
        let name = text.strip_prefix('/').unwrap_or(text);
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
        if (2..=255).contains(&name.len()) && name.as_bytes()[0].is_ascii_alphanumeric() && name.bytes().all(fits) {
            return Ok(Self(name.to_owned()));
        }
        Err(Error::invalid(format!("`{}` is not a container's name", printable(text)))
            .hint("use two or more of `[a-zA-Z0-9][a-zA-Z0-9_.-]`"))
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Text forms: printed and stored as they are, parsed again when read.
macro_rules! text_forms {
    ($type:ty) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                Self::parse(text)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                Self::parse(&String::deserialize(deserializer)?).map_err(serde::de::Error::custom)
            }
        }
    };
}

text_forms!(ContainerId);
text_forms!(ContainerName);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identifier_never_reads_as_a_number() {
        let id = ContainerId::from_random([0x11; 32]);
        assert_eq!(id.short(), "c11111111111");
        assert_eq!(ContainerId::parse(id.as_str()).unwrap(), id);
        assert!(ContainerId::parse("../x").is_err() && ContainerId::parse(&"A".repeat(64)).is_err());
    }

    #[test]
    fn names_follow_docker() {
        for name in ["web", "/web", "a.b-c_d", "0x"] {
            assert!(ContainerName::parse(name).is_ok(), "{name}");
        }
        for name in ["", "a", ".a", "-a", "_a", "a b", "a/b", "..", "é1", "a\n"] {
            assert!(ContainerName::parse(name).is_err(), "{name:?}");
        }
    }
}
