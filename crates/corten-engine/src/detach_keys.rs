//! The keys that detach from a container: `ctrl-p,ctrl-q` where nothing else is said.

use corten_types::{Error, Result};

/// A sequence of keys as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DetachKeys(Vec<u8>);

impl Default for DetachKeys {
    fn default() -> Self {
        Self(vec![0x10, 0x11])
    }
}

impl DetachKeys {
    /// Reads docker's notation: letters and `ctrl-X`, with commas between; an empty text is the default.
    pub fn parse(text: &str) -> Result<Self> {
        if text.is_empty() {
            return Ok(Self::default());
        }
        let key = |word: &str| -> Option<u8> {
            if let [byte] = word.as_bytes() {
                return byte.is_ascii().then_some(*byte);
            }
            match word.to_ascii_lowercase().strip_prefix("ctrl-")?.as_bytes() {
                [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
                [b'@'] => Some(0),
                [b'['] => Some(27),
                [b'\\'] => Some(28),
                [b']'] => Some(29),
                [b'^'] => Some(30),
                [b'_'] => Some(31),
                _ => None,
            }
        };
        let keys = text.split(',').map(|word| {
            key(word).ok_or_else(|| {
                Error::invalid(format!("invalid detach keys ({text}): Unknown character: '{word}'"))
                    .hint("a key is a letter or `ctrl-` and a letter, `@`, `[`, `\\`, `]`, `^` or `_`")
            })
        });
        keys.collect::<Result<_>>().map(Self)
    }

    pub(crate) fn matcher(&self) -> Matcher {
        Matcher { keys: self.0.clone(), matched: 0 }
    }
}

/// What the user typed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Typed {
    Bytes,
    Detach,
}

/// How far the sequence was typed.
#[derive(Debug, Default)]
pub(crate) struct Matcher {
    keys: Vec<u8>,
    matched: usize,
}

impl Matcher {
    /// Moves what was typed to `pending`, except for what may be the beginning of the sequence.
    pub(crate) fn take(&mut self, bytes: &[u8], pending: &mut Vec<u8>) -> Typed {
        for byte in bytes {
            if self.keys.get(self.matched) == Some(byte) {
                self.matched += 1;
                if self.matched == self.keys.len() {
                    return Typed::Detach;
                }
                continue;
            }
            pending.extend_from_slice(&self.keys[..self.matched]);
            self.matched = 0;
            if self.keys.first() == Some(byte) && self.keys.len() > 1 {
                self.matched = 1;
            } else {
                pending.push(*byte);
            }
        }
        Typed::Bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_read_in_docker_s_notation() {
        assert_eq!(DetachKeys::parse("").unwrap().0, [16, 17]);
        assert_eq!(DetachKeys::parse("ctrl-a,x").unwrap().0, [1, b'x']);
        assert_eq!(DetachKeys::parse("ctrl-@,ctrl-[").unwrap().0, [0, 27]);
        for text in ["ctrl-", "ctrl-1", "abc", "a,,b"] {
            assert!(DetachKeys::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_sequence_that_is_broken_off_reaches_the_program() {
        let mut matcher = DetachKeys::parse("ctrl-p,ctrl-q").unwrap().matcher();
        let mut pending = Vec::new();
        assert_eq!(matcher.take(b"a\x10", &mut pending), Typed::Bytes);
        assert_eq!(pending, b"a");
        assert_eq!(matcher.take(b"b\x10\x10", &mut pending), Typed::Bytes);
        assert_eq!(pending, b"a\x10b\x10");
        assert_eq!(matcher.take(b"\x11", &mut pending), Typed::Detach);
    }
}
