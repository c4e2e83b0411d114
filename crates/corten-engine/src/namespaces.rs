//! Whose namespaces a container has: its own, the host's, or another container's (`--ipc`, `--pid`, `--uts`, `--cgroupns`,
//! `--userns`).

use std::path::PathBuf;

use corten_types::{Error, ErrorKind, Result};
use serde::{Deserialize, Serialize};

use crate::container::ContainerConfig;
use crate::engine::Engine;
use crate::spec::Joined;

/// Where the /dev/shm of a container that others may join is mounted, in its run directory.
pub(crate) const SHARED_MEMORY: &str = "shm";

/// Whose namespace of one kind a container has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum NamespaceMode {
    /// Nothing was said: docker's default.
    #[default]
    Default,
    /// Its own, which nobody joins.
    Private,
    /// Its own, which other containers may join (IPC).
    Shareable,
    /// Its own, without /dev/shm (IPC).
    None,
    /// The host's.
    Host,
    /// Another container's, by name and from creation on by id.
    Container(String),
}

/// The kinds of namespaces with a choice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceChoice {
    /// `--cgroupns`
    Cgroup,
    /// `--ipc`
    Ipc,
    /// `--pid`
    Pid,
    /// `--userns`
    User,
    /// `--uts`
    Uts,
}

impl NamespaceChoice {
    /// The flag, and the words that it knows beside `container:NAME`.
    fn words(self) -> (&'static str, &'static [&'static str], bool) {
        match self {
            Self::Cgroup => ("cgroupns", &["host", "private"], false),
            Self::Ipc => ("ipc", &["none", "private", "shareable", "host"], true),
            Self::Pid => ("pid", &["host", "private"], true),
            Self::User => ("userns", &["host"], false),
            Self::Uts => ("uts", &["host", "private"], true),
        }
    }
}

impl NamespaceMode {
    /// Reads docker's and podman's words.
    pub fn parse(choice: NamespaceChoice, word: &str) -> Result<Self> {
        let (flag, known, joins) = choice.words();
        if let Some(name) = word.strip_prefix("container:").filter(|name| joins && !name.is_empty()) {
            return Ok(Self::Container(name.to_owned()));
        }
        if choice == NamespaceChoice::User && (word.starts_with("keep-id") || word.starts_with("auto")) {
            return Err(Error::new(ErrorKind::Unsupported, format!("`--userns {word}` is not supported yet"))
                .hint("containers share the engine's user namespace: as an ordinary user, root inside is that user"));
        }
        match word {
            "" => Ok(Self::Default),
            _ if !known.contains(&word) => {
                let joined = if joins { ", `container:NAME`" } else { "" };
                let names: Vec<_> = known.iter().map(|name| format!("`{name}`")).collect();
                Err(Error::invalid(format!("--{flag}: invalid mode `{word}`"))
                    .hint(format!("known are {}{joined}", names.join(", "))))
            }
            "host" => Ok(Self::Host),
            "none" => Ok(Self::None),
            "shareable" => Ok(Self::Shareable),
            _ => Ok(Self::Private),
        }
    }

    /// Docker's word; empty for nothing.
    pub fn word(&self) -> String {
        match self {
            Self::Default => String::new(),
            Self::Private => "private".to_owned(),
            Self::Shareable => "shareable".to_owned(),
            Self::None => "none".to_owned(),
            Self::Host => "host".to_owned(),
            Self::Container(name) => format!("container:{name}"),
        }
    }

    /// Whether it is somebody else's.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(self, Self::Host | Self::Container(_))
    }
}

/// The choices of one container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Namespaces {
    /// `--cgroupns`
    pub cgroup: NamespaceMode,
    /// `--ipc`
    pub ipc: NamespaceMode,
    /// `--pid`
    pub pid: NamespaceMode,
    /// `--userns`
    pub user: NamespaceMode,
    /// `--uts`
    pub uts: NamespaceMode,
}

