//! Words become flags and operands, by the rules of Go's pflag.

use corten_types::{Error, ErrorKind, Result};

use super::Command;
use super::flag::{Flag, Status, Takes};

/// The flags and operands of one command.
#[derive(Debug)]
pub(crate) struct Parsed {
    /// The command.
    pub(crate) command: &'static Command,
    /// Flags in the order given.
    values: Vec<(&'static Flag, String)>,
    /// Words that are not flags.
    pub(crate) operands: Vec<String>,
}

/// Why parsing ended before the end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// `--help`
    Help,
    /// The words are wrong.
    Wrong(Error),
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Wrong(error)
    }
}

/// Reads the words behind a command's name.
pub(crate) fn parse(command: &'static Command, words: &[String]) -> Result<Parsed, Stop> {
    let mut parsed = Parsed { command, values: Vec::new(), operands: Vec::new() };
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--" {
            parsed.operands.extend(words.by_ref().cloned());
        } else if let Some(long) = word.strip_prefix("--") {
            parsed.long(long, &mut words)?;
        } else if word.len() > 1 && word.starts_with('-') {
            parsed.shorts(&word[1..], &mut words)?;
        } else {
            parsed.operands.push(word.clone());
            if command.ends_at_operand {
                parsed.operands.extend(words.by_ref().cloned());
            }
        }
    }
    parsed.check_arity()?;
    Ok(parsed)
}

impl Parsed {
    fn long(&mut self, body: &str, words: &mut std::slice::Iter<'_, String>) -> Result<(), Stop> {
        let (name, value) = match body.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (body, None),
        };
        if name.is_empty() || name.starts_with('-') {
            return Err(Error::invalid(format!("bad flag syntax: --{body}")).into());
        }
        let Some(flag) = self.command.long(name) else {
            if name == "help" {
                return Err(Stop::Help);
            }
            return Err(unknown_flag(self.command, name).into());
        };
        let value = match (value, flag.takes) {
            (Some(value), _) => value,
            (None, Takes::Nothing) => "true".to_owned(),
            (None, _) => {
                words.next().cloned().ok_or_else(|| Error::invalid(format!("flag needs an argument: --{name}")))?
            }
        };
        Ok(self.set(flag, value)?)
    }

    fn shorts(&mut self, body: &str, words: &mut std::slice::Iter<'_, String>) -> Result<(), Stop> {
        let mut rest = body;
        while let Some(letter) = rest.chars().next() {
            let after = &rest[letter.len_utf8()..];
            let Some(flag) = self.command.short(letter) else {
                if letter == 'h' {
                    return Err(Stop::Help);
                }
                return Err(Error::invalid(format!("unknown shorthand flag: '{letter}' in -{body}")).into());
            };
            let value = match (after.strip_prefix('='), flag.takes) {
                (Some(value), _) if !value.is_empty() => value.to_owned(),
                (_, Takes::Nothing) => {
                    self.set(flag, "true".to_owned())?;
                    rest = after;
                    continue;
                }
                (_, _) if !after.is_empty() => after.to_owned(),
                (_, _) => words
                    .next()
                    .cloned()
                    .ok_or_else(|| Error::invalid(format!("flag needs an argument: '{letter}' in -{body}")))?,
            };
            return Ok(self.set(flag, value)?);
        }
        Ok(())
    }

    fn set(&mut self, flag: &'static Flag, value: String) -> Result<()> {
        if flag.takes == Takes::Nothing {
            boolean(&value).ok_or_else(|| {
                let quoted = corten_docker::quote(&value);
                invalid_argument(flag, &value, &format!("strconv.ParseBool: parsing {quoted}: invalid syntax"))
            })?;
        }
        if let Status::Refused { reason, harmless, later } = flag.status {
            let off = flag.takes == Takes::Nothing && boolean(&value) == Some(false);
            if !off && !harmless.contains(&value.as_str()) {
                return Err(refusal(flag, reason, later));
            }
        }
        self.values.push((flag, value));
        Ok(())
    }

    fn check_arity(&self) -> Result<()> {
        let (count, (fewest, most)) = (self.operands.len(), self.command.arity);
        let (count_word, limit) = match () {
            () if count < fewest && fewest == most => ("requires", fewest),
            () if count < fewest => ("requires at least", fewest),
            () if count > most && most == 0 => ("accepts no arguments", 0),
            () if count > most && fewest == most => ("requires", most),
            () if count > most => ("requires at most", most),
            () => return Ok(()),
        };
        let name = self.command.full_name();
        let amount = match limit {
            0 => String::new(),
            1 => " 1 argument".to_owned(),
            several => format!(" {several} arguments"),
        };
        let usage = format!("usage: `{name} [OPTIONS] {}`", self.command.operands);
        Err(Error::new(ErrorKind::Invalid, format!("'{name}' {count_word}{amount}")).hint(usage.trim_end()))
    }

    /// The values of `--name` in the order given.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        debug_assert!(self.command.long(name).is_some(), "--{name} is in the table");
        self.values.iter().filter(move |(flag, _)| flag.long == name).map(|(_, value)| value.as_str())
    }

    /// The values of `--name` as owned strings.
    pub(crate) fn list(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::to_owned).collect()
    }

    /// The value of `--name` that counts.
    pub(crate) fn last<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.all(name).last()
    }

    /// The last value of `--name` where the command has such a flag at all.
    pub(crate) fn optional<'a>(&'a self, name: &'a str) -> Option<&'a str> {
        self.command.long(name).and_then(|_| self.last(name))
    }

    /// Whether `--name` is on.
    pub(crate) fn is_on(&self, name: &str) -> bool {
        self.last(name).and_then(boolean).unwrap_or(false)
    }

    /// The flag `--name` and its values, each read by `read`, whose message is put into docker's words.
    pub(crate) fn read<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Vec<T>> {
        let given = self.values.iter().filter(|(flag, _)| flag.long == name);
        given.map(|(flag, value)| read(value).map_err(|why| invalid_argument(flag, value, &why))).collect()
    }

    /// As [`Parsed::read`], the last value alone.
    pub(crate) fn read_last<T>(&self, name: &str, read: impl Fn(&str) -> Result<T, String>) -> Result<Option<T>> {
        Ok(self.read(name, read)?.pop())
    }
}

