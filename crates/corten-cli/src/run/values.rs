//! Values of `run`'s flags in docker's notations. An `Err` is the reason alone, in docker's words.

use std::path::PathBuf;

use corten_engine::{Access, DeviceRequest, DeviceRule, Ulimit};
use corten_types::kernel::{ULIMITS, sysctl_namespace};
use corten_types::runtime_spec::NamespaceKind;

/// Bytes with a binary unit: `512m`, `1.5g`, `64KiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let bad_size = || format!("invalid size: '{text}'");
    let end = text.rfind(|c: char| c.is_ascii_digit() || c == '.' || c == ' ').ok_or_else(bad_size)?;
    let (number, suffix) = (text[..=end].strip_suffix(' ').unwrap_or(&text[..=end]), &text[end + 1..]);
    let size: f64 = number.parse().map_err(|_| bad_size())?;
    if !size.is_finite() || size < 0.0 {
        return Err(bad_size());
    }
    let bad_suffix = || format!("invalid suffix: '{}'", suffix.to_lowercase());
    let lower = suffix.to_lowercase();
    let power = match lower.strip_suffix("ib").or_else(|| lower.strip_suffix('b')).unwrap_or(&lower) {
        "" if lower.len() > 1 => return Err(bad_suffix()),
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad_suffix()),
    };
    let size = size * 1024f64.powi(power);
    if size >= 9_223_372_036_854_775_808.0 {
        return Err(bad_size());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked: within 0 and 2^63")]
    Ok(size as u64)
}

/// As [`bytes`], where -1 is no limit.
pub(crate) fn bytes_or_unlimited(text: &str) -> Result<i64, String> {
    if text == "-1" {
        return Ok(-1);
    }
    bytes(text).and_then(|size| i64::try_from(size).map_err(|_| format!("invalid size: '{text}'")))
}

/// Billionths of a CPU: `1.5`, `1/2`.
pub(crate) fn nano_cpus(text: &str) -> Result<u64, String> {
    let bad = || format!("failed to parse {text} as a rational number");
    let precise = || "value is too precise".to_owned();
    let (numerator, denominator) = match text.split_once('/') {
        Some((numerator, denominator)) => {
            (decimal(numerator).ok_or_else(bad)?, denominator.parse::<u128>().ok().filter(|n| *n > 0).ok_or_else(bad)?)
        }
        None => (decimal(text).ok_or_else(bad)?, 1),
    };
    let (mantissa, scale) = numerator;
    // `scale` counts decimal places of the mantissa.
    let value = mantissa.checked_mul(1_000_000_000).ok_or_else(bad)?;
    let divisor = 10u128.checked_pow(scale).and_then(|places| places.checked_mul(denominator)).ok_or_else(bad)?;
    if value % divisor != 0 {
        return Err(precise());
    }
    u64::try_from(value / divisor).map_err(|_| bad())
}

/// `1.25` as 125 and 2 places.
fn decimal(text: &str) -> Option<(u128, u32)> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((digits.parse().ok()?, u32::try_from(fraction.len()).ok().filter(|places| *places < 30)?))
}

/// A whole number as Go's strconv reads it.
pub(crate) fn integer(text: &str) -> Result<i64, String> {
    let quoted = corten_docker::quote(text);
    text.parse().map_err(|error: std::num::ParseIntError| match error.kind() {
        std::num::IntErrorKind::PosOverflow | std::num::IntErrorKind::NegOverflow => {
            format!("strconv.ParseInt: parsing {quoted}: value out of range")
        }
        _ => format!("strconv.ParseInt: parsing {quoted}: invalid syntax"),
    })
}

