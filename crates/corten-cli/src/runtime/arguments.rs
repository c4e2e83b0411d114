//! Reading a command line by a table of flags: Go's and getopt's spellings alike, nothing built that is not asked for.
//!
//! `--name value`, `--name=value`, `-name value`, `-n value`, `-nvalue`, and clusters of short switches. Flags and
//! arguments may be mixed, except where everything after the first argument belongs to somebody else (`exec`).

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use corten_types::{Error, Result};

/// What follows a flag's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Takes {
    /// Nothing; `=true` and `=false` are understood.
    Nothing,
    /// Any text; the last one wins.
    Text,
    /// An integer; the last one wins.
    Number,
    /// Any text, each time one more.
    List,
}

/// One flag.
#[derive(Debug)]
pub(super) struct Flag {
    pub long: &'static str,
    pub short: Option<char>,
    pub takes: Takes,
    /// Shown in the help; the command's code knows its own defaults.
    pub default: &'static str,
    /// An empty text hides the flag.
    pub help: &'static str,
}

impl Flag {
    /// A switch.
    pub(super) const fn switch(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Nothing, default: "", help }
    }

    /// A flag with a text.
    pub(super) const fn text(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Text, default: "", help }
    }

    /// A flag with an integer.
    pub(super) const fn number(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::Number, default: "0", help }
    }

    /// A flag that may be given many times.
    pub(super) const fn list(long: &'static str, help: &'static str) -> Self {
        Self { long, short: None, takes: Takes::List, default: "", help }
    }

    /// With a one-letter name.
    pub(super) const fn short(self, letter: char) -> Self {
        Self { short: Some(letter), ..self }
    }

    /// With a default that the help shows.
    pub(super) const fn default(self, default: &'static str) -> Self {
        Self { default, ..self }
    }

    fn is_named(&self, name: &str) -> bool {
        self.long == name || self.short.is_some_and(|letter| name.chars().eq([letter]))
    }
}

/// A command line after reading.
#[derive(Debug, Default)]
pub(super) struct Arguments {
    flags: Vec<(&'static Flag, String)>,
    /// What is neither a flag nor a flag's value.
    pub operands: Vec<String>,
}

/// Where reading stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Flags and operands mix.
    Mixed,
    /// Everything after the first operand is an operand.
    OperandEnds,
}

impl Arguments {
    /// Reads `words` until they end; a flag is looked up in each of `tables` in turn.
    pub(super) fn read(
        words: &mut std::vec::IntoIter<OsString>,
        tables: &[&'static [Flag]],
        order: Order,
    ) -> Result<Self> {
        let mut arguments = Self::default();
        while let Some(word) = words.next() {
            let word = utf8(word)?;
            if word == "--" {
                return arguments.take_rest(words);
            }
            if word == "-" || !word.starts_with('-') {
                arguments.operands.push(word);
                if order == Order::OperandEnds {
                    return arguments.take_rest(words);
                }
                continue;
            }
            arguments.read_flag(&word, words, tables)?;
        }
        Ok(arguments)
    }

    /// Reads flags only, and leaves the first operand in `words`.
    pub(super) fn read_leading(words: &mut std::vec::IntoIter<OsString>, table: &'static [Flag]) -> Result<Self> {
        let mut arguments = Self::default();
        while words.as_slice().first().is_some_and(|word| word.as_encoded_bytes().first() == Some(&b'-')) {
            let word = utf8(words.next().unwrap_or_default())?;
            if word == "--" {
                break;
            }
            arguments.read_flag(&word, words, &[table])?;
        }
        Ok(arguments)
    }

    /// Whether a switch is on.
    pub(super) fn is_set(&self, name: &str) -> bool {
        self.last(name).is_some_and(|value| value == "true")
    }

    /// Whether the flag was given at all.
    pub(super) fn is_given(&self, name: &str) -> bool {
        self.last(name).is_some()
    }

    /// The flag's text, where it was given and is not empty.
    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.last(name).filter(|value| !value.is_empty())
    }

