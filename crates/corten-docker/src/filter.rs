//! `--filter NAME=VALUE` and docker's patterns.

use corten_types::{Error, ErrorKind, Result};
use jiff::Timestamp;

/// Filters in the order given: those of one name are alternatives (labels are not), different names must all match.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filters(Vec<(String, String)>);

impl Filters {
    /// Reads words such as `status=running`; a name that is not in `known` is refused, one in `later` says so.
    pub fn parse(words: &[String], known: &[&str], later: &[&str]) -> Result<Self> {
        let mut filters = Vec::new();
        for word in words {
            let Some((name, value)) = word.split_once('=') else {
                return Err(Error::invalid(format!("invalid filter `{word}`"))
                    .hint("a filter reads `NAME=VALUE`, for example `--filter name=web`"));
            };
            let (name, value) = (name.trim().to_lowercase(), value.trim().to_owned());
            if later.contains(&name.as_str()) {
                let message = format!("filter `{name}` is not supported yet");
                return Err(Error::new(ErrorKind::Unsupported, message).hint(supported(known)));
            }
            if !known.contains(&name.as_str()) {
                return Err(Error::invalid(format!("invalid filter '{name}'")).hint(supported(known)));
            }
            filters.push((name, value));
        }
        Ok(Self(filters))
    }

    /// Adds one more.
    pub fn push(&mut self, name: &str, value: &str) {
        self.0.push((name.to_owned(), value.to_owned()));
    }

    /// The values of `name`.
    pub fn values<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    /// Whether `name` is filtered by.
    pub fn has(&self, name: &str) -> bool {
        self.values(name).next().is_some()
    }

    /// Whether one of the values of `name` satisfies `matches`, or there are none.
    pub fn any(&self, name: &str, matches: impl FnMut(&str) -> bool) -> bool {
        !self.has(name) || self.values(name).any(matches)
    }

    /// `name=NAME` and `name=NAME=VALUE` as pairs.
    pub fn labels(&self, name: &str) -> Vec<(String, Option<String>)> {
        let pair = |text: &str| match text.split_once('=') {
            Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
            None => (text.to_owned(), None),
        };
        self.values(name).map(pair).collect()
    }

    /// Whether labels satisfy every `label=NAME` and `label=NAME=VALUE`.
    pub fn match_labels(&self, labels: &std::collections::BTreeMap<String, String>) -> bool {
        self.values("label").all(|wanted| match wanted.split_once('=') {
            Some((name, value)) => labels.get(name).is_some_and(|found| found == value),
            None => labels.contains_key(wanted),
        })
    }
}