/// Go's strconv.ParseBool.
pub(crate) fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

fn invalid_argument(flag: &Flag, value: &str, why: &str) -> Error {
    Error::invalid(format!("invalid argument {} for \"{}\" flag: {why}", corten_docker::quote(value), flag.display()))
}

fn refusal(flag: &Flag, reason: &str, later: bool) -> Error {
    let yet = if later { " yet" } else { "" };
    Error::new(ErrorKind::Unsupported, format!("the flag `--{}` is not supported{yet}", flag.long)).hint(reason)
}

fn unknown_flag(command: &Command, name: &str) -> Error {
    let error = Error::invalid(format!("unknown flag: --{name}"));
    let near =
        command.flags.iter().filter(|flag| flag.is_here()).map(|flag| (distance(flag.long, name), flag.long)).min();
    match near {
        Some((steps, long)) if steps <= 2 => error.hint(format!("did you mean `--{long}`?")),
        _ => error.hint(format!("`{} --help` lists the flags", command.full_name())),
    }
}

/// How many letters must be changed, added or removed.
pub(crate) fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.chars().enumerate() {
        let mut corner = row[0];
        row[0] = index + 1;
        for (column, other) in right.iter().enumerate() {
            let above = row[column + 1];
            row[column + 1] = (corner + usize::from(letter != *other)).min(above + 1).min(row[column] + 1);
            corner = above;
        }
    }
    row[right.len()]
}

#[cfg(test)]
mod tests {
    use super::super::find;
    use super::*;

    fn read(line: &[&str]) -> Result<Parsed, Stop> {
        let words: Vec<String> = line.iter().map(|word| (*word).to_owned()).collect();
        let (command, count) = find(&words).unwrap();
        parse(command, &words[count..])
    }

    fn refusal(line: &[&str]) -> Error {
        match read(line) {
            Err(Stop::Wrong(error)) => error,
            other => panic!("{line:?} is not refused: {other:?}"),
        }
    }

    #[test]
    fn flags_of_run_end_at_the_image() {
        let parsed = read(&["run", "-it", "--rm", "image", "-x", "--rm=false", "--", "y"]).unwrap();
        assert_eq!(parsed.operands, ["image", "-x", "--rm=false", "--", "y"]);
        assert!(parsed.is_on("interactive") && parsed.is_on("tty") && parsed.is_on("rm"));
        let parsed = read(&["run", "--", "image", "-x"]).unwrap();
        assert_eq!(parsed.operands, ["image", "-x"]);
    }

    #[test]
    fn flags_of_other_commands_may_follow_operands() {
        let parsed = read(&["rm", "a", "-f", "b", "--", "-c"]).unwrap();
        assert_eq!(parsed.operands, ["a", "b", "-c"]);
        assert!(parsed.is_on("force"));
    }

    #[test]
    fn values_stand_beside_behind_or_within_a_flag() {
        for line in [
            &["run", "--name", "web", "i"][..],
            &["run", "--name=web", "i"],
            &["run", "--name", "other", "--name=web", "i"],
        ] {
            assert_eq!(read(line).unwrap().last("name"), Some("web"), "{line:?}");
        }
        for line in
            [&["run", "-m", "5m", "i"][..], &["run", "-m5m", "i"], &["run", "-m=5m", "i"], &["run", "-itm5m", "i"]]
        {
            assert_eq!(read(line).unwrap().last("memory"), Some("5m"), "{line:?}");
        }
        let parsed = read(&["run", "-e", "A=1", "-eB", "--env=-C", "-e", "-x", "--entrypoint", "", "i"]).unwrap();
        assert_eq!(parsed.list("env"), ["A=1", "B", "-C", "-x"]);
        assert_eq!(parsed.last("entrypoint"), Some(""));
    }

