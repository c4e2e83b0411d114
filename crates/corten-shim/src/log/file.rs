//! A log in files of limited size.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use corten_fs::Root;
use corten_fs::atomic::write_all;
use corten_log::{Backwards, Form};
use corten_sys::Call;
use corten_types::shim::LogOptions;
use corten_types::{Context, Error, Result};
use rustix::fs::{Mode, OFlags, RenameFlags};
use rustix::process::Pid;

/// The files of one log.
#[derive(Debug)]
pub(super) struct Log {
    directory: Root,
    path: PathBuf,
    name: String,
    file: OwnedFd,
    size_bytes: u64,
    size_bytes_max: u64,
    files_max: u32,
    compresses: bool,
    /// The child that compresses `NAME.1`: until it has ended, nothing is rotated.
    compressor: Option<Pid>,
    drops: u64,
}

impl Log {
    pub(super) fn open(directory: &Root, path: &Path, name: String, options: &LogOptions) -> Result<Self> {
        let file = open(directory, &name).context(|| format!("cannot open the log `{name}`"))?;
        let size_bytes = mend(&file, options).context(|| format!("cannot open the log `{name}`"))?;
        Ok(Self {
            directory: directory.try_clone()?,
            path: path.to_path_buf(),
            name,
            file,
            size_bytes,
            size_bytes_max: options.size_bytes_max,
            files_max: options.files_max.max(1),
            compresses: options.compresses,
            compressor: None,
            drops: 0,
        })
    }

    /// Adds whole records.
    pub(super) fn append(&mut self, records: &[u8]) {
        if records.is_empty() {
            return;
        }
        if write_all(self.file.as_fd(), records).is_err() {
            // A full disk loses lines of the log; it must not stop the container. A part of a record is taken back.
            self.drops += 1;
            rustix::fs::ftruncate(&self.file, self.size_bytes).ok();
            return;
        }
        self.size_bytes += records.len() as u64;
        if self.size_bytes_max > 0 && self.size_bytes >= self.size_bytes_max && self.compressor.is_none() {
            // Where the names cannot be changed, the file grows on.
            self.rotate().ok();
        }
    }

    pub(super) fn drops(&self) -> u64 {
        self.drops
    }

    pub(super) fn reaped(&mut self, pid: Pid) {
        if self.compressor == Some(pid) {
            self.compressor = None;
        }
    }

    fn rotate(&mut self) -> Result<()> {
        if self.files_max == 1 {
            self.directory.remove_file(&self.name)?;
        }
        for number in (1..self.files_max).rev() {
            let older = |suffix: &str| format!("{}.{number}{suffix}", self.name);
            if number + 1 == self.files_max {
                for suffix in ["", ".gz"] {
                    self.directory.remove_file(older(suffix)).ok();
                }
            } else {
                for suffix in ["", ".gz"] {
                    let newer = format!("{}.{}{suffix}", self.name, number + 1);
                    self.directory.rename(older(suffix), newer, RenameFlags::empty()).ok();
                }
            }
        }
        if self.files_max > 1 {
            self.directory.rename(&self.name, format!("{}.1", self.name), RenameFlags::empty())?;
        }
        self.file = open(&self.directory, &self.name)?;
        self.size_bytes = 0;
        if self.compresses && self.files_max > 1 {
            self.compressor = start_compressor(&self.path.join(format!("{}.1", self.name)));
        }
        Ok(())
    }
}

fn open(directory: &Root, name: &str) -> Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CREATE | OFlags::NOFOLLOW;
    directory.open(name, flags, Mode::from_raw_mode(0o640))
}

/// Takes away what a killed supervisor or machine left of a record at the end; the file's size.
fn mend(file: &OwnedFd, options: &LogOptions) -> Result<u64> {
    let stat = rustix::fs::fstat(file).call(|| "fstat(<log>)")?;
    let size_bytes = u64::try_from(stat.st_size).unwrap_or(0);
    let Some(form) = Form::of(options.driver).filter(|_| size_bytes > 0) else { return Ok(size_bytes) };
    let file = std::fs::File::from(file.try_clone()?);
    let whole_bytes = corten_log::whole_size_bytes(form, &mut ReadAt(&file), size_bytes)?;
    if whole_bytes < size_bytes {
        file.set_len(whole_bytes)?;
    }
    Ok(whole_bytes)
}

/// A file that is read at any place.
struct ReadAt<'a>(&'a std::fs::File);

impl Backwards for ReadAt<'_> {
    fn read_at(&mut self, buffer: &mut [u8], offset: u64) -> std::io::Result<()> {
        self.0.read_exact_at(buffer, offset)
    }
}

/// In a process of its own, because the container's output must go on meanwhile.
fn start_compressor(path: &Path) -> Option<Pid> {
    let child = Command::new("/proc/self/exe")
        .args(["shim", "compress"])
        .arg(path)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .ok()?;
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

/// Replaces `path` by `path.gz`: written beside, then renamed.
pub(crate) fn compress(path: &Path) -> Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err(Error::invalid(format!("`{}` names no file", path.display())));
    };
    let directory = Root::open_ambient(parent)?.beneath();
    let source = directory.open(name, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?;
    let beside = format!(".{name}.gz.new");
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
    let target = directory.open(&beside, flags, Mode::from_raw_mode(0o640))?;
    let mut encoder = flate2::write::GzEncoder::new(std::fs::File::from(target), flate2::Compression::fast());
    std::io::copy(&mut std::fs::File::from(source), &mut encoder).context(|| "cannot compress the log")?;
    encoder.finish().context(|| "cannot compress the log")?;
    directory.rename(&beside, format!("{name}.gz"), RenameFlags::empty())?;
    directory.remove_file(name)
}
