//! Images mounted on the host, for looking into them: read-only, until they are unmounted or the machine restarts.
//!
//! ```text
//! ROOT/store/snapshots/mount-KEY   keeps the image's layers
//! RUN/mounts/KEY.json              image and directory; gone after a restart, as the mount is
//! RUN/mounts/KEY                   the directory, where none was named
//! ```
//!
//! KEY is made of the directory's path, so that one directory has one image at a time.

use std::os::fd::AsFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::atomic::{self, Durability};
use corten_store::{Base, Overlay, PrepareRequest};
use corten_sys::Call;
use corten_types::runtime_spec::parse_document;
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags};
use rustix::mount::UnmountFlags;
use serde::{Deserialize, Serialize};

use crate::engine::Engine;

/// What snapshots of mounted images are named after.
const PREFIX: &str = "mount-";
/// Largest record, bytes.
const RECORD_SIZE_BYTES_MAX: u64 = 64 * 1024;

/// A mounted image.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ImageMount {
    /// The image, as it was named.
    pub image: String,
    /// Its identifier.
    pub id: String,
    /// Where it is.
    pub directory: PathBuf,
}

impl Engine {
    /// Mounts an image, read-only, at an existing directory, or at one of the engine's own.
    pub fn mount_image(&self, name: &str, directory: Option<&Path>) -> Result<ImageMount> {
        self.refuse_rootless()?;
        let image = self.store().resolve(name)?;
        let mounts = self.image_mounts_directory()?;
        self.forget_image_mounts(&mounts)?;
        let directory = match directory {
            Some(directory) => canonical(directory)?,
            None => {
                let own = image.id.hex();
                mounts.create_dir_all(&own, Mode::RWXU)?;
                self.options().run_root.join("mounts").join(own)
            }
        };
        let key = key(&directory);
        let target = Root::open_ambient(&directory)?;
        let request = PrepareRequest { key: &snapshot(&key), base: Base::Image(&image), throwaway: true };
        let prepared = self.store().prepare(request).map_err(|error| match error.kind() {
            ErrorKind::AlreadyExists => {
                Error::new(ErrorKind::Conflict, format!("an image is mounted at `{}` already", directory.display()))
                    .hint(format!("unmount it first: `corten image unmount {}`", directory.display()))
            }
            _ => error,
        })?;
        let mount = ImageMount { image: name.to_owned(), id: image.id.to_string(), directory: directory.clone() };
        let json = serde_json::to_vec(&mount)
            .map_err(|error| Error::new(ErrorKind::Internal, "cannot encode a mount").caused_by(error))?;
        let mounted = atomic::replace(&mounts, &format!("{key}.json"), &json, 0o600, Durability::Volatile)
            .and_then(|()| read_only(prepared.overlay).mount(target.as_fd()));
        if let Err(error) = mounted {
            self.forget_image_mount(&mounts, &key)?;
            return Err(error.context(format!("cannot mount image `{name}` at `{}`", directory.display())));
        }
        Ok(mount)
    }

    /// The mounted images.
    pub fn image_mounts(&self) -> Result<Vec<ImageMount>> {
        let mounts = self.image_mounts_directory()?;
        self.forget_image_mounts(&mounts)?;
        let mut list = Vec::new();
        for key in record_keys(&mounts)? {
            list.extend(read(&mounts, &key)?);
        }
        list.sort_by(|one: &ImageMount, two| one.directory.cmp(&two.directory));
        Ok(list)
    }

