//! `--change`: instructions of a Dockerfile that alter an image's configuration.

use corten_types::image_spec::{ContainerConfig, Empty, Healthcheck};
use corten_types::{Error, Result};

/// Applies one instruction.
pub(super) fn apply(config: &mut ContainerConfig, change: &str) -> Result<()> {
    let change = change.trim();
    let (name, rest) = change.split_once(char::is_whitespace).unwrap_or((change, ""));
    let rest = rest.trim();
    instruction(config, &name.to_uppercase(), rest).map_err(|error| error.context(format!("cannot apply `{change}`")))
}

fn instruction(config: &mut ContainerConfig, name: &str, rest: &str) -> Result<()> {
    let required = || match rest {
        "" => Err(Error::invalid(format!("`{name}` needs a value"))),
        rest => Ok(rest.to_owned()),
    };
    match name {
        "CMD" => config.cmd = command(config, rest)?,
        "ENTRYPOINT" => {
            config.entrypoint = command(config, rest)?;
        }
        "ENV" => {
            for (name, value) in pairs(&required()?)? {
                let prefix = format!("{name}=");
                config.env.retain(|known| !known.starts_with(&prefix));
                config.env.push(format!("{prefix}{value}"));
            }
        }
        "LABEL" => config.labels.extend(pairs(&required()?)?),
        "EXPOSE" => {
            for port in words(&required()?)? {
                config.exposed_ports.insert(exposed(&port)?, Empty {});
            }
        }
        "USER" => config.user = required()?,
        "WORKDIR" => {
            let path = required()?;
            config.working_dir = match path.starts_with('/') {
                true => path,
                false => format!("{}/{path}", config.working_dir.trim_end_matches('/')),
            };
        }
        "VOLUME" => {
            let list = required()?;
            for path in json_words(&list).map_or_else(|| words(&list), Ok)? {
                config.volumes.insert(path, Empty {});
            }
        }
        "STOPSIGNAL" => config.stop_signal = Some(required()?),
        "ONBUILD" => config.on_build.push(required()?),
        "HEALTHCHECK" => config.healthcheck = Some(health(&required()?)?),
        _ => {
            return Err(Error::invalid(format!("`{name}` is no instruction that changes an image")).hint(
                "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, ONBUILD, STOPSIGNAL, USER, VOLUME and WORKDIR do",
            ));
        }
    }
    Ok(())
}

/// The exec form (a JSON list) or the shell form.
fn command(config: &ContainerConfig, rest: &str) -> Result<Option<Vec<String>>> {
    if let Some(list) = json_words(rest) {
        return Ok(Some(list));
    }
    if rest.is_empty() {
        return Ok(None);
    }
    let mut words = config.shell.clone().unwrap_or_else(|| vec!["/bin/sh".to_owned(), "-c".to_owned()]);
    words.push(rest.to_owned());
    Ok(Some(words))
}

fn json_words(text: &str) -> Option<Vec<String>> {
    if !text.starts_with('[') {
        return None;
    }
    serde_json::from_str(text).ok()
}

/// `NAME=VALUE …`, or the old form `NAME VALUE`.
fn pairs(text: &str) -> Result<Vec<(String, String)>> {
    let first = text.split_whitespace().next().unwrap_or_default();
    if !first.contains('=') {
        let (name, value) = text
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("`{text}` has no value")).hint("write it as `NAME=VALUE`"))?;
        return Ok(vec![(name.to_owned(), value.trim().to_owned())]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some(("", _)) | None => Err(Error::invalid(format!("`{word}` is not `NAME=VALUE`"))),
        Some((name, value)) => Ok((name.to_owned(), value.to_owned())),
    };
    words(text)?.into_iter().map(pair).collect()
}

/// Words as a Dockerfile separates them: quotes keep blanks together, a backslash takes a character as it is.
fn words(text: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    let (mut word, mut quote, mut is_word) = (String::new(), None, false);
    let mut rest = text.chars();
    while let Some(letter) = rest.next() {
        match (letter, quote) {
            ('\\', None | Some('"')) => word.push(rest.next().unwrap_or('\\')),
            ('"' | '\'', None) => (quote, is_word) = (Some(letter), true),
            (letter, Some(open)) if letter == open => quote = None,
            (letter, None) if letter.is_whitespace() => {
                if is_word || !word.is_empty() {
                    found.push(std::mem::take(&mut word));
                }
                is_word = false;
            }
            (letter, _) => word.push(letter),
        }
    }
    if quote.is_some() {
        return Err(Error::invalid(format!("a quote in `{text}` is not closed")));
    }
    if is_word || !word.is_empty() {
        found.push(word);
    }
    Ok(found)
}