    #[test]
    fn a_switch_may_have_a_value() {
        assert!(!read(&["run", "--privileged=false", "i"]).unwrap().is_on("privileged"));
        assert!(!read(&["run", "--rm", "--rm=0", "i"]).unwrap().is_on("rm"));
        let parsed = read(&["run", "-it=false", "i"]).unwrap();
        assert!(parsed.is_on("interactive") && !parsed.is_on("tty"));
        assert_eq!(
            refusal(&["run", "--privileged=maybe", "i"]).message(),
            "invalid argument \"maybe\" for \"--privileged\" flag: strconv.ParseBool: parsing \"maybe\": invalid syntax"
        );
    }

    #[test]
    fn wrong_flags_are_refused_in_docker_s_words() {
        for (line, message) in [
            (&["run", "--nope", "x"][..], "unknown flag: --nope"),
            (&["run", "-Z", "x"], "unknown shorthand flag: 'Z' in -Z"),
            (&["run", "-iZ", "x"], "unknown shorthand flag: 'Z' in -iZ"),
            (&["run", "--name"], "flag needs an argument: --name"),
            (&["run", "-m"], "flag needs an argument: 'm' in -m"),
            (&["run", "---x"], "bad flag syntax: ---x"),
            (&["run", "--=x"], "bad flag syntax: --=x"),
            (&["run"], "'corten run' requires at least 1 argument"),
            (&["images", "a", "b"], "'corten images' requires at most 1 argument"),
            (&["ps", "x"], "'corten ps' accepts no arguments"),
            (&["tag", "x"], "'corten tag' requires 2 arguments"),
            (&["run", "--storage-opt", "size=1g", "x"], "the flag `--storage-opt` is not supported yet"),
            (&["run", "-p", "80:80", "x"], "the flag `--publish` is not supported yet"),
        ] {
            assert_eq!(refusal(line).message(), message, "{line:?}");
        }
        assert_eq!(refusal(&["run", "--nmae", "x"]).hints(), ["did you mean `--name`?"]);
        assert!(matches!(read(&["ps", "-h"]), Err(Stop::Help)));
        assert!(matches!(read(&["run", "--help"]), Err(Stop::Help)));
        assert_eq!(read(&["run", "-h", "box", "i"]).unwrap().last("hostname"), Some("box"));
    }

    #[test]
    fn a_later_flag_that_asks_for_nothing_new_is_accepted() {
        for line in [
            &["run", "--restart", "no", "i"][..],
            &["run", "--restart=no", "--publish-all=false", "--oom-kill-disable=0", "i"],
            &["run", "--no-healthcheck", "--disable-content-trust", "--log-driver=json-file", "i"],
        ] {
            assert!(read(line).is_ok(), "{line:?}");
        }
    }

    #[test]
    fn every_flag_of_docker_run_is_known_by_name() {
        let (command, _) = find(&["run".to_owned()]).unwrap();
        let unknown: Vec<_> = DOCKER_RUN.split_whitespace().filter(|name| command.long(name).is_none()).collect();
        assert_eq!(unknown, Vec::<&str>::new());
        let shorts = "acdehilmpPqtuvw";
        assert!(shorts.chars().all(|letter| command.short(letter).is_some()));
    }

    /// Of docker 28.5, without `--help`; then its hidden aliases.
    const DOCKER_RUN: &str = "add-host annotation attach blkio-weight blkio-weight-device cap-add cap-drop cgroup-parent \
        cgroupns cidfile cpu-count cpu-percent cpu-period cpu-quota cpu-rt-period cpu-rt-runtime cpu-shares cpus cpuset-cpus \
        cpuset-mems detach detach-keys device device-cgroup-rule device-read-bps device-read-iops device-write-bps \
        device-write-iops disable-content-trust dns dns-option dns-search domainname entrypoint env env-file expose gpus \
        group-add health-cmd health-interval health-retries health-start-interval health-start-period health-timeout hostname \
        init interactive io-maxbandwidth io-maxiops ip ip6 ipc isolation kernel-memory label label-file link link-local-ip \
        log-driver log-opt mac-address memory memory-reservation memory-swap memory-swappiness mount name network \
        network-alias no-healthcheck oom-kill-disable oom-score-adj pid pids-limit platform privileged publish publish-all \
        pull quiet read-only restart rm runtime security-opt shm-size sig-proxy stop-signal stop-timeout storage-opt sysctl \
        tmpfs tty ulimit use-api-socket user userns uts volume volume-driver volumes-from workdir net net-alias dns-opt";
}
