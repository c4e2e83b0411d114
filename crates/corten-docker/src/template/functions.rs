//! The functions that a template may call: Go's own and docker's.

use std::cmp::Ordering;

use super::format::{plain, print, printed, printf};
use super::value::{ObjectKind, Value};

type Outcome = Result<Value, String>;

/// How functions that change text behave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// On a row.
    Row,
    /// On a table's header, whose names stay as they are.
    Header,
}

const NAMES: [&str; 27] = [
    "and", "call", "eq", "ge", "gt", "html", "index", "join", "js", "json", "le", "len", "lower", "lt", "ne", "not",
    "or", "pad", "print", "printf", "println", "slice", "split", "title", "truncate", "upper", "urlquery",
];

/// Whether `name` is a function.
pub(super) fn exists(name: &str) -> bool {
    NAMES.contains(&name)
}

/// Calls `name`; `and` and `or` are the caller's, because they do not evaluate every argument.
pub(super) fn call(name: &str, mode: Mode, arguments: &[Value]) -> Outcome {
    if mode == Mode::Header && matches!(name, "json" | "split" | "join" | "title" | "lower" | "upper" | "truncate") {
        return arguments.first().cloned().ok_or_else(|| format!("wrong number of args for {name}: want 1 got 0"));
    }
    match name {
        "json" => count(name, arguments, 1).map(|()| Value::from(arguments[0].to_json())),
        "split" => {
            count(name, arguments, 2)?;
            split(string(&arguments[0])?, string(&arguments[1])?)
        }
        "join" => {
            count(name, arguments, 2)?;
            join(&arguments[0], string(&arguments[1])?)
        }
        "title" | "lower" | "upper" => {
            count(name, arguments, 1)?;
            let text = string(&arguments[0])?;
            Ok(Value::from(match name {
                "title" => title(text),
                "lower" => text.to_lowercase(),
                _ => text.to_uppercase(),
            }))
        }
        "pad" => {
            count(name, arguments, 3)?;
            pad(string(&arguments[0])?, length(&arguments[1])?, length(&arguments[2])?)
        }
        "truncate" => {
            count(name, arguments, 2)?;
            truncate(string(&arguments[0])?, length(&arguments[1])?)
        }
        "print" => Ok(Value::from(print(arguments))),
        "println" => Ok(Value::from(arguments.iter().map(plain).collect::<Vec<_>>().join(" ") + "\n")),
        "printf" => match arguments.split_first() {
            Some((format, rest)) => Ok(Value::from(printf(string(format)?, rest))),
            None => Err("wrong number of args for printf: want at least 1 got 0".to_owned()),
        },
        "not" => count(name, arguments, 1).map(|()| Value::Bool(!arguments[0].is_true())),
        "len" => count(name, arguments, 1).and_then(|()| len(&arguments[0])),
        "index" => at_least(name, arguments, 1).and_then(|()| index(&arguments[0], &arguments[1..])),
        "slice" => at_least(name, arguments, 1).and_then(|()| slice(&arguments[0], &arguments[1..])),
        "eq" => at_least(name, arguments, 1).and_then(|()| equal_any(arguments)),
        "ne" => count(name, arguments, 2).and_then(|()| Ok(Value::Bool(!equal(&arguments[0], &arguments[1])?))),
        "lt" | "le" | "gt" | "ge" => {
            count(name, arguments, 2)?;
            let order = compare(&arguments[0], &arguments[1])?;
            Ok(Value::Bool(match name {
                "lt" => order == Ordering::Less,
                "le" => order != Ordering::Greater,
                "gt" => order == Ordering::Greater,
                _ => order != Ordering::Less,
            }))
        }
        "html" => Ok(Value::from(escape_html(&joined(arguments)))),
        "js" => Ok(Value::from(escape_js(&joined(arguments)))),
        "urlquery" => Ok(Value::from(escape_query(&joined(arguments)))),
        "call" => match arguments.split_first() {
            Some((Value::Method(method), rest)) => (method.0)(rest),
            Some((Value::Missing | Value::Nil, _)) | None => Err("call of nil".to_owned()),
            Some((other, _)) => Err(format!("non-function {} of type {}", plain(other), other.type_name())),
        },
        other => Err(format!("{other} is not a function")),
    }
}

fn joined(arguments: &[Value]) -> String {
    match arguments {
        [Value::String(text)] => text.to_string(),
        [only] => printed(only),
        several => print(several),
    }
}

