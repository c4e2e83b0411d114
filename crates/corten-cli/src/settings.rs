//! Where the engine keeps things: flags, then environment, then the user's or the system's directories.

use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use corten_engine::{Engine, EngineOptions, LayerForm};
use corten_types::{Context, Error, ErrorKind, Result};

use crate::Environment;
use crate::command_line::Parsed;

/// What the global flags and the environment decide.
#[derive(Debug)]
pub(crate) struct Settings {
    root: Option<PathBuf>,
    run_root: Option<PathBuf>,
    layer_form: Option<String>,
    systemd_cgroup: bool,
}

impl Settings {
    /// Reads the global flags.
    pub(crate) fn new(globals: &Parsed) -> Self {
        let path = |name: &str| globals.last(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        Self {
            root: path("root"),
            run_root: path("run-root"),
            layer_form: globals.last("layer-form").filter(|value| !value.is_empty()).map(str::to_owned),
            systemd_cgroup: globals.is_on("systemd-cgroup"),
        }
    }

    /// The flags that lead another process of this program to the same engine.
    pub(crate) fn words(&self, environment: &Environment) -> Result<Vec<String>> {
        let mut words = Vec::new();
        for (flag, path) in [("--root", self.root(environment)?), ("--run-root", self.run_root(environment)?)] {
            let path = environment.absolute(path);
            let path = path.to_str().ok_or_else(|| Error::invalid(format!("`{}` is not UTF-8", path.display())))?;
            words.extend([flag.to_owned(), path.to_owned()]);
        }
        if self.systemd_cgroup {
            words.push("--systemd-cgroup".to_owned());
        }
        Ok(words)
    }

    /// Opens the engine; an ordinary user's in a user namespace.
    pub(crate) fn engine(&self, environment: &Environment) -> Result<Engine> {
        let root = environment.absolute(self.root(environment)?);
        let run_root = environment.absolute(self.run_root(environment)?);
        let rootless = match environment.uid {
            0 => None,
            _ => Some(corten_engine::enter_rootless(&run_root)?),
        };
        let engine = Engine::open(EngineOptions {
            root,
            run_root,
            executable: environment.executable.clone(),
            systemd_cgroup: self.systemd_cgroup,
            rootless,
        })?;
        match self.layer_form.as_deref().or_else(|| environment.text("CORTEN_LAYER_FORM")) {
            Some(form) => Ok(engine.with_layer_form(LayerForm::parse(form)?)),
            None => Ok(engine),
        }
    }

    /// The directory of the engine's store, for those who need no engine.
    pub(crate) fn store_root(&self, environment: &Environment) -> Result<PathBuf> {
        let root = environment.absolute(self.root(environment)?);
        if environment.uid != 0 {
            corten_engine::enter_rootless(&environment.absolute(self.run_root(environment)?))?;
        }
        Ok(root.join("store"))
    }

    fn root(&self, environment: &Environment) -> Result<PathBuf> {
        let chosen = self.root.clone().or_else(|| environment.path("CORTEN_ROOT"));
        if let Some(root) = chosen {
            return Ok(root);
        }
        if environment.uid == 0 {
            return Ok(PathBuf::from("/var/lib/corten"));
        }
        let data = environment.path("XDG_DATA_HOME").filter(|path| path.is_absolute());
        let home = || environment.path("HOME").map(|home| home.join(".local/share"));
        data.or_else(home).map(|data| data.join("corten")).ok_or_else(|| {
            Error::invalid("there is no directory for images and containers: neither `HOME` nor `XDG_DATA_HOME` is set")
                .hint("name one with `--root DIR`")
        })
    }

    fn run_root(&self, environment: &Environment) -> Result<PathBuf> {
        let chosen = self.run_root.clone().or_else(|| environment.path("CORTEN_RUN_ROOT"));
        if let Some(run_root) = chosen {
            return Ok(run_root);
        }
        if environment.uid == 0 {
            return Ok(PathBuf::from("/run/corten"));
        }
        if let Some(runtime) = environment.path("XDG_RUNTIME_DIR").filter(|path| path.is_absolute()) {
            return Ok(runtime.join("corten"));
        }
        let logind = PathBuf::from(format!("/run/user/{}", environment.uid));
        if is_own(&logind, environment.uid) {
            return Ok(logind.join("corten"));
        }
        private_directory(environment.uid)
    }
}

/// A directory of one's own in /tmp, for a user without a session: made by nobody else, open to nobody else.
fn private_directory(uid: u32) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/tmp/corten-run-{uid}"));
    match std::fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
            Err(Error::from(error)).context(|| format!("cannot make `{}`", path.display()))
        }
        _ if is_own(&path, uid) => Ok(path),
        _ => Err(Error::new(ErrorKind::Denied, format!("`{}` is not a directory of your own", path.display()))
            .hint("name one with `--run-root DIR`, or set `XDG_RUNTIME_DIR`")),
    }
}

/// Whether `path` is a directory, not a link to one, that belongs to `uid` and to which nobody else has access.
fn is_own(path: &Path, uid: u32) -> bool {
    std::fs::symlink_metadata(path)
        .is_ok_and(|status| status.is_dir() && status.uid() == uid && status.mode() & 0o077 == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        Settings { root: None, run_root: None, layer_form: None, systemd_cgroup: false }
    }

    fn environment(uid: u32, variables: &[(&str, &str)]) -> Environment {
        let variables = variables.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
        Environment { variables, uid, ..Environment::default() }
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_defaults() {
        let root = |settings: &Settings, environment: &Environment| settings.root(environment).unwrap();
        let user = [("HOME", "/home/u"), ("XDG_DATA_HOME", "/data"), ("XDG_RUNTIME_DIR", "/run/user/5")];
        assert_eq!(root(&settings(), &environment(0, &user)), Path::new("/var/lib/corten"));
        assert_eq!(root(&settings(), &environment(5, &user)), Path::new("/data/corten"));
        assert_eq!(root(&settings(), &environment(5, &user[..1])), Path::new("/home/u/.local/share/corten"));
        assert!(settings().root(&environment(5, &[])).is_err());
        assert_eq!(root(&settings(), &environment(5, &[("CORTEN_ROOT", "/c")])), Path::new("/c"));
        let flag = Settings { root: Some("/f".into()), ..settings() };
        assert_eq!(root(&flag, &environment(5, &[("CORTEN_ROOT", "/c")])), Path::new("/f"));
        assert_eq!(settings().run_root(&environment(5, &user)).unwrap(), Path::new("/run/user/5/corten"));
        assert_eq!(settings().run_root(&environment(0, &user)).unwrap(), Path::new("/run/corten"));
    }
}