    /// As [`Arguments::text`], as a path.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    /// The flag's integer, where it was given.
    pub(super) fn number(&self, name: &str) -> Option<i64> {
        self.last(name).and_then(|value| value.parse().ok())
    }

    /// Every text given to the flag.
    pub(super) fn list(&self, name: &str) -> impl Iterator<Item = &str> {
        self.flags.iter().filter(move |(flag, _)| flag.long == name).map(|(_, value)| value.as_str())
    }

    fn last(&self, name: &str) -> Option<&str> {
        self.flags.iter().rev().find(|(flag, _)| flag.long == name).map(|(_, value)| value.as_str())
    }

    fn take_rest(mut self, words: &mut std::vec::IntoIter<OsString>) -> Result<Self> {
        for word in words {
            self.operands.push(utf8(word)?);
        }
        Ok(self)
    }

    fn read_flag(
        &mut self,
        word: &str,
        words: &mut std::vec::IntoIter<OsString>,
        tables: &[&'static [Flag]],
    ) -> Result<()> {
        let bare = word.strip_prefix("--").or_else(|| word.strip_prefix('-')).unwrap_or(word);
        let (name, attached) = match bare.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (bare, None),
        };
        let Some(flag) = find(tables, name) else {
            return if word.starts_with("--") { Err(unknown(name)) } else { self.read_cluster(bare, words, tables) };
        };
        self.push(flag, attached, words)
    }

