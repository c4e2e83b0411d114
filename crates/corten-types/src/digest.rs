//! Digests of content: an algorithm and the hash it gave, parsed strictly so that one can safely become a file name.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Error, ErrorKind, Result};

/// The hash functions that the image specification registers and Corten accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Algorithm {
    /// SHA-256, 32 bytes.
    Sha256,
    /// SHA-512, 64 bytes.
    Sha512,
}

impl Algorithm {
    /// The name before the colon.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    /// Bytes of one hash.
    pub fn size(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }
}

/// A digest, `sha256:` and 64 lower-case hexadecimal digits, or the same of sha512.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest {
    algorithm: Algorithm,
    /// Zero behind the algorithm's size, so that the derived comparisons hold.
    bytes: [u8; 64],
}

impl Digest {
    /// Parses the one accepted form. An unknown algorithm is `Unsupported`, anything else wrong is `Invalid`.
    pub fn parse(text: &str) -> Result<Self> {
        let Some((name, hex)) = text.split_once(':') else {
            return Err(Error::invalid(format!("digest `{}` has no algorithm", printable(text)))
                .hint("a digest reads `sha256:` and 64 hexadecimal digits"));
        };
        let algorithm = match name {
            "sha256" => Algorithm::Sha256,
            "sha512" => Algorithm::Sha512,
            _ => {
                let message = format!("digest algorithm `{}` is not supported", printable(name));
                return Err(Error::new(ErrorKind::Unsupported, message).hint("use sha256 or sha512"));
            }
        };
        Self::from_hex(algorithm, hex)
    }

    /// A digest from its hexadecimal part alone.
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Result<Self> {
        let wrong = || {
            let (name, digits) = (algorithm.as_str(), algorithm.size() * 2);
            Error::invalid(format!("digest `{name}:{}` is not {digits} lower-case hexadecimal digits", printable(hex)))
        };
        if hex.len() != algorithm.size() * 2 {
            return Err(wrong());
        }
        let mut bytes = [0; 64];
        for (byte, pair) in bytes.iter_mut().zip(hex.as_bytes().chunks_exact(2)) {
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(wrong()) };
            *byte = high << 4 | low;
        }
        Ok(Self { algorithm, bytes })
    }

    /// A digest from the raw hash; `Invalid` where the length is not the algorithm's.
    pub fn from_bytes(algorithm: Algorithm, hash: &[u8]) -> Result<Self> {
        if hash.len() != algorithm.size() {
            let name = algorithm.as_str();
            return Err(Error::invalid(format!("a {name} hash of {} bytes", hash.len())));
        }
        let mut bytes = [0; 64];
        bytes[..hash.len()].copy_from_slice(hash);
        Ok(Self { algorithm, bytes })
    }

    /// The algorithm.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The raw hash.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.algorithm.size()]
    }

    /// The hexadecimal digits, lower case.
    pub fn hex(&self) -> String {
        use fmt::Write;
        let mut text = String::with_capacity(self.algorithm.size() * 2);
        for byte in self.as_bytes() {
            write!(text, "{byte:02x}").unwrap_or_default();
        }
        text
    }

    /// The first twelve hexadecimal digits, as docker shows an identifier.
    pub fn short(&self) -> String {
        let mut text = self.hex();
        text.truncate(12);
        text
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

/// A hostile word made fit for a message: escaped and cut.
pub fn printable(text: &str) -> String {
    let mut shown: String = text.chars().take(100).flat_map(char::escape_debug).collect();
    if text.chars().nth(100).is_some() {
        shown.push('…');
    }
    shown
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.as_str(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::parse(text)
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn a_digest_reads_back_as_it_was_written() {
        let digest = Digest::parse(EMPTY).unwrap();
        assert_eq!(digest.to_string(), EMPTY);
        assert_eq!(digest.short(), "e3b0c44298fc");
        assert_eq!(Digest::from_bytes(Algorithm::Sha256, digest.as_bytes()).unwrap(), digest);
        assert!(Digest::parse(&format!("sha512:{}", "0a".repeat(64))).is_ok());
    }

    #[test]
    fn anything_but_the_one_form_is_refused() {
        let hex = &EMPTY[7..];
        for text in [
            String::new(),
            hex.to_owned(),
            format!("sha256:{}", &hex[1..]),
            format!("sha256:{hex}0"),
            format!("sha256:{}", hex.to_uppercase()),
            format!("SHA256:{hex}"),
            format!("sha512:{hex}"),
            format!("md5:{hex}"),
            "sha256:../../../../../../../../../../../../../../../../../../../../etc".to_owned(),
            format!("sha256:{}/", &hex[1..]),
            format!(" {EMPTY}"),
            format!("{EMPTY}\n"),
            format!("sha256:{}", "é".repeat(32)),
        ] {
            assert!(Digest::parse(&text).is_err(), "{text:?}");
        }
    }
}
