//! Owners of files as this process may set them: the id maps of its user namespace.
//!
//! A map of one id (a user without `newuidmap`) cannot show other owners. Files of others are then given to that one id,
//! as podman's `ignore_chown_errors` does, and the layer is marked: it is unpacked again once the store is used with a
//! wider map, so that the owners are right where they can be. An id outside a wider map is an error.

use std::path::Path;

use corten_fs::root::read_ambient;
use corten_types::{Error, ErrorKind, Result};

/// The ids that exist for this process.
#[derive(Debug, Clone)]
pub struct Owners {
    uids: Map,
    gids: Map,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Map(Vec<(u64, u64)>);

impl Owners {
    /// The maps of the calling process's user namespace.
    pub fn of_this_process() -> Result<Self> {
        let read = |path: &str| -> Result<Map> {
            let text = read_ambient(Path::new(path), 64 * 1024)?;
            Map::parse(&String::from_utf8_lossy(&text))
        };
        Ok(Self { uids: read("/proc/self/uid_map")?, gids: read("/proc/self/gid_map")? })
    }

    /// Whether this is a user namespace other than the first one.
    pub fn in_user_namespace(&self) -> bool {
        !self.uids.is_whole() || !self.gids.is_whole()
    }

    /// Whether files of other owners are given to the one id there is.
    pub fn squashes(&self) -> bool {
        self.uids.is_single() || self.gids.is_single()
    }

    /// The owner to set for `uid` and `gid`, and whether that is another one than was asked for.
    pub(crate) fn resolve(&self, uid: u64, gid: u64) -> Result<(u32, u32, bool)> {
        let user = self.uids.resolve(uid).ok_or_else(|| unmapped("user", uid))?;
        let group = self.gids.resolve(gid).ok_or_else(|| unmapped("group", gid))?;
        Ok((user, group, u64::from(user) != uid || u64::from(group) != gid))
    }
}

fn unmapped(what: &str, id: u64) -> Error {
    let file = if what == "user" { "/etc/subuid" } else { "/etc/subgid" };
    if id >= u64::from(u32::MAX) {
        return Error::invalid(format!("{what} id {id} is larger than any {what} id"));
    }
    Error::new(ErrorKind::Denied, format!("{what} id {id} is not mapped in this user namespace"))
        .hint(format!("give your user a larger range in `{file}` (at least 65536 ids)"))
}

impl Map {
    /// Ranges of ids inside, from uid_map(5).
    fn parse(text: &str) -> Result<Self> {
        let ranges = text.lines().map(|line| {
            let mut words = line.split_whitespace().map(str::parse::<u64>);
            match (words.next(), words.next(), words.next()) {
                (Some(Ok(inside)), Some(Ok(_)), Some(Ok(length))) => Ok((inside, length)),
                _ => Err(Error::invalid(format!("id map has the line `{line}`"))),
            }
        });
        Ok(Self(ranges.collect::<Result<_>>()?))
    }

    fn is_whole(&self) -> bool {
        self.0 == [(0, u64::from(u32::MAX))]
    }

    fn is_single(&self) -> bool {
        self.0.iter().map(|(_, length)| length).sum::<u64>() <= 1
    }

    fn resolve(&self, id: u64) -> Option<u32> {
        let narrow = u32::try_from(id).ok().filter(|id| *id != u32::MAX)?;
        if self.0.iter().any(|(start, length)| (*start..start.saturating_add(*length)).contains(&id)) {
            return Some(narrow);
        }
        match self.0.first() {
            Some((start, _)) if self.is_single() => u32::try_from(*start).ok(),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owners(map: &str) -> Owners {
        Owners { uids: Map::parse(map).unwrap(), gids: Map::parse(map).unwrap() }
    }

    #[test]
    fn owners_follow_the_map() {
        let whole = owners("         0          0 4294967295\n");
        assert!(!whole.in_user_namespace() && !whole.squashes());
        assert_eq!(whole.resolve(3_000_000_000, 5).unwrap(), (3_000_000_000, 5, false));
        assert!(whole.resolve(u64::from(u32::MAX), 0).is_err() && whole.resolve(1 << 40, 0).is_err());

        let wide = owners("0 1000 1\n1 100000 65536\n");
        assert!(wide.in_user_namespace() && !wide.squashes());
        assert_eq!(wide.resolve(65536, 1).unwrap(), (65536, 1, false));
        let error = wide.resolve(65537, 0).unwrap_err();
        assert!(error.one_line().contains("user id 65537") && error.hints()[0].contains("/etc/subuid"));

        let single = owners("0 1000 1\n");
        assert!(single.squashes());
        assert_eq!(single.resolve(33, 0).unwrap(), (0, 0, true));
        assert!(single.resolve(1 << 32, 0).is_err());
    }
}
