//! Logs of lines that several processes add to and others follow.
//!
//! ```text
//! NAME      lines, each written at once
//! NAME.1    what was there before NAME reached its largest size
//! ```

use std::os::fd::{AsFd, OwnedFd};

use corten_sys::Call;
use corten_types::Result;
use rustix::fs::{FlockOperation, Mode, OFlags};

use crate::Root;

/// Adds one line to the file `name`, which is set aside first where it has reached `size_bytes_max`.
///
/// A line is one write to a file opened for appending: it lands whole and between others. The lock keeps a file from being
/// set aside while somebody writes to it.
pub fn line(directory: &Root, name: &str, line: &[u8], size_bytes_max: u64) -> Result<()> {
    loop {
        let file = open(directory, name)?;
        rustix::io::retry_on_intr(|| rustix::fs::flock(&file, FlockOperation::LockExclusive))
            .call(|| format!("flock(<{name}>, LOCK_EX)"))?;
        let stat = rustix::fs::fstat(&file).call(|| format!("fstat(<{name}>)"))?;
        if stat.st_nlink == 0 || !is_current(directory, name, &stat)? {
            continue;
        }
        if u64::try_from(stat.st_size).unwrap_or(0) >= size_bytes_max {
            directory.rename(name, format!("{name}.1"), rustix::fs::RenameFlags::empty())?;
            continue;
        }
        let mut whole = Vec::with_capacity(line.len() + 1);
        whole.extend_from_slice(line);
        whole.push(b'\n');
        return crate::atomic::write_all(file.as_fd(), &whole).call(|| format!("write(<{name}>)"));
    }
}

fn open(directory: &Root, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
    directory.open(name, flags, Mode::from_raw_mode(0o600))
}

fn is_current(directory: &Root, name: &str, held: &rustix::fs::Stat) -> Result<bool> {
    match directory.stat_nofollow(name) {
        Ok(stat) => Ok((stat.st_dev, stat.st_ino) == (held.st_dev, held.st_ino)),
        Err(error) if error.kind() == corten_types::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_log_is_set_aside_and_no_line_is_lost() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open_ambient(directory.path()).unwrap();
        for number in 0..6 {
            line(&root, "log", format!("line {number}").as_bytes(), 20).unwrap();
        }
        assert_eq!(root.read("log.1", 100).unwrap(), b"line 0\nline 1\nline 2\n");
        assert_eq!(root.read("log", 100).unwrap(), b"line 3\nline 4\nline 5\n");
    }
}
