//! What a supervisor does by itself: restarts, checks, logs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// What follows the program's end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// Another start after a failure, so many times at most; 0 is without end.
    OnFailure(u32),
    /// Another start, also after the machine's.
    Always,
    /// The same, but not after the machine's start where the user had stopped it.
    UnlessStopped,
}

impl RestartPolicy {
    /// Reads docker's words: `no`, `on-failure[:N]`, `always`, `unless-stopped`.
    pub fn parse(text: &str) -> Result<Self> {
        let (name, count) = match text.split_once(':') {
            Some((name, count)) => (name, Some(count)),
            None => (text, None),
        };
        let number = match count {
            Some(count) if count.contains(':') => {
                return Err(Error::invalid("invalid restart policy format: restart policy has too many fields"));
            }
            Some(count) => count
                .parse::<u32>()
                .map_err(|_| Error::invalid("invalid restart policy format: maximum retry count must be an integer"))?,
            None => 0,
        };
        match name {
            "" if count.is_some() => {
                Err(Error::invalid("invalid restart policy format: no policy provided before colon"))
            }
            "on-failure" => Ok(Self::OnFailure(number)),
            "" | "no" | "always" | "unless-stopped" if count.is_some() && number != 0 => {
                Err(Error::invalid("invalid restart policy: maximum retry count can only be used with 'on-failure'"))
            }
            "" | "no" => Ok(Self::No),
            "always" => Ok(Self::Always),
            "unless-stopped" => Ok(Self::UnlessStopped),
            other => Err(Error::invalid(format!(
                "invalid restart policy: unknown policy '{other}'; use one of 'no', 'always', 'on-failure', or 'unless-stopped'"
            ))),
        }
    }

    /// Docker's word, and how often at most.
    pub fn words(&self) -> (&'static str, u32) {
        match self {
            Self::No => ("no", 0),
            Self::OnFailure(count) => ("on-failure", *count),
            Self::Always => ("always", 0),
            Self::UnlessStopped => ("unless-stopped", 0),
        }
    }
}

/// A command by which a container's health is told. Times are milliseconds.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthCheck {
    /// Docker's form: `CMD` and words, or `CMD-SHELL` and one line.
    pub test: Vec<String>,
    /// Between checks.
    pub interval_ms: u64,
    /// For one check.
    pub timeout_ms: u64,
    /// Grace at the start.
    pub start_period_ms: u64,
    /// Between checks during the grace.
    pub start_interval_ms: u64,
    /// Failures in a row that make it unhealthy.
    pub retries: u32,
    /// What then happens.
    pub on_unhealthy: UnhealthyAction,
}

/// What happens to a container that became unhealthy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UnhealthyAction {
    /// It is told.
    #[default]
    None,
    /// It is killed, and its restart policy follows.
    Kill,
    /// It is started again whatever its policy.
    Restart,
    /// It is stopped.
    Stop,
}

impl UnhealthyAction {
    /// Reads podman's word.
    pub fn parse(word: &str) -> Option<Self> {
        Some(match word {
            "" | "none" => Self::None,
            "kill" => Self::Kill,
            "restart" => Self::Restart,
            "stop" => Self::Stop,
            _ => return None,
        })
    }
}

/// Who keeps the output.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogDriver {
    /// Docker's format.
    #[default]
    JsonFile,
    /// A compact one of ours; what was rotated away is compressed.
    Local,
    /// The format of Kubernetes' CRI.
    K8sFile,
    /// The journal of systemd.
    Journald,
    /// syslog(3)'s socket.
    Syslog,
    /// Nobody.
    None,
}

impl LogDriver {
    const WORDS: [(Self, &'static str); 6] = [
        (Self::JsonFile, "json-file"),
        (Self::Local, "local"),
        (Self::K8sFile, "k8s-file"),
        (Self::Journald, "journald"),
        (Self::Syslog, "syslog"),
        (Self::None, "none"),
    ];

    /// Docker's word (podman's for `k8s-file`).
    pub fn as_str(self) -> &'static str {
        Self::WORDS.iter().find(|(driver, _)| *driver == self).map_or("json-file", |(_, word)| word)
    }

    /// The driver of a word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::WORDS.iter().find(|(_, known)| *known == word).map(|(driver, _)| *driver)
    }
}

/// What becomes of the output.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LogOptions {
    /// Who keeps it.
    pub driver: LogDriver,
    /// The words of `--log-opt` as given.
    pub options: BTreeMap<String, String>,
    /// Rotated at this size, bytes; 0 is never.
    pub size_bytes_max: u64,
    /// Files in all.
    pub files_max: u32,
    /// What was rotated away is compressed.
    pub compresses: bool,
    /// What every record says besides (`labels`, `env`, `tag`).
    pub attributes: BTreeMap<String, String>,
    /// The name of the program in syslog and journal.
    pub tag: String,
    /// Bytes that wait for a slow log before lines are dropped; 0 waits for the log.
    pub buffer_size_bytes_max: usize,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            driver: LogDriver::JsonFile,
            options: BTreeMap::new(),
            size_bytes_max: 20 * 1024 * 1024,
            files_max: 5,
            compresses: false,
            attributes: BTreeMap::new(),
            tag: String::new(),
            buffer_size_bytes_max: 0,
        }
    }
}

impl LogOptions {
    /// The file's name in the container's directory; `None` where there is none.
    pub fn file_name(&self, id: &str) -> Option<String> {
        match self.driver {
            LogDriver::JsonFile => Some(format!("{id}-json.log")),
            LogDriver::Local => Some("container.log".to_owned()),
            LogDriver::K8sFile => Some("ctr.log".to_owned()),
            LogDriver::Journald | LogDriver::Syslog | LogDriver::None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restart_policies_read_as_docker_reads_them() {
        for (text, policy) in [
            ("no", RestartPolicy::No),
            ("", RestartPolicy::No),
            ("always", RestartPolicy::Always),
            ("unless-stopped", RestartPolicy::UnlessStopped),
            ("on-failure", RestartPolicy::OnFailure(0)),
            ("on-failure:3", RestartPolicy::OnFailure(3)),
        ] {
            assert_eq!(RestartPolicy::parse(text).unwrap(), policy, "{text}");
        }
        for text in ["sometimes", "always:3", "on-failure:x", "on-failure:1:2", ":3"] {
            assert!(RestartPolicy::parse(text).is_err(), "{text}");
        }
    }
}
