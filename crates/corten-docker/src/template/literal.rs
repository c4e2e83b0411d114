//! Go's literals: numbers, characters, strings.

use super::value::Value;

/// The value of a number as Go writes it.
pub(super) fn number(text: &str) -> Result<Value, String> {
    let bad = || format!("bad number syntax: {}", super::format::quote(text));
    if let Some(integer) = integer(text) {
        return Ok(Value::Int(integer));
    }
    if let Some(float) = hexadecimal_float(text) {
        return Ok(Value::Float(float));
    }
    if text.contains(['x', 'X', 'i']) || misplaced_underscore(text) {
        return Err(bad());
    }
    let float: f64 = text.replace('_', "").parse().map_err(|_| bad())?;
    // Go takes a float that is whole for an integer where one is wanted.
    if float.is_finite() { Ok(Value::Float(float)) } else { Err(bad()) }
}

/// `0x1.8p3`
fn hexadecimal_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X"))?.split_once(['p', 'P'])?;
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let mut value = 0.0;
    for (index, digit) in whole.chars().chain(fraction.chars()).enumerate() {
        let place = i32::try_from(whole.len()).ok()? - 1 - i32::try_from(index).ok()?;
        value += f64::from(digit.to_digit(16)?) * 16f64.powi(place);
    }
    Some(value * 2f64.powi(exponent.parse().ok()?))
}

fn misplaced_underscore(text: &str) -> bool {
    let digits = text.trim_start_matches(['+', '-']);
    digits.starts_with('_') || digits.ends_with('_') || digits.contains("__")
}

fn integer(text: &str) -> Option<i128> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    let lower = digits.to_ascii_lowercase();
    let (radix, body) = match lower.get(..2) {
        Some("0x") => (16, &lower[2..]),
        Some("0o") => (8, &lower[2..]),
        Some("0b") => (2, &lower[2..]),
        _ if lower.len() > 1 && lower.starts_with('0') => (8, &lower[1..]),
        _ => (10, lower.as_str()),
    };
    if misplaced_underscore(digits) || body.starts_with(['+', '-']) {
        return None;
    }
    // What int64 cannot hold is left for the execution to refuse, as in Go.
    let magnitude = i128::from(u64::from_str_radix(&body.replace('_', ""), radix).ok()?);
    let value = if negative { -magnitude } else { magnitude };
    (value >= i128::from(i64::MIN)).then_some(value)
}

/// The code point of `'c'`.
pub(super) fn character(text: &str) -> Result<Value, String> {
    let bad = || format!("malformed character constant: {text}");
    let inner = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')).ok_or_else(bad)?;
    let decoded = unescape(inner, '\'').ok_or_else(bad)?;
    let mut characters = decoded.chars();
    match (characters.next(), characters.next()) {
        (Some(only), None) => Ok(Value::Int(u32::from(only).into())),
        _ => Err(bad()),
    }
}

/// The text of `"…"` or of a raw string.
pub(super) fn string(text: &str) -> Result<String, String> {
    if let Some(raw) = text.strip_prefix('`').and_then(|rest| rest.strip_suffix('`')) {
        return Ok(raw.replace('\r', ""));
    }
    let inner = text.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
    inner.and_then(|inner| unescape(inner, '"')).ok_or_else(|| "invalid syntax".to_owned())
}

fn unescape(text: &str, quote: char) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let simple = match rest.next()? {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            escaped if escaped == quote => u8::try_from(escaped).ok()?,
            'x' => u8::try_from(digits(&mut rest, 2, 16)?).ok()?,
            'u' => {
                bytes.extend(char::from_u32(digits(&mut rest, 4, 16)?)?.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            'U' => {
                bytes.extend(char::from_u32(digits(&mut rest, 8, 16)?)?.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            first @ '0'..='7' => u8::try_from(first.to_digit(8)? * 64 + digits(&mut rest, 2, 8)?).ok()?,
            _ => return None,
        };
        bytes.push(simple);
    }
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

fn digits(rest: &mut std::str::Chars<'_>, count: usize, radix: u32) -> Option<u32> {
    let mut value = 0u32;
    for _ in 0..count {
        value = value.checked_mul(radix)?.checked_add(rest.next()?.to_digit(radix)?)?;
    }
    Some(value)
}