    /// `-td` and `-bDIRECTORY`.
    fn read_cluster(
        &mut self,
        cluster: &str,
        words: &mut std::vec::IntoIter<OsString>,
        tables: &[&'static [Flag]],
    ) -> Result<()> {
        let mut letters = cluster.char_indices();
        while let Some((at, letter)) = letters.next() {
            let name = &cluster[at..at + letter.len_utf8()];
            let flag = find(tables, name).ok_or_else(|| unknown(cluster))?;
            let rest = letters.as_str();
            if flag.takes != Takes::Nothing && !rest.is_empty() {
                return self.push(flag, Some(rest.strip_prefix('=').unwrap_or(rest)), words);
            }
            self.push(flag, None, words)?;
        }
        Ok(())
    }

    fn push(
        &mut self,
        flag: &'static Flag,
        attached: Option<&str>,
        words: &mut std::vec::IntoIter<OsString>,
    ) -> Result<()> {
        let value = match (flag.takes, attached) {
            (Takes::Nothing, None) => "true".to_owned(),
            (Takes::Nothing, Some(value)) => {
                parse_bool(value).ok_or_else(|| invalid_value(flag, value, "use `true` or `false`"))?.to_string()
            }
            (_, Some(value)) => value.to_owned(),
            (_, None) => match words.next() {
                Some(value) => utf8(value)?,
                None => return Err(Error::invalid(format!("flag needs an argument: --{}", flag.long))),
            },
        };
        if flag.takes == Takes::Number && value.parse::<i64>().is_err() {
            return Err(invalid_value(flag, &value, "it must be a whole number"));
        }
        self.flags.push((flag, value));
        Ok(())
    }
}

fn find(tables: &[&'static [Flag]], name: &str) -> Option<&'static Flag> {
    tables.iter().flat_map(|table| table.iter()).find(|flag| flag.is_named(name))
}

fn unknown(name: &str) -> Error {
    Error::invalid(format!("flag provided but not defined: -{name}"))
}

fn invalid_value(flag: &Flag, value: &str, why: &str) -> Error {
    Error::invalid(format!("invalid value `{value}` for flag `--{}`: {why}", flag.long))
}

fn utf8(word: OsString) -> Result<String> {
    word.into_string().map_err(|word| Error::invalid(format!("argument {word:?} is not UTF-8")))
}

/// The words that Go's strconv takes for a truth value.
pub(super) fn parse_bool(word: &str) -> Option<bool> {
    match word {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

/// A duration as Go writes it: `1m30s`, `300ms`, `1.5h`.
pub(super) fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut total = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        total += number
            * match &rest[..end] {
                "ns" => 1e-9,
                "us" | "µs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok().filter(|_| !text.is_empty())
}

/// Bytes as docker writes them: `64m`, `1.5GiB`, `1024`; factors of 1024.
pub(super) fn parse_bytes(text: &str) -> Option<i64> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let number: f64 = text[..digits].parse().ok()?;
    let unit = text[digits..].trim_start_matches(' ').to_ascii_lowercase();
    let unit = unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(&unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return None,
    };
    let bytes = number * 1024_f64.powi(power);
    if !bytes.is_finite() || bytes >= 9.2e18 {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below the range's end, checked above; fractions are dropped")]
    Some(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    static FLAGS: [Flag; 5] = [
        Flag::text("bundle", "b").short('b'),
        Flag::switch("detach", "d").short('d'),
        Flag::switch("tty", "t").short('t'),
        Flag::number("preserve-fds", "n"),
        Flag::list("env", "e").short('e'),
    ];

    fn read(words: &[&str], order: Order) -> Result<Arguments> {
        let words: Vec<OsString> = words.iter().map(OsString::from).collect();
        Arguments::read(&mut words.into_iter(), &[&FLAGS], order)
    }

    #[test]
    fn every_spelling_of_a_flag_is_understood() {
        for words in [
            &["--bundle", "/b", "id"][..],
            &["--bundle=/b", "id"],
            &["-b", "/b", "id"],
            &["-b/b", "id"],
            &["-bundle", "/b", "id"],
            &["id", "-b=/b"],
        ] {
            let arguments = read(words, Order::Mixed).unwrap();
            assert_eq!((arguments.text("bundle"), &arguments.operands[..]), (Some("/b"), &["id".to_owned()][..]));
        }
        let arguments = read(&["-td", "--detach=false", "x"], Order::Mixed).unwrap();
        assert!(arguments.is_set("tty") && !arguments.is_set("detach") && arguments.is_given("detach"));
    }

    #[test]
    fn what_follows_the_operand_belongs_to_the_command() {
        let arguments = read(&["-e", "A=1", "--env=B=2", "id", "sh", "-c", "--tty"], Order::OperandEnds).unwrap();
        assert_eq!(arguments.operands, ["id", "sh", "-c", "--tty"]);
        assert_eq!(arguments.list("env").collect::<Vec<_>>(), ["A=1", "B=2"]);
        assert_eq!(read(&["--", "-t"], Order::Mixed).unwrap().operands, ["-t"]);
    }

    #[test]
    fn mistakes_are_named() {
        let message = |words| read(words, Order::Mixed).unwrap_err().message().to_owned();
        assert_eq!(message(&["--moon"]), "flag provided but not defined: -moon");
        assert_eq!(message(&["-tx"]), "flag provided but not defined: -tx");
        assert_eq!(message(&["--bundle"]), "flag needs an argument: --bundle");
        assert_eq!(
            message(&["--preserve-fds", "x"]),
            "invalid value `x` for flag `--preserve-fds`: it must be a whole number"
        );
        assert_eq!(message(&["--tty=maybe"]), "invalid value `maybe` for flag `--tty`: use `true` or `false`");
    }

    #[test]
    fn durations_and_sizes_are_those_of_go() {
        assert_eq!(parse_duration("1m30s"), Some(Duration::from_secs(90)));
        assert_eq!(parse_duration("300ms"), Some(Duration::from_millis(300)));
        assert_eq!((parse_duration("5"), parse_duration(""), parse_duration("-1s")), (None, None, None));
        assert_eq!(parse_bytes("64m"), Some(64 << 20));
        assert_eq!(parse_bytes("1.5GiB"), Some(3 << 29));
        assert_eq!((parse_bytes("1024"), parse_bytes("10kb"), parse_bytes("x")), (Some(1024), Some(10240), None));
    }
}