    /// Unmounts what `name` means: a directory, or an image at every place where it is mounted.
    pub fn unmount_image(&self, name: &str) -> Result<Vec<ImageMount>> {
        self.refuse_rootless()?;
        let by_path = canonical(Path::new(name)).ok();
        let id = self.store().resolve(name).ok().map(|image| image.id.to_string());
        let is_meant = |mount: &ImageMount| {
            by_path.as_ref() == Some(&mount.directory) || id.as_ref() == Some(&mount.id) || mount.image == name
        };
        let found: Vec<ImageMount> = self.image_mounts()?.into_iter().filter(is_meant).collect();
        if found.is_empty() {
            return Err(Error::new(ErrorKind::NotFound, format!("no image is mounted as `{name}`"))
                .hint("`corten image mount` lists what is"));
        }
        let mounts = self.image_mounts_directory()?;
        for mount in &found {
            let path = &mount.directory;
            match rustix::mount::unmount(path, UnmountFlags::NOFOLLOW) {
                // Somebody unmounted it by hand.
                Ok(()) | Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
                result => result.call(|| format!("umount2({path:?}, UMOUNT_NOFOLLOW)"))?,
            }
            self.forget_image_mount(&mounts, &key(path))?;
        }
        Ok(found)
    }

    fn refuse_rootless(&self) -> Result<()> {
        match self.options().rootless {
            None => Ok(()),
            Some(_) => Err(Error::new(ErrorKind::Unsupported, "an ordinary user cannot mount images on the host")
                .hint("look into one by running it: `corten run --rm -it IMAGE sh`")),
        }
    }

    fn image_mounts_directory(&self) -> Result<Root> {
        let run = Root::open_ambient(&self.options().run_root)?.beneath();
        run.create_dir_all("mounts", Mode::RWXU)?;
        run.sub_root("mounts")
    }

    /// Takes back what a restart of the machine or a kill left: snapshots without a record.
    fn forget_image_mounts(&self, mounts: &Root) -> Result<()> {
        for name in self.store().snapshots()? {
            let Some(key) = name.strip_prefix(PREFIX) else { continue };
            if !mounts.exists(format!("{key}.json"))? {
                self.store().remove_snapshot(&name)?;
            }
        }
        Ok(())
    }

    fn forget_image_mount(&self, mounts: &Root, key: &str) -> Result<()> {
        let directory = read(mounts, key)?.map(|mount| mount.directory);
        self.store().remove_snapshot(&snapshot(key))?;
        if let Some(name) = directory.as_deref().and_then(Path::file_name)
            && directory == Some(self.options().run_root.join("mounts").join(name))
        {
            // Its own directory; one that is still busy stays.
            drop(mounts.remove_dir(name));
        }
        mounts.remove_all(format!("{key}.json"))
    }
}

/// The image alone: the writable directory, which is empty and looks as the root does, is its topmost layer.
fn read_only(mut overlay: Overlay) -> Overlay {
    if let Some(upper) = overlay.upper.take() {
        overlay.lower.insert(0, upper.dir);
    }
    Overlay { volatile: false, ..overlay }
}

fn canonical(directory: &Path) -> Result<PathBuf> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(directory, flags, Mode::empty())
        .call(|| format!("open({directory:?}, O_DIRECTORY)"))
        .context(|| format!("cannot use the directory `{}`", directory.display()))?;
    let link = rustix::fs::readlink(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&open)), Vec::new());
    Ok(PathBuf::from(std::ffi::OsStr::from_bytes(link.call(|| "readlink(<directory>)")?.as_bytes())))
}

fn snapshot(key: &str) -> String {
    format!("{PREFIX}{key}")
}

/// A short name of a path: FNV-1a, twice over for 128 bits. Paths are the administrator's own.
fn key(directory: &Path) -> String {
    let hash = |seed: u64| {
        directory
            .as_os_str()
            .as_bytes()
            .iter()
            .fold(seed, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
    };
    format!("{:016x}{:016x}", hash(0xcbf2_9ce4_8422_2325), hash(0x9ae1_6a3b_2f90_404f))
}

fn record_keys(mounts: &Root) -> Result<Vec<String>> {
    let names = mounts.list(".")?.into_iter().map(|entry| entry.name.to_string_lossy().into_owned());
    Ok(names.filter_map(|name| name.strip_suffix(".json").map(str::to_owned)).collect())
}

fn read(mounts: &Root, key: &str) -> Result<Option<ImageMount>> {
    match mounts.read(format!("{key}.json"), RECORD_SIZE_BYTES_MAX) {
        Ok(json) => parse_document(&json, "mount").map(Some),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
