//! Go's fmt: `%v` of a value, quoting, and printf.

use std::fmt::Write as _;

use super::value::{ObjectKind, Value};

/// Widths and precisions above this are refused, as in Go.
const WIDTH_MAX: i128 = 1_000_000;

/// A Go string literal (strconv.Quote).
pub fn quote(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    for c in text.chars() {
        escape(&mut quoted, c, '"');
    }
    quoted.push('"');
    quoted
}

fn escape(out: &mut String, c: char, delimiter: char) {
    match c {
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        '\\' => out.push_str("\\\\"),
        _ if c == delimiter => {
            out.push('\\');
            out.push(c);
        }
        c if u32::from(c) < 0x20 || c == '\u{7f}' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if c.is_control() || ('\u{2028}'..='\u{202e}').contains(&c) || c == '\u{feff}' => {
            out.push_str(&format!("\\u{:04x}", u32::from(c)));
        }
        c => out.push(c),
    }
}

/// What an action prints: a missing value has words of its own.
pub(super) fn printed(value: &Value) -> String {
    match value {
        Value::Missing => "<no value>".to_owned(),
        other => plain(other),
    }
}

/// `%v`.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Missing | Value::Nil => "<nil>".to_owned(),
        Value::NilList => "[]".to_owned(),
        Value::NilMap => "map[]".to_owned(),
        Value::Bool(flag) => flag.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Float(number) => float_general(*number, None),
        Value::String(text) => text.to_string(),
        Value::List(items) => format!("[{}]", items.iter().map(plain).collect::<Vec<_>>().join(" ")),
        Value::Object(object) => match object.kind {
            ObjectKind::Map => {
                let fields = object.sorted().into_iter().map(|(name, value)| format!("{name}:{}", plain(value)));
                format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
            }
            _ => {
                let fields = object.fields.iter().map(|(_, value)| plain(value));
                format!("{{{}}}", fields.collect::<Vec<_>>().join(" "))
            }
        },
        Value::Method(_) => "func".to_owned(),
    }
}

/// `print`: a space between two operands when neither is a string.
pub(super) fn print(values: &[Value]) -> String {
    let mut out = String::new();
    for (index, value) in values.iter().enumerate() {
        let strings = |value: &Value| matches!(value, Value::String(_));
        if index > 0 && !strings(value) && !strings(&values[index - 1]) {
            out.push(' ');
        }
        out.push_str(&plain(value));
    }
    out
}

/// `%g`: the shortest form, or `precision` significant digits.
pub(crate) fn float_general(number: f64, precision: Option<usize>) -> String {
    if !number.is_finite() {
        return non_finite(number);
    }
    let scientific = match precision {
        Some(digits) => format!("{number:.*e}", digits.max(1) - 1),
        None => format!("{number:e}"),
    };
    let exponent: i32 = scientific.split_once('e').and_then(|(_, exponent)| exponent.parse().ok()).unwrap_or(0);
    let limit = precision.map_or(6, |digits| i32::try_from(digits.max(1)).unwrap_or(i32::MAX));
    if exponent < -4 || exponent >= limit {
        let (mantissa, _) = scientific.split_once('e').unwrap_or((&scientific, ""));
        return with_exponent(trim_zeros(mantissa, precision.is_some()), exponent);
    }
    match precision {
        Some(digits) => {
            let places = usize::try_from(i32::try_from(digits.max(1)).unwrap_or(i32::MAX) - 1 - exponent).unwrap_or(0);
            trim_zeros(&format!("{number:.places$}"), true).to_owned()
        }
        None => format!("{number}"),
    }
}

fn non_finite(number: f64) -> String {
    if number.is_nan() {
        "NaN"
    } else if number > 0.0 {
        "+Inf"
    } else {
        "-Inf"
    }
    .to_owned()
}