fn exposed(port: &str) -> Result<String> {
    let (number, protocol) = port.split_once('/').unwrap_or((port, "tcp"));
    let fits = number.split('-').all(|part| part.parse::<u16>().is_ok()) && number.split('-').count() <= 2;
    if !fits || !matches!(protocol, "tcp" | "udp" | "sctp") {
        return Err(Error::invalid(format!("`{port}` is not a port")).hint("write it as `80`, `53/udp` or `8000-8010`"));
    }
    Ok(format!("{number}/{protocol}"))
}

fn health(text: &str) -> Result<Healthcheck> {
    let mut check = Healthcheck::default();
    let mut rest = text;
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        rest = after.trim_start();
        let (name, value) = option.split_once('=').unwrap_or((option, ""));
        let wrong = || Error::invalid(format!("`--{option}` is not an option of HEALTHCHECK"));
        let time = || nanoseconds(value).map(Some).ok_or_else(wrong);
        match name {
            "interval" => check.interval = time()?,
            "timeout" => check.timeout = time()?,
            "start-period" => check.start_period = time()?,
            "start-interval" => check.start_interval = time()?,
            "retries" => check.retries = Some(value.parse().map_err(|_| wrong())?),
            _ => return Err(wrong()),
        }
    }
    let (kind, command) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    check.test = match (kind.to_uppercase().as_str(), command.trim()) {
        ("NONE", "") => vec!["NONE".to_owned()],
        ("CMD", command) if !command.is_empty() => match json_words(command) {
            Some(list) => std::iter::once("CMD".to_owned()).chain(list).collect(),
            None => vec!["CMD-SHELL".to_owned(), command.to_owned()],
        },
        _ => return Err(Error::invalid("HEALTHCHECK wants `CMD …` or `NONE`")),
    };
    Ok(check)
}

/// Go's durations of whole numbers: `1m30s`, `500ms`.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut total: i64 = 0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let number: i64 = rest.get(..digits)?.parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.bytes().take_while(u8::is_ascii_alphabetic).count();
        let unit = match &rest[..letters] {
            "ns" => 1,
            "us" => 1_000,
            "ms" => 1_000_000,
            "s" => 1_000_000_000,
            "m" => 60 * 1_000_000_000,
            "h" => 3600 * 1_000_000_000,
            _ => return None,
        };
        rest = &rest[letters..];
        total = total.checked_add(number.checked_mul(unit)?)?;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_change_what_docker_changes() {
        let mut config = ContainerConfig { env: vec!["A=old".to_owned()], ..ContainerConfig::default() };
        for change in [
            "CMD [\"sh\", \"-c\", \"x\"]",
            "entrypoint run it",
            "ENV A=1 B=\"two words\" C=a\\ b",
            "ENV D three words",
            "LABEL x=\"y\" z=",
            "EXPOSE 80 53/udp",
            "USER 1:2",
            "WORKDIR /a",
            "WORKDIR b",
            "VOLUME [\"/v\", \"/w\"]",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN true",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD true",
        ] {
            apply(&mut config, change).unwrap();
        }
        assert_eq!(config.cmd.unwrap(), ["sh", "-c", "x"]);
        assert_eq!(config.entrypoint.unwrap(), ["/bin/sh", "-c", "run it"]);
        assert_eq!(config.env, ["A=1", "B=two words", "C=a b", "D=three words"]);
        assert_eq!(config.labels.into_iter().collect::<Vec<_>>(), [("x".into(), "y".into()), ("z".into(), "".into())]);
        assert_eq!(config.exposed_ports.into_keys().collect::<Vec<_>>(), ["53/udp", "80/tcp"]);
        assert_eq!((config.user.as_str(), config.working_dir.as_str()), ("1:2", "/a/b"));
        assert_eq!(config.volumes.len(), 2);
        let health = config.healthcheck.unwrap();
        assert_eq!(
            (health.test, health.interval, health.retries),
            (vec!["CMD-SHELL".into(), "true".into()], Some(90_000_000_000), Some(3))
        );
    }

    #[test]
    fn what_changes_no_image_is_refused() {
        let mut config = ContainerConfig::default();
        for change in ["RUN true", "COPY a b", "", "ENV", "ENV =x", "EXPOSE http", "LABEL a=\"b", "HEALTHCHECK", "USER"]
        {
            assert!(apply(&mut config, change).is_err(), "{change}");
        }
    }
}
