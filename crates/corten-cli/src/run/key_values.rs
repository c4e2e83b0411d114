//! `-e`, `--env-file`, `-l`, `--label-file`.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

use corten_types::{Context, Error, Result};

use crate::Environment;

/// Files beyond this are refused.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// `NAME=VALUE` stands; `NAME` takes the caller's value, and stays a bare name where the caller has none.
pub(crate) fn variable(word: &str, environment: &Environment) -> Result<String, String> {
    match word.split_once('=') {
        Some(("", _)) => Err(format!("invalid environment variable: {word}")),
        Some(_) => Ok(word.to_owned()),
        None if word.is_empty() => Err("invalid environment variable: ".to_owned()),
        None => match environment.get(word).map(|value| value.to_str()) {
            Some(Some(value)) => Ok(format!("{word}={value}")),
            Some(None) => Err("the variable's value is not UTF-8".to_owned()),
            None => Ok(word.to_owned()),
        },
    }
}

/// Variables of a file: one a line, comments and empty lines left out, bare names taken from the caller or dropped.
pub(crate) fn variables_of(path: &str, environment: &Environment) -> Result<Vec<String>> {
    lines(path, "--env-file", environment, |name| variable(name, environment).ok().filter(|word| word != name))
}

/// Labels of a file, as [`variables_of`]; bare names are dropped as docker does.
pub(crate) fn labels_of(path: &str, environment: &Environment) -> Result<Vec<String>> {
    lines(path, "--label-file", environment, |_| None)
}

/// The map of `NAME=VALUE` words; a bare name has an empty value, later words win.
pub(crate) fn map(words: &[String]) -> BTreeMap<String, String> {
    let pair = |word: &String| {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        (name.to_owned(), value.to_owned())
    };
    words.iter().map(pair).collect()
}

fn lines(
    path: &str,
    flag: &str,
    environment: &Environment,
    lookup: impl Fn(&str) -> Option<String>,
) -> Result<Vec<String>> {
    let bytes = read(&environment.absolute(path)).context(|| format!("{flag}: cannot read `{path}`"))?;
    parse(&bytes, lookup).map_err(|why| Error::invalid(format!("{flag}: invalid env file ({path}): {why}")))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    std::fs::File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(Error::invalid(format!("the file has more than {FILE_BYTES_MAX} bytes")));
    }
    Ok(bytes)
}

fn parse(bytes: &[u8], lookup: impl Fn(&str) -> Option<String>) -> Result<Vec<String>, String> {
    let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    let mut words = Vec::new();
    for (index, line) in bytes.split(|byte| *byte == b'\n').enumerate() {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        let line = std::str::from_utf8(line).map_err(|_| format!("invalid utf8 bytes at line {}", index + 1))?;
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let (name, value) = match line.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (line, None),
        };
        if name.is_empty() {
            return Err(format!("no variable name on line '{line}'"));
        }
        if name.contains([' ', '\t']) {
            return Err(format!("variable '{name}' contains whitespaces"));
        }
        match value {
            Some(_) => words.push(line.to_owned()),
            None => words.extend(lookup(name)),
        }
    }
    Ok(words)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller() -> Environment {
        Environment { variables: vec![("HOME".into(), "/root".into())], ..Environment::default() }
    }

    #[test]
    fn a_bare_name_is_inherited() {
        assert_eq!(variable("A=b=c", &caller()), Ok("A=b=c".to_owned()));
        assert_eq!(variable("A=", &caller()), Ok("A=".to_owned()));
        assert_eq!(variable("HOME", &caller()), Ok("HOME=/root".to_owned()));
        assert_eq!(variable("MISSING", &caller()), Ok("MISSING".to_owned()));
        assert_eq!(variable("=x", &caller()), Err("invalid environment variable: =x".to_owned()));
    }

    #[test]
    fn a_file_has_one_variable_a_line() {
        let lookup = |name: &str| (name == "HOME").then(|| "HOME=/root".to_owned());
        let file = b"\xef\xbb\xbf# comment\n\n  A=two words \nB\nHOME\r\nC=\n";
        assert_eq!(parse(file, lookup).unwrap(), ["A=two words ", "HOME=/root", "C="]);
        assert_eq!(parse(b"A B=c", lookup).unwrap_err(), "variable 'A B' contains whitespaces");
        assert_eq!(parse(b"=c", lookup).unwrap_err(), "no variable name on line '=c'");
        assert_eq!(parse(b"A=1\n\xff", lookup).unwrap_err(), "invalid utf8 bytes at line 2");
    }
}