/// `nofile=1024:2048`; one number is both limits, -1 is none.
pub(crate) fn ulimit(text: &str) -> Result<Ulimit, String> {
    let bad = || format!("invalid ulimit argument: {text}");
    let (name, limits) = text.split_once('=').ok_or_else(bad)?;
    if !ULIMITS.contains(&name) {
        return Err(format!("invalid ulimit type: {name}"));
    }
    let (soft, hard) = match limits.split_once(':') {
        Some((_, hard)) if hard.contains(':') => {
            return Err(format!("too many limit value arguments - {limits}, can only have up to two, `soft[:hard]`"));
        }
        Some((soft, hard)) => (integer(soft)?, integer(hard)?),
        None => (integer(limits)?, integer(limits)?),
    };
    if soft < -1 || hard < -1 {
        return Err(bad());
    }
    if hard != -1 && (soft == -1 || soft > hard) {
        let soft = if soft == -1 { "unlimited (-1)".to_owned() } else { soft.to_string() };
        return Err(format!("ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}"));
    }
    Ok(Ulimit { name: name.to_owned(), soft, hard })
}

/// `/dev/fuse`, `/dev/sda:/dev/xvda:r`, `/dev/fuse:rw`.
pub(crate) fn device(text: &str) -> Result<DeviceRequest, String> {
    let parts: Vec<&str> = text.split(':').collect();
    let mode = |word: &str| Access::parse(word).ok();
    let (inside, access) = match parts.as_slice() {
        [host] => (*host, Access::ALL),
        [host, word] => match mode(word) {
            Some(access) => (*host, access),
            None => (*word, Access::ALL),
        },
        [_, inside, word] => (*inside, mode(word).ok_or_else(|| format!("bad mode specified: {word}"))?),
        _ => return Err(format!("bad format for path: {text}")),
    };
    if !parts[0].starts_with('/') || !inside.starts_with('/') {
        let path = if inside.starts_with('/') { parts[0] } else { inside };
        return Err(format!("{path} is not an absolute path"));
    }
    Ok(DeviceRequest { host: PathBuf::from(parts[0]), container: inside.to_owned(), access })
}