fn supported(known: &[&str]) -> String {
    format!("filters are {}", known.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
}

/// A yes or no in docker's words for filters.
pub fn boolean(name: &str, value: &str) -> Result<bool> {
    match value {
        "1" | "true" => Ok(true),
        "0" | "false" => Ok(false),
        _ => Err(Error::invalid(format!("invalid filter '{name}={value}'")).hint("use `true` or `false`")),
    }
}

/// The moment that `until=VALUE` names: RFC 3339, a date, seconds since 1970, or a time before now in Go's words (`24h`).
pub fn until(value: &str, now: Timestamp) -> Result<Timestamp> {
    let wrong = || {
        Error::invalid(format!("invalid filter 'until={value}'"))
            .hint("use a time before now (`24h`, `1h30m`) or a moment (`2026-01-31T12:00:00Z`, `2026-01-31`)")
    };
    if let Some(nanoseconds) = go_duration(value) {
        return now.checked_sub(jiff::SignedDuration::from_nanos(nanoseconds)).map_err(|_| wrong());
    }
    if let Ok(moment) = value.parse::<Timestamp>() {
        return Ok(moment);
    }
    let seconds = value.split_once('.').map_or(value, |(seconds, _)| seconds);
    if let Ok(seconds) = seconds.parse::<i64>() {
        return Timestamp::from_second(seconds).map_err(|_| wrong());
    }
    // Docker takes moments without a zone for local ones; Corten's are UTC.
    let form = match value.len() {
        10 => format!("{value}T00:00:00Z"),
        13 => format!("{value}:00:00Z"),
        16 => format!("{value}:00Z"),
        _ => format!("{value}Z"),
    };
    form.parse().map_err(|_| wrong())
}

/// Go's durations: `1h30m`, `1.5h`, `300ms`.
fn go_duration(text: &str) -> Option<i64> {
    let mut total = 0f64;
    let mut rest = text;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(|byte| byte.is_ascii_digit() || *byte == b'.').count();
        let number: f64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(|byte| !byte.is_ascii_digit() && *byte != b'.').count();
        let unit = match &rest[..letters] {
            "ns" => 1.0,
            "us" | "µs" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[letters..];
        total += number * unit;
    }
    #[expect(clippy::cast_possible_truncation, reason = "a filter's time is a matter of years, not of nanoseconds")]
    (total < 9e18).then_some(total as i64)
}

/// The part of regular expressions that names and ids are searched with: `^ $ . * + ?` and `\` before any of them.
#[derive(Debug, Clone)]
pub struct Pattern {
    from_start: bool,
    to_end: bool,
    items: Vec<(Option<char>, Repeat)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Repeat {
    Once,
    Optional,
    Many,
}

impl Pattern {
    /// Reads a pattern; what regular expressions have beyond it is refused.
    pub fn parse(text: &str) -> Result<Self> {
        let from_start = text.starts_with('^');
        let mut rest = text.strip_prefix('^').unwrap_or(text).chars().peekable();
        let mut pattern = Self { from_start, to_end: false, items: Vec::new() };
        while let Some(c) = rest.next() {
            let item = match c {
                '$' if rest.peek().is_none() => {
                    pattern.to_end = true;
                    break;
                }
                '\\' => Some(rest.next().ok_or_else(|| unsupported(text))?),
                '.' => None,
                '[' | ']' | '(' | ')' | '{' | '}' | '|' | '^' | '$' | '*' | '+' | '?' => return Err(unsupported(text)),
                literal => Some(literal),
            };
            match rest.next_if(|next| matches!(next, '*' | '+' | '?')) {
                Some('*') => pattern.items.push((item, Repeat::Many)),
                Some('+') => pattern.items.extend([(item, Repeat::Once), (item, Repeat::Many)]),
                Some(_) => pattern.items.push((item, Repeat::Optional)),
                None => pattern.items.push((item, Repeat::Once)),
            }
        }
        Ok(pattern)
    }

    /// Whether the pattern is found in `text`.
    pub fn is_match(&self, text: &str) -> bool {
        let text: Vec<char> = text.chars().collect();
        let starts = if self.from_start { 0..=0 } else { 0..=text.len() };
        // The set of places reached after each item: no backtracking, thus no blow-up.
        let mut reached = vec![false; text.len() + 1];
        starts.for_each(|start| reached[start] = true);
        for (item, repeat) in &self.items {
            let mut next = if *repeat == Repeat::Once { vec![false; text.len() + 1] } else { reached.clone() };
            for place in 0..text.len() {
                let from = if *repeat == Repeat::Many { next[place] } else { reached[place] };
                if from && item.is_none_or(|wanted| wanted == text[place]) {
                    next[place + 1] = true;
                }
            }
            reached = next;
        }
        if self.to_end { reached[text.len()] } else { reached.contains(&true) }
    }
}

fn unsupported(text: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the pattern `{text}` is not supported"))
        .hint("of regular expressions `^`, `$`, `.`, `*`, `+`, `?` and `\\` are known")
}

/// Whether `name` matches the shell pattern `pattern` as Go's `path.Match`: `*` and `?` do not match `/`.
pub fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let mut reached = vec![false; name.len() + 1];
    reached[0] = true;
    let mut at = 0;
    while at < pattern.len() {
        let mut next = vec![false; name.len() + 1];
        let (length, matches): (usize, Box<dyn Fn(char) -> bool>) = match pattern[at] {
            '*' => {
                next.clone_from(&reached);
                for place in 0..name.len() {
                    next[place + 1] |= next[place] && name[place] != '/';
                }
                reached = next;
                at += 1;
                continue;
            }
            '?' => (1, Box::new(|c| c != '/')),
            '[' => match class(&pattern[at..]) {
                Some((length, matches)) => (length, matches),
                None => return false,
            },
            '\\' if at + 1 < pattern.len() => {
                let literal = pattern[at + 1];
                (2, Box::new(move |c| c == literal))
            }
            literal => (1, Box::new(move |c| c == literal)),
        };
        for place in 0..name.len() {
            next[place + 1] = reached[place] && matches(name[place]);
        }
        reached = next;
        at += length;
    }
    reached[name.len()]
}

type CharacterClass = Box<dyn Fn(char) -> bool>;

/// `[a-z]` or `[^a-z]`: its length and what it matches.
fn class(pattern: &[char]) -> Option<(usize, CharacterClass)> {
    let end = pattern.iter().skip(2).position(|c| *c == ']')? + 2;
    let (negated, body) = match pattern[1] {
        '^' => (true, pattern[2..end].to_vec()),
        _ => (false, pattern[1..end].to_vec()),
    };
    let matches = move |c: char| {
        let mut index = 0;
        let mut found = false;
        while index < body.len() {
            if body.get(index + 1) == Some(&'-') && index + 2 < body.len() {
                found |= (body[index]..=body[index + 2]).contains(&c);
                index += 3;
            } else {
                found |= body[index] == c;
                index += 1;
            }
        }
        found != negated && c != '/'
    };
    Some((end + 1, Box::new(matches)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_filters_are_refused_by_name() {
        let parse = |word: &str| Filters::parse(&[word.to_owned()], &["name", "status"], &["publish"]);
        assert!(parse("name=x").is_ok());
        assert_eq!(parse("foo=1").unwrap_err().message(), "invalid filter 'foo'");
        assert_eq!(parse("publish=1").unwrap_err().kind(), ErrorKind::Unsupported);
        assert!(parse("name").is_err());
    }

    #[test]
    fn until_takes_moments_and_times_before_now() {
        let now: Timestamp = "2026-11-21T12:00:00Z".parse().unwrap();
        for (value, expected) in [
            ("24h", "2026-11-20T12:00:00Z"),
            ("1h30m", "2026-11-21T10:30:00Z"),
            ("1.5h", "2026-11-21T10:30:00Z"),
            ("2026-01-31", "2026-01-31T00:00:00Z"),
            ("2026-01-31T10:00", "2026-01-31T10:00:00Z"),
            ("2026-01-31T10:00:01+01:00", "2026-01-31T09:00:01Z"),
            ("1700000000", "2023-11-14T22:13:20Z"),
        ] {
            assert_eq!(until(value, now).unwrap().to_string(), expected, "{value}");
        }
        assert!(until("tomorrow", now).is_err() && until("", now).is_err() && until("5x", now).is_err());
    }

    #[test]
    fn patterns_search_as_regular_expressions_do() {
        for (pattern, text, expected) in [
            ("web", "my-web-1", true),
            ("^web", "my-web", false),
            ("^web$", "web", true),
            ("^web$", "web1", false),
            ("w.b", "wxb", true),
            ("^a.*z$", "abcz", true),
            ("ab+c", "abbbc", true),
            ("ab+c", "ac", false),
            ("ab?c", "ac", true),
            ("", "anything", true),
            ("a\\.b", "axb", false),
        ] {
            assert_eq!(Pattern::parse(pattern).unwrap().is_match(text), expected, "{pattern} in {text}");
        }
        assert!(Pattern::parse("(a|b)").is_err());
    }

    #[test]
    fn globs_stop_at_slashes() {
        for (pattern, name, expected) in [
            ("busy*", "busybox", true),
            ("busy*", "busybox:latest", true),
            ("*", "localhost/x", false),
            ("*/*", "localhost/x", true),
            ("b?sybox", "busybox", true),
            ("[a-c]x", "bx", true),
            ("[^a-c]x", "bx", false),
            ("busy", "busybox", false),
        ] {
            assert_eq!(glob(pattern, name), expected, "{pattern} on {name}");
        }
    }
}
