//! Times in docker's notations: lengths as Go writes them, moments as `--since` takes them.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// A length of time as Go reads it: `1h30m`, `1.5s`, `500ms`; milliseconds.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let invalid = || format!("time: invalid duration {}", corten_docker::quote(text));
    if text == "0" {
        return Ok(0);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    if rest.is_empty() || rest.starts_with('-') {
        return Err(invalid());
    }
    let mut milliseconds = 0f64;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| invalid())?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let factor = match &rest[..letters] {
            "ns" => 1e-6,
            "us" | "µs" | "μs" => 1e-3,
            "ms" => 1.0,
            "s" => 1e3,
            "m" => 6e4,
            "h" => 3.6e6,
            "" => return Err(format!("time: missing unit in duration {}", corten_docker::quote(text))),
            unit => {
                let (unit, text) = (corten_docker::quote(unit), corten_docker::quote(text));
                return Err(format!("time: unknown unit {unit} in duration {text}"));
            }
        };
        milliseconds += number * factor;
        rest = &rest[letters..];
    }
    if milliseconds > 9e15 {
        return Err(invalid());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: within 0 and 9e15")]
    Ok(milliseconds as u64)
}

/// A moment: RFC 3339, a local date or time, seconds since 1970, or a length of time before `now`.
pub(crate) fn when(text: &str, now: Timestamp) -> Result<(i64, u32), String> {
    let pair = |moment: Timestamp| (moment.as_second(), u32::try_from(moment.subsec_nanosecond()).unwrap_or(0));
    if let Ok(back) = duration_ms(text)
        && text != "0"
    {
        let back = i64::try_from(back).map_err(|_| "the duration is too long".to_owned())?;
        let moment = Timestamp::from_millisecond(now.as_millisecond() - back).map_err(|error| error.to_string())?;
        return Ok(pair(moment));
    }
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if let Ok(seconds) = whole.parse::<i64>()
        && fraction.len() <= 9
        && fraction.bytes().all(|byte| byte.is_ascii_digit())
    {
        let nanoseconds = format!("{fraction:0<9}").parse().unwrap_or(0);
        return Ok((seconds, nanoseconds));
    }
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(pair(moment));
    }
    let filled = match text.len() {
        16 => format!("{text}:00"),
        13 => format!("{text}:00:00"),
        10 => format!("{text}T00:00:00"),
        _ => text.to_owned(),
    };
    let local: DateTime = filled.parse().map_err(|_| format!("failed to parse value as time or duration: {text}"))?;
    let moment = TimeZone::system().to_timestamp(local).map_err(|error| error.to_string())?;
    Ok(pair(moment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_are_read_as_go_reads_them() {
        for (text, expected) in [("0", 0), ("1h30m", 5_400_000), ("1.5s", 1500), ("500ms", 500), ("2m0.5s", 120_500)] {
            assert_eq!(duration_ms(text), Ok(expected), "{text}");
        }
        assert_eq!(duration_ms("5").unwrap_err(), "time: missing unit in duration \"5\"");
        assert_eq!(duration_ms("5x").unwrap_err(), "time: unknown unit \"x\" in duration \"5x\"");
        for text in ["", "-1s", "s", "1..2s"] {
            assert!(duration_ms(text).is_err(), "{text}");
        }
    }

    #[test]
    fn moments_come_in_many_forms() {
        let now: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        assert_eq!(when("5s", now), Ok((1_767_323_040, 0)));
        assert_eq!(when("1767323040.25", now), Ok((1_767_323_040, 250_000_000)));
        assert_eq!(when("2026-01-02T03:04:05.5Z", now), Ok((1_767_323_045, 500_000_000)));
        assert!(when("2026-01-02", now).is_ok() && when("2026-01-02T03:04", now).is_ok());
        assert!(when("yesterday", now).is_err());
    }
}
