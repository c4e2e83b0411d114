//! `--log-driver` and `--log-opt`: docker's options of each driver, checked, and what they mean for one container.

use std::collections::BTreeMap;

use corten_types::shim::{LogDriver, LogOptions};
use corten_types::{Error, ErrorKind, Result};

use crate::container::ContainerConfig;

/// Docker's drivers that are not here.
const ELSEWHERE: [&str; 6] = ["awslogs", "etwlogs", "fluentd", "gcplogs", "gelf", "splunk"];
/// Options of every driver.
const COMMON: [&str; 7] = ["mode", "max-buffer-size", "labels", "env", "tag", "labels-regex", "env-regex"];
const FILES: [&str; 3] = ["max-size", "max-file", "compress"];
/// Docker's buffer in mode non-blocking, bytes.
const BUFFER_SIZE_BYTES: usize = 1024 * 1024;

/// Reads a driver's name and the words of `--log-opt`; `bytes` reads a size in docker's notation.
pub fn parse(driver: &str, words: &[String], bytes: impl Fn(&str) -> Result<u64, String>) -> Result<LogOptions> {
    let mut options = LogOptions { driver: driver_of(driver)?, ..LogOptions::default() };
    options.compresses = options.driver == LogDriver::Local;
    for word in words {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        options.options.insert(name.to_owned(), value.to_owned());
    }
    if options.driver == LogDriver::None && !options.options.is_empty() {
        return Err(Error::invalid("invalid logging opts for driver none"));
    }
    for (name, value) in &options.options {
        if !is_known(options.driver, name) {
            let driver = options.driver.as_str();
            return Err(Error::invalid(format!("unknown log opt '{name}' for {driver} log driver")));
        }
        if name.ends_with("-regex") {
            let message = format!("the log option `{name}` is not supported yet");
            return Err(Error::new(ErrorKind::Unsupported, message).hint("name them one by one: `labels=…`, `env=…`"));
        }
        let wrong = |why: String| Error::invalid(format!("invalid value '{value}' for log opt '{name}': {why}"));
        match name.as_str() {
            "max-size" => options.size_bytes_max = if value == "-1" { 0 } else { bytes(value).map_err(wrong)? },
            "max-file" => {
                let count = value.parse().ok().filter(|count| (1..=1000).contains(count));
                options.files_max = count.ok_or_else(|| wrong("a number from 1 to 1000 is wanted".to_owned()))?;
            }
            "compress" => {
                options.compresses = match value.as_str() {
                    "true" | "1" => true,
                    "false" | "0" => false,
                    _ => return Err(wrong("`true` or `false` is wanted".to_owned())),
                }
            }
            "mode" if !matches!(value.as_str(), "" | "blocking" | "non-blocking") => {
                return Err(Error::invalid(format!("logger: unknown logging mode {value}")));
            }
            "tag" => check_tag(value)?,
            _ => {}
        }
    }
    let is_set = |name: &str, value: &str| options.options.get(name).is_some_and(|found| found == value);
    match (is_set("mode", "non-blocking"), options.options.get("max-buffer-size")) {
        (true, Some(size)) => {
            let size =
                bytes(size).map_err(|why| Error::invalid(format!("error parsing option max-buffer-size: {why}")))?;
            options.buffer_size_bytes_max = usize::try_from(size).unwrap_or(usize::MAX).max(1);
        }
        (true, None) => options.buffer_size_bytes_max = BUFFER_SIZE_BYTES,
        (false, Some(_)) => {
            return Err(Error::invalid("logger: max-buffer-size option is only supported with 'mode=non-blocking'"));
        }
        (false, None) => {}
    }
    Ok(options)
}

fn driver_of(word: &str) -> Result<LogDriver> {
    if word.is_empty() {
        return Ok(LogDriver::default());
    }
    LogDriver::parse(word).ok_or_else(|| {
        let kind = if ELSEWHERE.contains(&word) { ErrorKind::Unsupported } else { ErrorKind::Invalid };
        Error::new(kind, format!("logger: no log driver named '{word}' is registered"))
            .hint("known are json-file, local, k8s-file, journald, syslog and none")
    })
}

