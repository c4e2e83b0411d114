//! Properties of the unit that annotations ask for: `org.systemd.property.NAME` with a value in GVariant's text form
//! (`'text'`, `true`, `7`, `uint64 7`, `['a.service']`), as runc and crun read them.

use std::collections::BTreeMap;

use corten_types::{Error, Result};

use super::bus::Value;

const PREFIX: &str = "org.systemd.property.";

/// The properties, by name. `…Sec` in seconds is what systemd calls `…USec` in microseconds.
pub(super) fn properties(annotations: &BTreeMap<String, String>) -> Result<Vec<(String, Value)>> {
    let asked = annotations.iter().filter_map(|(key, text)| Some((key.strip_prefix(PREFIX)?, text)));
    asked.map(|(name, text)| property(name, text)).collect()
}

fn property(name: &str, text: &str) -> Result<(String, Value)> {
    let bad = |why: &str| Error::invalid(format!("annotation `{PREFIX}{}`: {why}", name.escape_debug()));
    if name.len() < 3 || !name.chars().all(|letter| letter.is_ascii_alphabetic()) {
        return Err(bad("the name of a property is letters"));
    }
    let before = name.strip_suffix("Sec").filter(|before| before.ends_with(|letter: char| letter.is_ascii_lowercase()));
    if let Some(before) = before {
        let number = text.rsplit(' ').next().unwrap_or_default();
        let seconds = number.parse::<f64>().ok().filter(|seconds| (0.0..1e12).contains(seconds));
        let seconds = seconds.ok_or_else(|| bad(&format!("`{}` is no number of seconds", text.escape_debug())))?;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1e18")]
        let microseconds = (seconds * 1e6) as u64;
        return Ok((format!("{before}USec"), Value::Number(microseconds)));
    }
    match parse(text.trim()) {
        Some(value) => Ok((name.to_owned(), value)),
        None => Err(bad(&format!("`{}` is no value", text.escape_debug()))
            .hint("texts are quoted, `'text'` or `['a', 'b']`; numbers may name their type, `uint64 7`")),
    }
}

fn parse(text: &str) -> Option<Value> {
    if let Some(items) = text.strip_prefix('[') {
        return items.strip_suffix(']').and_then(list).map(Value::Texts);
    }
    if text.starts_with(['\'', '"']) {
        return quoted(text).filter(|(_, rest)| rest.is_empty()).map(|(text, _)| Value::Text(text));
    }
    match text.split_once(' ') {
        None => match text {
            "true" => Some(Value::Flag(true)),
            "false" => Some(Value::Flag(false)),
            number => number.parse().ok().map(Value::Small),
        },
        Some(("int32", number)) => number.trim().parse().ok().map(Value::Small),
        Some(("uint32", number)) => number.trim().parse().ok().map(Value::Word),
        Some(("int64", number)) => number.trim().parse().ok().map(Value::Signed),
        Some(("uint64", number)) => number.trim().parse().ok().map(Value::Number),
        Some(_) => None,
    }
}

/// The quoted text at the start, and what follows.
fn quoted(text: &str) -> Option<(String, &str)> {
    let quote = text.chars().next().filter(|first| *first == '\'' || *first == '"')?;
    let (mut value, mut letters) = (String::new(), text[1..].char_indices());
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => value.push(letters.next()?.1),
            letter if letter == quote => return Some((value, &text[at + 2..])),
            letter => value.push(letter),
        }
    }
    None
}

fn list(items: &str) -> Option<Vec<String>> {
    let (mut texts, mut rest) = (Vec::new(), items.trim());
    while !rest.is_empty() {
        let (text, after) = quoted(rest)?;
        texts.push(text);
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(more) => more.trim_start(),
            None if after.is_empty() => after,
            None => return None,
        };
    }
    Some(texts)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_have_their_types() {
        let text = |text: &str| Value::Text(text.to_owned());
        for (written, value) in [
            ("'inactive-or-failed'", text("inactive-or-failed")),
            (r#""it's""#, text("it's")),
            (r"'it\'s'", text("it's")),
            ("true", Value::Flag(true)),
            ("-7", Value::Small(-7)),
            ("uint64 30000000", Value::Number(30_000_000)),
            ("['crio.service', \"b\"]", Value::Texts(vec!["crio.service".into(), "b".into()])),
            ("[]", Value::Texts(Vec::new())),
        ] {
            assert_eq!(parse(written), Some(value), "{written}");
        }
        for bad in ["", "'open", "'a' b", "[1]", "['a' 'b']", "double 1", "uint64 -1", "3000000000"] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn seconds_become_microseconds_and_bad_names_are_refused() {
        let read = |name: &str, text: &str| {
            properties(&BTreeMap::from([(format!("{PREFIX}{name}"), text.to_owned())])).map(|mut list| list.remove(0))
        };
        let microseconds = ("TimeoutStopUSec".to_owned(), Value::Number(1_500_000));
        assert_eq!(read("TimeoutStopSec", "1.5").unwrap(), microseconds);
        assert_eq!(read("TimeoutStopUSec", "uint64 1500000").unwrap(), microseconds);
        for (name, text) in [("A", "1"), ("Kill/Mode", "1"), ("TimeoutStopSec", "soon"), ("KillMode", "mixed")] {
            assert!(read(name, text).unwrap_err().message().contains(name), "{name}");
        }
        assert!(properties(&BTreeMap::from([("other".to_owned(), "x".to_owned())])).unwrap().is_empty());
    }
}