fn trim_zeros(text: &str, trims: bool) -> &str {
    if trims && text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

fn with_exponent(mantissa: &str, exponent: i32) -> String {
    format!("{mantissa}e{}{:02}", if exponent < 0 { '-' } else { '+' }, exponent.abs())
}

fn float_scientific(number: f64, precision: usize) -> String {
    let text = format!("{number:.precision$e}");
    match text.split_once('e') {
        Some((mantissa, exponent)) => with_exponent(mantissa, exponent.parse().unwrap_or(0)),
        None => non_finite(number),
    }
}

#[derive(Debug, Default)]
struct Directive {
    minus: bool,
    plus: bool,
    sharp: bool,
    space: bool,
    zero: bool,
    width: Option<usize>,
    precision: Option<usize>,
}

/// Go's Sprintf.
pub(super) fn printf(format: &str, values: &[Value]) -> String {
    let mut out = String::new();
    let mut arguments = values.iter();
    let mut reordered = false;
    let mut rest = format;
    while let Some(percent) = rest.find('%') {
        out.push_str(&rest[..percent]);
        rest = &rest[percent + 1..];
        let (directive, after) = directive(rest, &mut arguments, &mut out);
        rest = after;
        if let Some((number, after)) = argument_index(rest) {
            rest = after;
            reordered = true;
            arguments = values.get(number..).unwrap_or_default().iter();
        }
        let Some(verb) = rest.chars().next() else {
            out.push_str("%!(NOVERB)");
            break;
        };
        rest = &rest[verb.len_utf8()..];
        if verb == '%' {
            out.push('%');
            continue;
        }
        match arguments.next() {
            Some(value) => out.push_str(&directive.apply(verb, value)),
            None => out.push_str(&format!("%!{verb}(MISSING)")),
        }
    }
    out.push_str(rest);
    let extra: Vec<_> = arguments.map(with_type).collect();
    if !extra.is_empty() && !reordered {
        out.push_str(&format!("%!(EXTRA {})", extra.join(", ")));
    }
    out
}

/// `[2]` before a verb, counted from 1; the result counts from 0.
fn argument_index(rest: &str) -> Option<(usize, &str)> {
    let (number, after) = rest.strip_prefix('[')?.split_once(']')?;
    Some((number.parse::<usize>().ok()?.checked_sub(1)?, after))
}

fn with_type(value: &Value) -> String {
    match value {
        Value::Nil | Value::Missing => "<nil>".to_owned(),
        other => format!("{}={}", other.type_name(), plain(other)),
    }
}

fn directive<'a, 'v>(
    mut rest: &'a str,
    arguments: &mut impl Iterator<Item = &'v Value>,
    out: &mut String,
) -> (Directive, &'a str) {
    let mut directive = Directive::default();
    while let Some(flag) = rest.chars().next() {
        match flag {
            '-' => directive.minus = true,
            '+' => directive.plus = true,
            '#' => directive.sharp = true,
            ' ' => directive.space = true,
            '0' => directive.zero = true,
            _ => break,
        }
        rest = &rest[1..];
    }
    let (width, after) = size(rest, arguments);
    rest = after;
    match width {
        Size::Given(width) => {
            directive.minus |= width < 0;
            directive.width = usize::try_from(width.abs()).ok();
        }
        Size::Bad => out.push_str("%!(BADWIDTH)"),
        Size::Absent => {}
    }
    if let Some(after) = rest.strip_prefix('.') {
        let (precision, after) = size(after, arguments);
        rest = after;
        match precision {
            Size::Given(precision) if precision >= 0 => directive.precision = usize::try_from(precision).ok(),
            Size::Absent => directive.precision = Some(0),
            _ => out.push_str("%!(BADPREC)"),
        }
    }
    (directive, rest)
}

enum Size {
    Given(i128),
    Absent,
    Bad,
}

fn size<'a, 'v>(rest: &'a str, arguments: &mut impl Iterator<Item = &'v Value>) -> (Size, &'a str) {
    let (number, rest) = if let Some(after) = rest.strip_prefix('*') {
        match arguments.next() {
            Some(Value::Int(number)) => (*number, after),
            _ => return (Size::Bad, after),
        }
    } else {
        let length = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        if length == 0 {
            return (Size::Absent, rest);
        }
        (rest[..length].parse().unwrap_or(i128::MAX), &rest[length..])
    };
    if number.unsigned_abs() > WIDTH_MAX.unsigned_abs() { (Size::Bad, rest) } else { (Size::Given(number), rest) }
}

impl Directive {
    fn apply(&self, verb: char, value: &Value) -> String {
        match value {
            Value::List(items) if !matches!(verb, 'v' | 'T' | 'p') => {
                format!("[{}]", items.iter().map(|item| self.apply(verb, item)).collect::<Vec<_>>().join(" "))
            }
            Value::Object(object) if object.kind == ObjectKind::Map && !matches!(verb, 'v' | 'T' | 'p') => {
                let fields = object.sorted().into_iter();
                let fields = fields.map(|(name, value)| {
                    format!("{}:{}", self.apply(verb, &Value::from(name.as_str())), self.apply(verb, value))
                });
                format!("map[{}]", fields.collect::<Vec<_>>().join(" "))
            }
            _ => self.scalar(verb, value).unwrap_or_else(|| format!("%!{verb}({})", with_type(value))),
        }
    }

    fn scalar(&self, verb: char, value: &Value) -> Option<String> {
        let text = match (verb, value) {
            ('T', value) => value.type_name().to_owned(),
            ('v', Value::String(text)) if self.sharp => quote(text),
            // `%+v` means field names, not signs.
            ('v', Value::Int(_)) if self.plus => plain(value),
            ('v', Value::Int(number)) => return Some(self.integer(*number, 10, false)),
            ('v', Value::Float(number)) => return Some(self.number(float_general(*number, self.precision))),
            ('v', value) => plain(value),
            ('t', Value::Bool(flag)) => flag.to_string(),
            ('d', Value::Int(number)) => return Some(self.integer(*number, 10, false)),
            ('b', Value::Int(number)) => return Some(self.integer(*number, 2, false)),
            ('o', Value::Int(number)) => return Some(self.integer(*number, 8, false)),
            ('O', Value::Int(number)) => return Some(format!("0o{}", self.integer(*number, 8, false))),
            ('x', Value::Int(number)) => return Some(self.integer(*number, 16, false)),
            ('X', Value::Int(number)) => return Some(self.integer(*number, 16, true)),
            ('c', Value::Int(number)) => character(*number).to_string(),
            ('U', Value::Int(number)) => format!("U+{number:04X}"),
            ('q', Value::Int(number)) => {
                let mut quoted = "'".to_owned();
                escape(&mut quoted, character(*number), '\'');
                quoted + "'"
            }
            ('e', Value::Float(number)) => {
                return Some(self.number(float_scientific(*number, self.precision.unwrap_or(6))));
            }
            ('E', Value::Float(number)) => {
                return Some(self.number(float_scientific(*number, self.precision.unwrap_or(6)).to_uppercase()));
            }
            ('f' | 'F', Value::Float(number)) => {
                return Some(self.number(format!("{number:.*}", self.precision.unwrap_or(6))));
            }
            ('g', Value::Float(number)) => return Some(self.number(float_general(*number, self.precision))),
            ('G', Value::Float(number)) => {
                return Some(self.number(float_general(*number, self.precision).to_uppercase()));
            }
            ('s', Value::String(text)) => self.cut(text),
            ('q', Value::String(text)) if self.sharp && !text.contains(['`', '\n']) => format!("`{}`", self.cut(text)),
            ('q', Value::String(text)) => quote(&self.cut(text)),
            ('x', Value::String(text)) => hex(text, false),
            ('X', Value::String(text)) => hex(text, true),
            ('s', Value::NilList) => "[]".to_owned(),
            ('s', Value::NilMap) => "map[]".to_owned(),
            _ => return None,
        };
        Some(self.pad(text, self.zero && matches!(verb, 's' | 'v' | 'q')))
    }

    fn cut(&self, text: &str) -> String {
        self.precision.map_or_else(|| text.to_owned(), |count| text.chars().take(count).collect())
    }

    fn integer(&self, number: i128, radix: u32, upper: bool) -> String {
        let magnitude = number.unsigned_abs();
        let mut digits = match (radix, upper) {
            (2, _) => format!("{magnitude:b}"),
            (8, _) => format!("{magnitude:o}"),
            (16, false) => format!("{magnitude:x}"),
            (16, true) => format!("{magnitude:X}"),
            _ => magnitude.to_string(),
        };
        if let Some(precision) = self.precision.filter(|precision| *precision > digits.len()) {
            digits.insert_str(0, &"0".repeat(precision - digits.len()));
        }
        if self.sharp {
            digits.insert_str(
                0,
                match (radix, upper) {
                    (2, _) => "0b",
                    (8, _) => "0",
                    (16, false) => "0x",
                    (16, true) => "0X",
                    _ => "",
                },
            );
        }
        self.number(if number < 0 { format!("-{digits}") } else { digits })
    }

    /// A number with its sign and padding: zeros go between sign and digits.
    fn number(&self, text: String) -> String {
        let (sign, digits) = match text.strip_prefix('-') {
            Some(digits) => ("-", digits.to_owned()),
            None if self.plus => ("+", text.trim_start_matches('+').to_owned()),
            None if self.space => (" ", text),
            None => ("", text),
        };
        let length = sign.len() + digits.len();
        match self.width {
            Some(width) if self.zero && !self.minus && self.precision.is_none_or(|_| digits.contains('.')) => {
                format!("{sign}{}{digits}", "0".repeat(width.saturating_sub(length)))
            }
            _ => self.pad(format!("{sign}{digits}"), false),
        }
    }

    fn pad(&self, text: String, zeros: bool) -> String {
        let missing = self.width.unwrap_or(0).saturating_sub(text.chars().count());
        if missing == 0 {
            text
        } else if self.minus {
            text + &" ".repeat(missing)
        } else {
            (if zeros { "0" } else { " " }).repeat(missing) + &text
        }
    }
}

fn character(number: i128) -> char {
    u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}')
}

fn hex(text: &str, upper: bool) -> String {
    let mut out = String::with_capacity(text.len() * 2);
    for byte in text.bytes() {
        let written = if upper { write!(out, "{byte:02X}") } else { write!(out, "{byte:02x}") };
        debug_assert!(written.is_ok(), "a String takes every write");
    }
    out
}
