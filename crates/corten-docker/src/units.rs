//! Sizes and times as docker shows them.

use jiff::Timestamp;

use crate::template::format::float_general;

const SIZES: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY_SIZES: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// Decimal units, `digits` significant digits: `1.98MB`.
pub fn human_size(bytes: u64, digits: usize) -> String {
    scaled(bytes, 1000.0, digits, &SIZES)
}

/// Binary units, four significant digits: `23.54GiB`.
pub fn human_size_binary(bytes: u64) -> String {
    scaled(bytes, 1024.0, 4, &BINARY_SIZES)
}

fn scaled(bytes: u64, base: f64, digits: usize, units: &[&str]) -> String {
    #[expect(clippy::cast_precision_loss, reason = "a size for people has few digits")]
    let mut size = bytes as f64;
    let mut unit = 0;
    while size >= base && unit + 1 < units.len() {
        size /= base;
        unit += 1;
    }
    format!("{}{}", float_general(size, Some(digits)), units[unit])
}

/// A length of time in the largest unit that fits: `About an hour`, `3 weeks`.
pub fn human_duration(seconds: i64) -> String {
    let minutes = seconds / 60;
    let hours = (seconds + 1800) / 3600;
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if hours < 24 * 7 * 2 => format!("{} days", hours / 24),
        () if hours < 24 * 30 * 2 => format!("{} weeks", hours / 24 / 7),
        () if hours < 24 * 365 * 2 => format!("{} months", hours / 24 / 30),
        () => format!("{} years", seconds / 3600 / 24 / 365),
    }
}

/// The moment that an RFC 3339 text names; `None` for none and for docker's zero time.
pub fn moment(text: &str) -> Option<Timestamp> {
    text.parse::<Timestamp>().ok().filter(|moment| moment.as_second() > -62_135_596_800)
}

/// How long ago `moment` was: `3 minutes`.
pub fn since(moment: Timestamp, now: Timestamp) -> String {
    human_duration(now.as_second() - moment.as_second())
}

/// Go's `time.String()` of whole seconds, in UTC.
pub fn go_time(moment: Timestamp) -> String {
    moment.strftime("%Y-%m-%d %H:%M:%S +0000 UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_the_digits_that_docker_shows() {
        for (bytes, short, long) in [
            (0, "0B", "0B"),
            (999, "999B", "999B"),
            (1000, "1kB", "1kB"),
            (1_982_354, "1.98MB", "1.982MB"),
            (609_500_000, "610MB", "609.5MB"),
            (999_999, "1e+03kB", "1000kB"),
            (4_170_000, "4.17MB", "4.17MB"),
        ] {
            assert_eq!((human_size(bytes, 3).as_str(), human_size(bytes, 4).as_str()), (short, long), "{bytes}");
        }
        assert_eq!(human_size_binary(25_276_510_208), "23.54GiB");
    }

    #[test]
    fn durations_read_as_docker_says_them() {
        for (seconds, text) in [
            (0, "Less than a second"),
            (1, "1 second"),
            (59, "59 seconds"),
            (60, "About a minute"),
            (119, "About a minute"),
            (120, "2 minutes"),
            (3599, "59 minutes"),
            (3600, "About an hour"),
            (5399, "About an hour"),
            (5400, "2 hours"),
            (48 * 3600 - 1801, "47 hours"),
            (48 * 3600, "2 days"),
            (14 * 86400, "2 weeks"),
            (60 * 86400, "2 months"),
            (2 * 365 * 86400, "2 years"),
        ] {
            assert_eq!(human_duration(seconds), text, "{seconds}");
        }
    }

    #[test]
    fn docker_s_zero_time_is_no_moment() {
        assert_eq!(moment("0001-01-01T00:00:00Z"), None);
        assert_eq!(moment(""), None);
        assert_eq!(
            moment("2026-11-21T10:46:32.491596868Z").map(go_time).as_deref(),
            Some("2026-11-21 10:46:32 +0000 UTC")
        );
    }
}