/// `c 42:* rmw`: type, numbers and what is allowed.
pub(crate) fn device_rule(text: &str) -> Result<DeviceRule, String> {
    let bad = || format!("invalid device cgroup format '{text}'");
    let number = |word: &str| match word {
        "*" => Ok(None),
        _ if word.bytes().all(|byte| byte.is_ascii_digit()) => word.parse().map(Some).map_err(|_| bad()),
        _ => Err(bad()),
    };
    let [kind @ ("a" | "b" | "c"), numbers, access] = text.split(' ').collect::<Vec<_>>()[..] else {
        return Err(bad());
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(bad)?;
    let access = Access::parse(access).map_err(|_| bad())?.letters();
    Ok(DeviceRule { allow: true, kind: kind.to_owned(), major: number(major)?, minor: number(minor)?, access })
}

/// `net.ipv4.ip_forward=1`: only what a namespace has of its own.
pub(crate) fn sysctl(text: &str) -> Result<(String, String), String> {
    let refused = || format!("sysctl '{text}' is not allowed");
    let (name, value) = text.split_once('=').ok_or_else(refused)?;
    if matches!(sysctl_namespace(name), Some(NamespaceKind::Ipc | NamespaceKind::Network)) {
        return Ok((name.to_owned(), value.to_owned()));
    }
    Err(refused())
}

/// A label: a name without white space, and perhaps a value.
pub(crate) fn label(text: &str) -> Result<String, String> {
    let name = text.split('=').next().unwrap_or_default().trim_start_matches([' ', '\t']);
    if name.is_empty() {
        return Err(format!("invalid label '{text}': empty name"));
    }
    if name.contains([' ', '\t']) {
        return Err(format!("label '{text}' contains whitespaces"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_docker_s_units() {
        for (text, expected) in [
            ("512m", Ok(512 << 20)),
            ("1g", Ok(1 << 30)),
            ("1.5k", Ok(1536)),
            ("100", Ok(100)),
            ("100b", Ok(100)),
            ("64KiB", Ok(65536)),
            ("64 mb", Ok(64 << 20)),
            ("2T", Ok(2 << 40)),
            ("5x", Err("invalid suffix: 'x'")),
            ("5bb", Err("invalid suffix: 'bb'")),
            ("5ib", Err("invalid suffix: 'ib'")),
            ("m", Err("invalid size: 'm'")),
            ("", Err("invalid size: ''")),
            ("-5m", Err("invalid size: '-5m'")),
            ("9999999999t", Err("invalid size: '9999999999t'")),
        ] {
            assert_eq!(bytes(text), expected.map_err(str::to_owned), "{text}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(-1));
    }

    #[test]
    fn cpus_are_rational_numbers() {
        for (text, expected) in [
            ("1.5", Ok(1_500_000_000)),
            ("2", Ok(2_000_000_000)),
            (".5", Ok(500_000_000)),
            ("1/2", Ok(500_000_000)),
            ("0.0000000001", Err("value is too precise")),
            ("1/3", Err("value is too precise")),
            ("abc", Err("failed to parse abc as a rational number")),
            ("-1", Err("failed to parse -1 as a rational number")),
            ("", Err("failed to parse  as a rational number")),
        ] {
            assert_eq!(nano_cpus(text), expected.map_err(str::to_owned), "{text}");
        }
    }

    #[test]
    fn ulimits_name_their_mistake() {
        let limit = |soft, hard| Ok(Ulimit { name: "nofile".to_owned(), soft, hard });
        for (text, expected) in [
            ("nofile=1024:2048", limit(1024, 2048)),
            ("nofile=5", limit(5, 5)),
            ("nofile=-1", limit(-1, -1)),
            ("nofile=5:-1", limit(5, -1)),
            ("foo", Err("invalid ulimit argument: foo".to_owned())),
            ("nope=5", Err("invalid ulimit type: nope".to_owned())),
            ("nofile=5:2", Err("ulimit soft limit must be less than or equal to hard limit: 5 > 2".to_owned())),
            ("nofile=x", Err("strconv.ParseInt: parsing \"x\": invalid syntax".to_owned())),
        ] {
            assert_eq!(ulimit(text), expected, "{text}");
        }
    }

    #[test]
    fn devices_have_two_optional_parts() {
        let device = |text: &str| device(text).map(|device| (device.container, device.access.letters()));
        let ok = |inside: &str, letters: &str| Ok((inside.to_owned(), letters.to_owned()));
        assert_eq!(device("/dev/fuse"), ok("/dev/fuse", "rwm"));
        assert_eq!(device("/dev/fuse:rw"), ok("/dev/fuse", "rw"));
        assert_eq!(device("/dev/sda:/dev/xvda:r"), ok("/dev/xvda", "r"));
        assert_eq!(device("/dev/sda:/dev/xvda"), ok("/dev/xvda", "rwm"));
        assert_eq!(device("a:b:c"), Err("bad mode specified: c".to_owned()));
        assert_eq!(device("/a:/b:rr"), Err("bad mode specified: rr".to_owned()));
        assert_eq!(device("a"), Err("a is not an absolute path".to_owned()));
        assert_eq!(device("/a:/b:r:x"), Err("bad format for path: /a:/b:r:x".to_owned()));
    }

    #[test]
    fn rules_for_devices_have_numbers_or_stars() {
        let rule = device_rule("c 42:* rmw").unwrap();
        assert_eq!((rule.kind.as_str(), rule.major, rule.minor, rule.access.as_str()), ("c", Some(42), None, "rwm"));
        for wrong in ["c 42 rwm", "x 1:2 r", "c 1:2", "c 1:2 rr", "c -1:2 r", "c 1:2 rwm x"] {
            assert_eq!(device_rule(wrong), Err(format!("invalid device cgroup format '{wrong}'")));
        }
    }

    #[test]
    fn only_namespaced_parameters_are_set() {
        assert!(sysctl("net.ipv4.ip_forward=1").is_ok());
        assert!(sysctl("kernel.msgmax=1").is_ok());
        assert_eq!(sysctl("kernel.panic=1"), Err("sysctl 'kernel.panic=1' is not allowed".to_owned()));
        assert_eq!(sysctl("foo"), Err("sysctl 'foo' is not allowed".to_owned()));
    }
}