fn is_known(driver: LogDriver, name: &str) -> bool {
    match driver {
        LogDriver::JsonFile => COMMON.contains(&name) || FILES.contains(&name),
        LogDriver::Local | LogDriver::K8sFile => FILES.contains(&name) || COMMON[..2].contains(&name),
        LogDriver::Journald => COMMON.contains(&name),
        LogDriver::Syslog => COMMON.contains(&name) || name == "syslog-address",
        LogDriver::None => false,
    }
}

const TAGS: [&str; 6] = ["{{.ID}}", "{{.FullID}}", "{{.Name}}", "{{.ImageName}}", "{{.ImageID}}", "{{.ImageFullID}}"];

fn check_tag(tag: &str) -> Result<()> {
    let rest = TAGS.iter().fold(tag.to_owned(), |text, known| text.replace(known, ""));
    match rest.contains("{{") {
        true => Err(Error::invalid(format!("the log tag `{tag}` is not understood"))
            .hint(format!("known are {}", TAGS.join(", ")))),
        false => Ok(()),
    }
}

/// The options with what the container itself decides: the tag, and what records say besides.
pub(crate) fn complete(config: &ContainerConfig) -> LogOptions {
    let mut log = config.log.clone();
    let wanted = |name: &str| log.options.get(name).cloned().unwrap_or_default();
    let mut attributes = BTreeMap::new();
    for label in wanted("labels").split(',') {
        attributes.extend(config.labels.get(label).map(|value| (label.to_owned(), value.clone())));
    }
    for name in wanted("env").split(',') {
        let value = config.env.iter().find_map(|entry| entry.split_once('=').filter(|(known, _)| *known == name));
        attributes.extend(value.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    let image_id = config.image_id.trim_start_matches("sha256:");
    let short = |id: &str| id.get(..12).unwrap_or(id).to_owned();
    let values = [
        short(&config.id),
        config.id.clone(),
        config.name.clone(),
        config.image.clone(),
        short(image_id),
        config.image_id.clone(),
    ];
    let tag = wanted("tag");
    log.tag = TAGS.iter().zip(&values).fold(tag.clone(), |text, (name, value)| text.replace(name, value));
    if !tag.is_empty() && log.driver == LogDriver::JsonFile {
        attributes.insert("tag".to_owned(), log.tag.clone());
    }
    log.attributes = attributes;
    log
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options(driver: &str, words: &[&str]) -> Result<LogOptions> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        parse(driver, &words, |text| text.parse::<u64>().map_err(|error| error.to_string()))
    }

    #[test]
    fn options_are_docker_s_and_bounded() {
        let log = options("", &["max-size=100", "max-file=3", "compress=true"]).unwrap();
        assert_eq!(
            (log.driver, log.size_bytes_max, log.files_max, log.compresses),
            (LogDriver::JsonFile, 100, 3, true)
        );
        let plain = options("json-file", &[]).unwrap();
        assert_eq!((plain.size_bytes_max, plain.files_max, plain.compresses), (20 * 1024 * 1024, 5, false));
        assert_eq!(options("none", &["tag=x"]).unwrap_err().message(), "invalid logging opts for driver none");
        for (driver, word) in [
            ("json-file", "max-files=3"),
            ("json-file", "max-file=0"),
            ("json-file", "max-size=x"),
            ("json-file", "mode=fast"),
            ("json-file", "max-buffer-size=1"),
            ("syslog", "max-size=1"),
            ("json-file", "tag={{.Daemon}}"),
            ("gelf", ""),
        ] {
            let words: &[&str] = if word.is_empty() { &[] } else { &[word] };
            assert!(options(driver, words).is_err(), "{driver} {word}");
        }
    }

    #[test]
    fn records_say_what_was_asked_of_the_container() {
        let mut config = ContainerConfig { id: "0123456789abcdef".into(), name: "web".into(), ..Default::default() };
        config.labels.insert("team".into(), "blue".into());
        config.env = vec!["A=1".into(), "B=2".into()];
        config.log = options("", &["labels=team,none", "env=B", "tag={{.Name}}/{{.ID}}"]).unwrap();
        let log = complete(&config);
        let attributes: Vec<_> = log.attributes.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(attributes, ["B=2", "tag=web/0123456789ab", "team=blue"]);
    }
}
