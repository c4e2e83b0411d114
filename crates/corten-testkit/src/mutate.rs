//! Broken inputs for parsers: what was good, changed in a few places. The same numbers give the same inputs, so that a case
//! that fails once fails again.

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use crate::run::rounds;

/// Longest input.
const SIZE_BYTES_MAX: usize = 64 * 1024;

/// Bytes that parsers trip over.
const SHARP: &[u8] = b"\0\xff\x7f\x80\"\\{}[],:-+.eE0919/ \n\r\t";

/// Words that numbers and names are replaced by.
const WORDS: &[&str] = &[
    "-1",
    "0",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "1e400",
    "-0.0",
    "null",
    "true",
    "\"\"",
    "{}",
    "[]",
    "../..",
    "\\u0000",
    "\\ud800",
    "sha256:",
    "[[[[[[[[",
];

/// Calls `check` with each of the `good` inputs, and with `few` mutated ones (or as many as `CORTEN_TEST_ROUNDS` says).
/// A panic is passed on after the input was shown.
pub fn each(good: &[&[u8]], few: usize, check: impl Fn(&[u8])) {
    let mutated = (0..rounds(few)).map(|number| mutate(good, u64::try_from(number).unwrap()));
    for input in good.iter().map(|bytes| bytes.to_vec()).chain(mutated) {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| check(&input))) {
            eprintln!("input of {} bytes: {}", input.len(), input.escape_ascii());
            resume_unwind(panic);
        }
    }
}

/// The `number`th mutation.
fn mutate(good: &[&[u8]], number: u64) -> Vec<u8> {
    let mut random = Random(number.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut input = good[random.below(good.len())].to_vec();
    for _ in 0..=random.below(6) {
        change(&mut input, good[random.below(good.len())], &mut random);
        input.truncate(SIZE_BYTES_MAX);
    }
    input
}

fn change(input: &mut Vec<u8>, other: &[u8], random: &mut Random) {
    let (from, to) = random.range(input.len());
    match random.below(8) {
        0 if from < input.len() => input[from] ^= 1 << random.below(8),
        1 if from < input.len() => input[from] = SHARP[random.below(SHARP.len())],
        2 => drop(input.drain(from..to)),
        3 => input.truncate(from),
        4 => {
            let part = input[from..to].to_vec();
            input.splice(from..from, part);
        }
        5 => {
            let (first, last) = random.range(other.len());
            input.splice(from..to, other[first..last].iter().copied());
        }
        6 => {
            let end =
                input[from..].iter().position(|byte| !byte.is_ascii_alphanumeric()).map_or(to, |length| from + length);
            input.splice(from..end, WORDS[random.below(WORDS.len())].bytes());
        }
        _ => input.insert(from, SHARP[random.below(SHARP.len())]),
    }
}

/// Marsaglia's xorshift: enough for this, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit.max(1)
    }

    /// A part of something `length` long, mostly short.
    fn range(&mut self, length: usize) -> (usize, usize) {
        let from = self.below(length + 1);
        let most = if self.below(4) == 0 { length } else { 16 };
        (from, (from + self.below(most + 1)).min(length))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_number_gives_the_same_input_and_another_another() {
        let good: &[&[u8]] = &[b"{\"a\": 17}", b"[1, 2, 3]"];
        let inputs: Vec<_> = (0..200).map(|number| mutate(good, number)).collect();
        assert_eq!(inputs, (0..200).map(|number| mutate(good, number)).collect::<Vec<_>>());
        let different: std::collections::BTreeSet<_> = inputs.iter().collect();
        assert!(different.len() > 150, "{}", different.len());
    }
}
