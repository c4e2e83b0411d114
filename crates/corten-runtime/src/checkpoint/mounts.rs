//! Mounts of a container that come from outside: criu is told of each, and from where to take it again.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use corten_types::runtime_spec::Mount;
use corten_types::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Largest mount table that is read, bytes.
const TABLE_SIZE_BYTES_MAX: u64 = 16 << 20;

/// A mount that criu does not carry in its images.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct External {
    /// Place inside the container.
    pub destination: PathBuf,
    /// The same tree as the host sees it.
    pub source: PathBuf,
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, Clone, PartialEq, Eq)]
struct Line {
    device: String,
    root: PathBuf,
    place: PathBuf,
}

/// The external mounts of process `pid`: those whose file system is also mounted on the host, except the root itself.
pub(super) fn external(pid: i32) -> Result<Vec<External>> {
    let table = |who: &str| -> Result<Vec<Line>> {
        let path = format!("/proc/{who}/mountinfo");
        let bytes = corten_fs::root::read_ambient(Path::new(&path), TABLE_SIZE_BYTES_MAX);
        Ok(parse(&bytes.context(|| format!("cannot read `{path}`"))?))
    };
    Ok(matched(&table(&pid.to_string())?, &table("self")?))
}

/// The sources that a configuration names take precedence over those of the time of the dump.
pub(super) fn with_sources_of(externals: Vec<External>, mounts: &[Mount]) -> Vec<External> {
    let source = |external: &External| {
        let named = mounts.iter().rev().find(|mount| Path::new(&mount.destination) == external.destination)?;
        Path::new(&named.source).is_absolute().then(|| PathBuf::from(&named.source))
    };
    externals
        .into_iter()
        .map(|external| External { source: source(&external).unwrap_or_else(|| external.source.clone()), ..external })
        .collect()
}

fn matched(inside: &[Line], outside: &[Line]) -> Vec<External> {
    let mut found: Vec<External> = Vec::new();
    for line in inside.iter().filter(|line| line.place != Path::new("/")) {
        let host = outside
            .iter()
            .filter(|host| host.device == line.device)
            .find_map(|host| line.root.strip_prefix(&host.root).ok().map(|rest| join(&host.place, rest)));
        if let Some(source) = host {
            found.retain(|external| external.destination != line.place);
            found.push(External { destination: line.place.clone(), source });
        }
    }
    found
}

fn join(place: &Path, rest: &Path) -> PathBuf {
    if rest.as_os_str().is_empty() { place.to_path_buf() } else { place.join(rest) }
}

fn parse(table: &[u8]) -> Vec<Line> {
    let lines = table.split(|byte| *byte == b'\n');
    lines
        .filter_map(|line| {
            let mut fields = line.split(|byte| *byte == b' ').skip(2);
            let device = String::from_utf8(fields.next()?.to_vec()).ok()?;
            Some(Line { device, root: unescaped(fields.next()?), place: unescaped(fields.next()?) })
        })
        .collect()
}

/// `\040` and its like.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = || tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match (first, octal()) {
            (b'\\', Some(byte)) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_host_also_mounts_is_external() {
        let inside = parse(
            b"1 0 0:50 /merged / rw - overlay overlay rw\n2 1 0:51 / /proc rw - proc proc rw\n\
              3 1 8:1 /srv/a\\040b /data rw - ext4 /dev/vda rw\n4 1 0:6 /null /proc/kcore rw - devtmpfs dev rw\n",
        );
        let outside = parse(b"20 1 8:1 / / rw - ext4 /dev/vda rw\n21 20 0:6 / /dev rw - devtmpfs dev rw\n");
        let external =
            |destination: &str, source: &str| External { destination: destination.into(), source: source.into() };
        let found = matched(&inside, &outside);
        assert_eq!(found, [external("/data", "/srv/a b"), external("/proc/kcore", "/dev/null")]);
        let mount = Mount { destination: "/data".into(), source: "/elsewhere".into(), ..Mount::default() };
        assert_eq!(with_sources_of(found, &[mount])[0].source, Path::new("/elsewhere"));
    }
}