fn count(name: &str, arguments: &[Value], wanted: usize) -> Result<(), String> {
    if arguments.len() == wanted {
        return Ok(());
    }
    Err(format!("wrong number of args for {name}: want {wanted} got {}", arguments.len()))
}

fn at_least(name: &str, arguments: &[Value], wanted: usize) -> Result<(), String> {
    if arguments.len() >= wanted {
        return Ok(());
    }
    Err(format!("wrong number of args for {name}: want at least {wanted} got {}", arguments.len()))
}

fn string(value: &Value) -> Result<&str, String> {
    match value {
        Value::String(text) => Ok(text),
        Value::Missing | Value::Nil => Err("invalid value; expected string".to_owned()),
        other => Err(format!("wrong type for value; expected string; got {}", other.type_name())),
    }
}

fn integer(value: &Value) -> Result<i128, String> {
    match value {
        Value::Int(number) => Ok(*number),
        Value::Missing | Value::Nil => Err("cannot index slice/array with nil".to_owned()),
        other => Err(format!("cannot index slice/array with type {}", other.type_name())),
    }
}

/// A count of characters; bounded, because padding allocates.
fn length(value: &Value) -> Result<usize, String> {
    match value {
        Value::Int(number) if *number < 0 => Err("strings: negative Repeat count".to_owned()),
        Value::Int(number) => usize::try_from(*number)
            .ok()
            .filter(|number| *number <= 1_000_000)
            .ok_or_else(|| format!("count {number} is out of range")),
        other => Err(format!("wrong type for value; expected int; got {}", other.type_name())),
    }
}

fn split(text: &str, separator: &str) -> Outcome {
    let parts: Vec<Value> = if separator.is_empty() {
        text.chars().map(|c| Value::from(c.to_string())).collect()
    } else {
        text.split(separator).map(Value::from).collect()
    };
    Ok(Value::list(parts))
}

fn join(elements: &Value, separator: &str) -> Outcome {
    let parts = match elements {
        Value::Missing | Value::Nil | Value::NilList | Value::NilMap => Vec::new(),
        Value::List(items) => items.iter().map(plain).collect(),
        Value::Object(object) if object.kind == ObjectKind::Map => {
            let mut parts: Vec<_> = object.fields.iter().map(|(_, value)| plain(value)).collect();
            parts.sort();
            parts
        }
        other => return Err(format!("expected slice, got {}", other.type_name())),
    };
    Ok(Value::from(parts.join(separator)))
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.push(c);
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphanumeric() || c == '_' || (!c.is_ascii() && !c.is_whitespace());
    }
    out
}

fn pad(text: &str, before: usize, after: usize) -> Outcome {
    if text.is_empty() {
        return Ok(Value::from(""));
    }
    Ok(Value::from(format!("{}{text}{}", " ".repeat(before), " ".repeat(after))))
}

fn truncate(text: &str, bytes: usize) -> Outcome {
    if text.len() < bytes {
        return Ok(Value::from(text));
    }
    Ok(Value::from(&text[..text.floor_char_boundary(bytes)]))
}

fn len(value: &Value) -> Outcome {
    Ok(Value::from(match value {
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::NilList | Value::NilMap => 0,
        Value::Object(object) if matches!(object.kind, ObjectKind::Map | ObjectKind::Document) => object.fields.len(),
        Value::Missing | Value::Nil => return Err("reflect: call of reflect.Value.Type on zero Value".to_owned()),
        other => return Err(format!("len of type {}", other.type_name())),
    }))
}

const SLICE_RANGE: &str = "reflect: slice index out of range";