impl Engine {
    /// Puts ids in the place of names, and refuses what cannot be had here.
    pub(crate) fn resolve_namespaces(&self, mut namespaces: Namespaces, has_cgroup2: bool) -> Result<Namespaces> {
        for mode in [&mut namespaces.ipc, &mut namespaces.pid, &mut namespaces.uts] {
            if let NamespaceMode::Container(name) = mode {
                *name = self.find(name)?;
            }
        }
        if self.options.rootless.is_none() {
            return Ok(namespaces);
        }
        let refuse = |what: &str, why: &str| {
            let message = format!("`{what}` is not supported for an ordinary user's containers here");
            Err(Error::new(ErrorKind::Unsupported, message).caused_by(Error::new(ErrorKind::Unsupported, why)))
        };
        if namespaces.ipc == NamespaceMode::Shareable {
            return refuse(
                "--ipc shareable",
                "their shared memory is mounted where no other container's supervisor sees it",
            );
        }
        // The end of the namespace is what ends every process where there is no cgroup.
        if namespaces.pid.is_shared() && !has_cgroup2 {
            return refuse(
                "--pid host",
                "without a cgroup or a namespace nothing would end what the program leaves behind",
            );
        }
        Ok(namespaces)
    }

    /// What a container joins; the containers that it names must run.
    pub(crate) fn joined(&self, config: &ContainerConfig) -> Result<Joined> {
        let Namespaces { ipc, pid, uts, .. } = &config.namespaces;
        let mut joined = Joined { shared_memory: self.own_shared_memory(config), ..Joined::default() };
        if let NamespaceMode::Container(id) = ipc {
            let donor = self.container(id)?;
            joined.ipc = path(&donor, "ipc")?;
            joined.shared_memory = match donor.config.namespaces.ipc {
                NamespaceMode::Host | NamespaceMode::Shareable | NamespaceMode::Container(_) => {
                    self.joined(&donor.config)?.shared_memory
                }
                _ => {
                    let name = &donor.config.name;
                    return Err(Error::new(ErrorKind::Conflict, format!("container `{name}` does not share its IPC"))
                        .hint(format!("start `{name}` with `--ipc shareable`")));
                }
            };
        }
        if let NamespaceMode::Container(id) = pid {
            joined.pid = path(&self.container(id)?, "pid")?;
        }
        if let NamespaceMode::Container(id) = uts {
            joined.uts = path(&self.container(id)?, "uts")?;
        }
        Ok(joined)
    }

    fn own_shared_memory(&self, config: &ContainerConfig) -> Option<PathBuf> {
        match config.namespaces.ipc {
            NamespaceMode::Host => Some(PathBuf::from("/dev/shm")),
            NamespaceMode::Shareable => Some(self.run_path(&config.id).join(SHARED_MEMORY)),
            _ => None,
        }
    }
}

/// The file of a running container's namespace.
fn path(donor: &crate::container::Container, kind: &str) -> Result<String> {
    let (name, pid) = (&donor.config.name, donor.life.pid);
    if !donor.life.state.is_alive() || pid <= 0 {
        let upper = kind.to_uppercase();
        return Err(Error::new(
            ErrorKind::Conflict,
            format!("cannot join {upper} of a non running container: {}", donor.config.id),
        )
        .hint(format!("`corten start {name}`")));
    }
    Ok(format!("/proc/{pid}/ns/{kind}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_flag_knows_its_own_words() {
        use NamespaceChoice as C;
        use NamespaceMode as M;
        for (choice, word, mode) in [
            (C::Ipc, "shareable", M::Shareable),
            (C::Ipc, "container:web", M::Container("web".to_owned())),
            (C::Pid, "host", M::Host),
            (C::Pid, "", M::Default),
            (C::Uts, "private", M::Private),
            (C::Cgroup, "host", M::Host),
            (C::User, "host", M::Host),
        ] {
            let read = M::parse(choice, word).unwrap();
            assert_eq!((read.word().as_str(), read), (word, mode));
        }
        for (choice, word) in [
            (C::Pid, "shareable"),
            (C::Ipc, "container:"),
            (C::Cgroup, "container:x"),
            (C::User, "auto"),
            (C::Uts, "x"),
        ] {
            assert!(M::parse(choice, word).is_err(), "{choice:?} {word}");
        }
    }
}
