//! What the process was given from outside besides its arguments; `corten`'s main reads it once.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// The environment as data: variables, working directory, user, program.
#[derive(Debug, Clone, Default)]
pub struct Environment {
    /// Every variable, in the order the kernel gave them.
    pub variables: Vec<(OsString, OsString)>,
    /// The working directory.
    pub working_directory: PathBuf,
    /// The effective user.
    pub uid: u32,
    /// The running program's file.
    pub executable: PathBuf,
}

impl Environment {
    /// The value of variable `name`.
    pub fn get(&self, name: &str) -> Option<&OsStr> {
        self.variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_os_str())
    }

    /// The value of variable `name` where it is set, not empty and UTF-8.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(OsStr::to_str).filter(|value| !value.is_empty())
    }

    /// The value of variable `name` as a path, where it is set and not empty.
    pub fn path(&self, name: &str) -> Option<PathBuf> {
        self.get(name).filter(|value| !value.is_empty()).map(PathBuf::from)
    }

    /// `path` seen from the working directory.
    pub fn absolute(&self, path: impl Into<PathBuf>) -> PathBuf {
        self.working_directory.join(path.into())
    }
}