fn index(value: &Value, keys: &[Value]) -> Outcome {
    let mut item = value.clone();
    if matches!(item, Value::Missing | Value::Nil) {
        return Err("index of untyped nil".to_owned());
    }
    for key in keys {
        item = match &item {
            Value::Object(object) if matches!(object.kind, ObjectKind::Map | ObjectKind::Document) => {
                let name = match key {
                    Value::String(name) => name,
                    Value::Missing | Value::Nil => return Err("value is nil; should be of type string".to_owned()),
                    other => return Err(format!("value has type {}; should be string", other.type_name())),
                };
                object.get(name).cloned().unwrap_or_else(|| object.zero())
            }
            Value::NilMap => string(key).map(|_| Value::from(""))?,
            Value::List(items) => items[position(key, items.len(), SLICE_RANGE)?].clone(),
            Value::NilList => {
                position(key, 0, SLICE_RANGE)?;
                Value::Missing
            }
            Value::String(text) => {
                Value::Int(text.as_bytes()[position(key, text.len(), "index out of range: {}")?].into())
            }
            Value::Missing | Value::Nil => return Err("index of nil pointer".to_owned()),
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

fn position(key: &Value, length: usize, message: &str) -> Result<usize, String> {
    let number = integer(key)?;
    let position = usize::try_from(number).ok().filter(|number| *number < length);
    position.ok_or_else(|| message.replace("{}", &number.to_string()))
}

fn slice(value: &Value, bounds: &[Value]) -> Outcome {
    let length = match value {
        Value::String(_) if bounds.len() > 2 => return Err("cannot 3-index slice a string".to_owned()),
        Value::String(text) => text.len(),
        Value::List(items) => items.len(),
        Value::NilList => 0,
        Value::Missing | Value::Nil => return Err("slice of untyped nil".to_owned()),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    if bounds.len() > 3 {
        return Err(format!("too many slice indexes: {}", bounds.len()));
    }
    let mut edges = [0, length, length];
    for (edge, bound) in edges.iter_mut().zip(bounds) {
        let number = integer(bound)?;
        *edge = usize::try_from(number)
            .ok()
            .filter(|number| *number <= length)
            .ok_or_else(|| format!("index out of range: {number}"))?;
    }
    let [start, end, cap] = edges;
    if start > end || end > cap {
        return Err(format!("invalid slice index: {start} > {end}"));
    }
    match value {
        Value::String(text) => Ok(Value::from(
            text.get(start..end)
                .map_or_else(|| String::from_utf8_lossy(&text.as_bytes()[start..end]).into_owned(), str::to_owned),
        )),
        Value::List(items) => Ok(Value::List(items[start..end].into())),
        _ => Ok(Value::NilList),
    }
}

fn equal_any(arguments: &[Value]) -> Outcome {
    let (first, others) = (&arguments[0], &arguments[1..]);
    if others.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in others {
        if equal(first, other)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}

fn equal(left: &Value, right: &Value) -> Result<bool, String> {
    match (left, right) {
        (Value::Bool(left), Value::Bool(right)) => Ok(left == right),
        (Value::Int(left), Value::Int(right)) => Ok(left == right),
        (Value::Float(left), Value::Float(right)) => Ok(left == right),
        (Value::String(left), Value::String(right)) => Ok(left == right),
        (Value::Missing | Value::Nil, Value::Missing | Value::Nil) => Ok(true),
        (Value::Missing | Value::Nil, _) | (_, Value::Missing | Value::Nil) => Ok(false),
        (Value::List(_) | Value::NilList, _) | (_, Value::List(_) | Value::NilList) => {
            Err(format!("non-comparable type {}: {}", plain(left), left.type_name()))
        }
        (Value::Object(_) | Value::NilMap, _) | (_, Value::Object(_) | Value::NilMap) => {
            Err(format!("non-comparable type {}: {}", plain(left), left.type_name()))
        }
        _ => Err(incompatible(left, right)),
    }
}

fn incompatible(left: &Value, right: &Value) -> String {
    format!("incompatible types for comparison: {} and {}", left.type_name(), right.type_name())
}

fn compare(left: &Value, right: &Value) -> Result<Ordering, String> {
    match (left, right) {
        (Value::Int(left), Value::Int(right)) => Ok(left.cmp(right)),
        (Value::Float(left), Value::Float(right)) => Ok(left.partial_cmp(right).unwrap_or(Ordering::Less)),
        (Value::String(left), Value::String(right)) => Ok(left.cmp(right)),
        (Value::Int(_) | Value::Float(_) | Value::String(_), Value::Int(_) | Value::Float(_) | Value::String(_)) => {
            Err(incompatible(left, right))
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\0' => out.push('\u{fffd}'),
            '"' => out.push_str("&#34;"),
            '\'' => out.push_str("&#39;"),
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            c => out.push(c),
        }
    }
    out
}

fn escape_js(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            '"' => out.push_str("\\\""),
            '<' | '>' | '&' | '=' => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c if u32::from(c) < 0x20 => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out
}

fn escape_query(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => out.push(char::from(byte)),
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
