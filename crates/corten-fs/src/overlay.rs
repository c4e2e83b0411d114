//! Overlay mounts as values: decided by the store, carried as mount options (the form shim v2 uses), mounted by the
//! supervisor.
//!
//! Layers are handed to the kernel one by one (`lowerdir+`, Linux 6.7), so that neither their number nor the characters
//! of their names matter. Older kernels get `lowerdir=` in one string, of `/proc/self/fd` names where the real ones would
//! not fit.

use std::ffi::{CStr, CString, OsStr};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::{Root, erofs};
use corten_sys::Call;
use corten_types::{Error, ErrorKind, Result};
use rustix::fs::{AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
    fsconfig_set_fd, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount, unmount,
};

/// Longest value that fsconfig(2) takes, without its NUL.
const VALUE_LENGTH_MAX: usize = 255;
/// Longest option string that mount(2) takes.
const OPTIONS_LENGTH_MAX: usize = 4095;

/// Said to every overlay, where the kernel knows the word:
/// no index (layers are shared by overlays, and an index ties them to one), and neither metacopy nor redirects (a layer
/// from outside could use them to show what lies elsewhere in it).
const FIXED: [(&CStr, &CStr); 3] = [(c"index", c"off"), (c"metacopy", c"off"), (c"redirect_dir", c"nofollow")];

/// Name of an EROFS image's index. A lower layer with this name is not a directory but an image, mounted for the overlay
/// alone; the content of its files is in the file [`DATA`] beside it.
pub const INDEX: &str = "index.erofs";
/// Name of the file with the content of an image's files.
pub const DATA: &str = "tar";

/// One overlay file system, not mounted yet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Overlay {
    /// Read-only directories, or images ([`INDEX`]), topmost first.
    pub lower: Vec<PathBuf>,
    /// Where writes go; without it the mount is read-only.
    pub upper: Option<Upper>,
    /// Overlay's own attributes are `user.overlay.*`: the only form a user namespace may write.
    pub user_xattr: bool,
    /// fsync inside does nothing and unmounting does not wait for the disk: for trees that go with their container.
    pub volatile: bool,
    /// Directories of the host's root that are overlays of their own, on top of this one: `usr` has `/usr` below it and
    /// `parts/usr/upper` and `parts/usr/work` beside this overlay's upper directory. A user namespace needs that for `/`:
    /// the kernel refuses a lower directory with mounts beneath that the namespace may not undo.
    pub parts: Vec<PathBuf>,
    /// Other options, `name` or `name=value`, as another program's snapshot asks for them.
    pub extra: Vec<String>,
}

/// The option that carries a part; the kernel never sees it.
const PART: &str = "x-corten.part";

/// What belongs to a mounted overlay: its images, which other processes find here.
#[derive(Debug, Default)]
pub struct Kept {
    _images: Vec<Option<OwnedFd>>,
}

/// The writable part of an overlay: two directories on one file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Upper {
    /// Receives what changes.
    pub dir: PathBuf,
    /// The kernel's scratch space.
    pub work: PathBuf,
}

impl Overlay {
    /// Mount options in containerd's form: `lowerdir=A:B`, `upperdir=…`, `workdir=…`, flags; one per entry.
    pub fn options(&self) -> Vec<String> {
        let lower: Vec<String> = self.lower.iter().map(|path| escape(path)).collect();
        let mut options = vec![format!("lowerdir={}", lower.join(":"))];
        if let Some(upper) = &self.upper {
            options.push(format!("upperdir={}", upper.dir.display()));
            options.push(format!("workdir={}", upper.work.display()));
        }
        if self.user_xattr {
            options.push("userxattr".to_owned());
        }
        if self.volatile {
            options.push("volatile".to_owned());
        }
        options.extend(self.parts.iter().map(|part| format!("{PART}={}", part.display())));
        options.extend(self.extra.iter().cloned());
        options
    }

    /// The reverse of [`Overlay::options`].
    pub fn parse(options: &[String]) -> Result<Self> {
        let mut overlay = Self::default();
        let (mut dir, mut work) = (None, None);
        for option in options {
            match option.split_once('=') {
                Some(("lowerdir", value)) => overlay.lower = unescape(value),
                Some(("lowerdir+", value)) => overlay.lower.push(PathBuf::from(value)),
                Some(("upperdir", value)) => dir = Some(PathBuf::from(value)),
                Some(("workdir", value)) => work = Some(PathBuf::from(value)),
                Some((PART, value)) => overlay.parts.push(part_path(value)?),
                None if option == "userxattr" => overlay.user_xattr = true,
                None if option == "volatile" => overlay.volatile = true,
                // What every overlay is told anyway.
                Some((name, value)) if is_fixed(name, value) => {}
                _ => overlay.extra.push(option.clone()),
            }
        }
        overlay.upper = match (dir, work) {
            (Some(dir), Some(work)) => Some(Upper { dir, work }),
            (None, None) => None,
            _ => return Err(Error::invalid("overlay has only one of `upperdir` and `workdir`")),
        };
        if overlay.lower.is_empty() {
            return Err(Error::invalid("overlay has no `lowerdir`"));
        }
        Ok(overlay)
    }

    /// Makes the file system, attached nowhere yet: move it with `move_mount`, or into a new mount namespace.
    pub fn create(&self) -> Result<OwnedFd> {
        self.create_over(&self.images()?, false)
    }

    /// Mounts the lower layers that are images; `None` for directories.
    fn images(&self) -> Result<Vec<Option<OwnedFd>>> {
        let is_image = |lower: &PathBuf| lower.file_name() == Some(OsStr::new(INDEX));
        let mount = |lower: &PathBuf| erofs::mount_shared(lower, &lower.with_file_name(DATA));
        self.lower.iter().map(|lower| is_image(lower).then(|| mount(lower)).transpose()).collect()
    }

    /// `by_name`: images are attached somewhere, and are named by their descriptors as any directory could be.
    fn create_over(&self, images: &[Option<OwnedFd>], by_name: bool) -> Result<OwnedFd> {
        self.forget_crash()?;
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC).call(|| "fsopen(\"overlay\")")?;
        let result = self.configure(context.as_fd(), images, by_name).and_then(|()| {
            fsconfig_create(context.as_fd()).call(|| "fsconfig(<overlay>, FSCONFIG_CMD_CREATE)")?;
            fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
                .call(|| "fsmount(<overlay>)")
        });
        result.map_err(|error| self.explain(error, &messages(context.as_fd())))
    }

    /// Mounts it, and its parts, onto the directory `target` is open on. What comes back is to be kept as long as the
    /// overlay is in use, so that others share the memory of its images.
    pub fn mount(&self, target: BorrowedFd<'_>) -> Result<Kept> {
        let Some(upper) = self.upper.as_ref().filter(|_| !self.parts.is_empty()) else {
            return self.mount_one(target);
        };
        let images = self.images()?;
        let tree = self.create_over(&images, false)?;
        attach(tree.as_fd(), target)?;
        let root = Root::from_fd(tree, "overlay").beneath();
        for part in &self.parts {
            let beside = upper.dir.with_file_name("parts").join(part);
            let overlay = Self {
                lower: vec![Path::new("/").join(part)],
                upper: Some(Upper { dir: beside.join("upper"), work: beside.join("work") }),
                parts: Vec::new(),
                ..self.clone()
            };
            let place = root.open_path(part)?;
            overlay.mount_one(place.as_fd()).map_err(|error| error.context(format!("`/{}`", part.display())))?;
        }
        Ok(Kept { _images: images })
    }

    fn mount_one(&self, target: BorrowedFd<'_>) -> Result<Kept> {
        let images = self.images()?;
        let mounted = match self.create_over(&images, false) {
            Ok(tree) => attach(tree.as_fd(), target),
            Err(error) => {
                let has_images = images.iter().any(Option::is_some);
                let again = match error.errno() {
                    Some(libc_errno::EINVAL) if has_images => self.mount_over_attached(&images, target),
                    // The old call knows nothing that the new ones refuse for a reason other than age or a sandbox's
                    // filter.
                    Some(libc_errno::EINVAL | libc_errno::ENOSYS | libc_errno::EPERM) if !has_images => {
                        self.mount_classic(target)
                    }
                    _ => return Err(error),
                };
                again.map_err(|_| error)
            }
        };
        mounted.map(|()| Kept { _images: images })
    }

    /// For kernels that take no mount as a layer that is attached nowhere (before Linux 6.15): images are attached to the
    /// target for the moment in which the overlay is made.
    fn mount_over_attached(&self, images: &[Option<OwnedFd>], target: BorrowedFd<'_>) -> Result<()> {
        let mut attached = Vec::new();
        let mut result = Ok(());
        for image in images.iter().flatten() {
            result = attach(image.as_fd(), target);
            if result.is_err() {
                break;
            }
            attached.push(image);
        }
        let tree = result.and_then(|()| self.create_over(images, true));
        for image in attached.into_iter().rev() {
            let path = format!("/proc/self/fd/{}", image.as_raw_fd());
            unmount(path.as_str(), UnmountFlags::DETACH).call(|| format!("umount2({path:?}, MNT_DETACH)"))?;
        }
        attach(tree?.as_fd(), target)
    }

    /// mount(2), for kernels whose overlay has no `lowerdir+` or no fsopen(2).
    fn mount_classic(&self, target: BorrowedFd<'_>) -> Result<()> {
        let mut handles = Vec::new();
        let mut data = self.classic_data(|path| Ok(escape(path)))?;
        // A comma ends an option, and nothing protects it.
        let upper = self.upper.iter().flat_map(|upper| [&upper.dir, &upper.work]);
        let commas = self.lower.iter().chain(upper).any(|path| path.as_os_str().as_bytes().contains(&b','));
        if commas || data.len() > OPTIONS_LENGTH_MAX {
            data = self.classic_data(|path| handle(path, &mut handles))?;
        }
        let data = CString::new(data).map_err(|_| Error::invalid("a path contains NUL"))?;
        let target = format!("/proc/self/fd/{}", target.as_raw_fd());
        mount("overlay", target.as_str(), "overlay", MountFlags::empty(), data.as_c_str())
            .call(|| format!("mount(\"overlay\", {target:?}, \"overlay\", 0, {data:?})"))
    }

    fn classic_data(&self, mut name: impl FnMut(&Path) -> Result<String>) -> Result<String> {
        let lower = self.lower.iter().map(|path| name(path)).collect::<Result<Vec<_>>>()?;
        let mut data = format!("lowerdir={}", lower.join(":"));
        if let Some(upper) = &self.upper {
            data.push_str(&format!(",upperdir={},workdir={}", name(&upper.dir)?, name(&upper.work)?));
        }
        if self.user_xattr {
            data.push_str(",userxattr");
        }
        for option in &self.extra {
            data.push(',');
            data.push_str(option);
        }
        Ok(data)
    }

    fn configure(&self, context: BorrowedFd<'_>, images: &[Option<OwnedFd>], by_name: bool) -> Result<()> {
        let mut handles = Vec::new();
        let mut set = |name: &str, path: &Path| {
            let value = if path.as_os_str().len() > VALUE_LENGTH_MAX {
                CString::new(handle(path, &mut handles)?)
            } else {
                CString::new(path.as_os_str().as_bytes())
            };
            let value = value.map_err(|_| Error::invalid("a path contains NUL"))?;
            fsconfig_set_string(context, name, &value)
                .call(|| format!("fsconfig(<overlay>, FSCONFIG_SET_STRING, {name:?}, {value:?})"))
        };
        for (lower, image) in self.lower.iter().zip(images) {
            match image {
                Some(image) if by_name => set("lowerdir+", Path::new(&format!("/proc/self/fd/{}", image.as_raw_fd())))?,
                Some(image) => fsconfig_set_fd(context, "lowerdir+", image.as_fd())
                    .call(|| format!("fsconfig(<overlay>, FSCONFIG_SET_FD, \"lowerdir+\", {lower:?})"))?,
                None => set("lowerdir+", lower)?,
            }
        }
        if images.iter().any(Option::is_some) && self.extra.iter().all(|option| !option.starts_with("xino")) {
            // Layers on file systems of their own: without it their files would show other device numbers than their
            // directories, and `du -x` and the like would leave them out.
            optional(fsconfig_set_string(context, "xino", "on")).call(|| "fsconfig(<overlay>, \"xino\")")?;
        }
        if let Some(upper) = &self.upper {
            set("upperdir", &upper.dir)?;
            set("workdir", &upper.work)?;
        }
        for (name, value) in FIXED {
            // In the form for user namespaces the kernel fixes these itself and takes naming them for a conflict.
            if !self.user_xattr || name == c"index" {
                optional(fsconfig_set_string(context, name, value))
                    .call(|| format!("fsconfig(<overlay>, {name:?})"))?;
            }
        }
        if self.user_xattr {
            fsconfig_set_flag(context, "userxattr").call(|| "fsconfig(<overlay>, FSCONFIG_SET_FLAG, \"userxattr\")")?;
        }
        if self.volatile && self.upper.is_some() {
            optional(fsconfig_set_flag(context, "volatile")).call(|| "fsconfig(<overlay>, \"volatile\")")?;
        }
        for option in &self.extra {
            match option.split_once('=') {
                Some((name, value)) => fsconfig_set_string(context, name, value),
                None => fsconfig_set_flag(context, option.as_str()),
            }
            .call(|| format!("fsconfig(<overlay>, {option:?})"))?;
        }
        // The classic name of the source, shown in /proc/mounts.
        optional(fsconfig_set_string(context, "source", "overlay")).call(|| "fsconfig(<overlay>, \"source\")")
    }

    /// A volatile overlay marks its work directory, and the kernel refuses the mark after a crash. What is thrown away
    /// with its container may be mounted again by a restarted supervisor.
    fn forget_crash(&self) -> Result<()> {
        let Some(upper) = self.upper.as_ref().filter(|_| self.volatile) else { return Ok(()) };
        let mark = upper.work.join("work/incompat/volatile");
        let steps = [
            (mark.join("dirty"), AtFlags::empty()),
            (mark.clone(), AtFlags::REMOVEDIR),
            (upper.work.join("work/incompat"), AtFlags::REMOVEDIR),
        ];
        for (path, flags) in steps {
            match rustix::fs::unlinkat(CWD, &path, flags) {
                Ok(()) | Err(Errno::NOENT) => {}
                result => result.call(|| format!("unlinkat({path:?})"))?,
            }
        }
        Ok(())
    }

    fn explain(&self, error: Error, messages: &[String]) -> Error {
        let mut error = error;
        if !messages.is_empty() {
            error = error.context(format!("the kernel says: {}", messages.join("; ")));
        }
        if error.kind() == ErrorKind::Denied && self.user_xattr {
            error = error.hint("overlay in a user namespace needs Linux 5.11");
        }
        error
    }
}

mod libc_errno {
    pub(super) const EPERM: i32 = 1;
    pub(super) const EINVAL: i32 = 22;
    pub(super) const ENOSYS: i32 = 38;
}

fn attach(tree: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(tree, c"", target, c"", flags).call(|| "move_mount(<overlay>, <target>)")
}

fn part_path(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    let plain = path.components().all(|component| matches!(component, std::path::Component::Normal(_)));
    if text.is_empty() || !plain {
        return Err(Error::invalid(format!("`{text}` is no part of a root")));
    }
    Ok(path)
}

/// An option that an older kernel may not know.
fn optional(result: rustix::io::Result<()>) -> rustix::io::Result<()> {
    match result {
        Err(Errno::INVAL) => Ok(()),
        result => result,
    }
}

fn is_fixed(name: &str, value: &str) -> bool {
    FIXED.iter().any(|(fixed, off)| fixed.to_bytes() == name.as_bytes() && off.to_bytes() == value.as_bytes())
}

/// A short name of the directory, valid while `handles` is.
fn handle(path: &Path, handles: &mut Vec<OwnedFd>) -> Result<String> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let dir = rustix::fs::open(path, flags, Mode::empty()).call(|| format!("open({path:?}, O_PATH)"))?;
    let name = format!("/proc/self/fd/{}", dir.as_raw_fd());
    handles.push(dir);
    Ok(name)
}

/// What the kernel has to say about a failed configuration (fsopen(2): messages read from the context).
pub(crate) fn messages(context: BorrowedFd<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    let mut buffer = [0u8; 512];
    while let Ok(length) = rustix::io::read(context, &mut buffer)
        && length > 0
        && lines.len() < 16
    {
        let line = String::from_utf8_lossy(&buffer[..length]);
        lines.push(line.trim_end().trim_start_matches(['e', 'w', 'i']).trim_start().to_owned());
    }
    lines
}

/// Colons separate layers; a backslash protects one.
fn escape(path: &Path) -> String {
    let mut text = String::new();
    for character in path.to_string_lossy().chars() {
        if matches!(character, ':' | '\\') {
            text.push('\\');
        }
        text.push(character);
    }
    text
}

fn unescape(text: &str) -> Vec<PathBuf> {
    let mut paths = vec![Vec::new()];
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        match (byte, paths.last_mut()) {
            (b':', _) => paths.push(Vec::new()),
            (b'\\', Some(path)) => path.extend(bytes.next()),
            (byte, Some(path)) => path.push(byte),
            (_, None) => {}
        }
    }
    paths.into_iter().filter(|path| !path.is_empty()).map(|path| PathBuf::from(OsStr::from_bytes(&path))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_round_trip_with_odd_names() {
        let overlay = Overlay {
            lower: vec!["/a:b".into(), "/c\\d".into(), "/e,f".into()],
            upper: Some(Upper { dir: "/u:1".into(), work: "/w".into() }),
            user_xattr: true,
            volatile: true,
            parts: vec!["usr".into()],
            extra: vec!["xino=off".to_owned()],
        };
        let options = overlay.options();
        assert_eq!(options[0], "lowerdir=/a\\:b:/c\\\\d:/e,f");
        assert_eq!(Overlay::parse(&options).unwrap(), overlay);
    }

    #[test]
    fn containerd_options_are_understood() {
        let options = ["index=off", "workdir=/w", "upperdir=/u", "lowerdir=/a:/b"].map(str::to_owned);
        let overlay = Overlay::parse(&options).unwrap();
        assert_eq!(overlay.lower, [PathBuf::from("/a"), PathBuf::from("/b")]);
        assert!(overlay.extra.is_empty());
        assert!(Overlay::parse(&["upperdir=/u".to_owned()]).is_err());
    }

    /// Both ways to mount, with more layers than one page of options names in full, and odd names among them.
    #[test]
    fn old_and_new_calls_mount_the_same() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let mut lower = Vec::new();
        for number in 0..100 {
            let layer = dir.path().join(format!("layer:{number},{}", "x".repeat(60)));
            std::fs::create_dir(&layer).unwrap();
            std::fs::write(layer.join(format!("file-{number}")), "x").unwrap();
            lower.push(layer);
        }
        for name in ["upper", "work", "target"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let upper = Some(Upper { dir: dir.path().join("upper"), work: dir.path().join("work") });
        let overlay = Overlay { lower, upper, ..Overlay::default() };
        let target = dir.path().join("target");
        let classic =
            |overlay: &Overlay, target: BorrowedFd<'_>| overlay.mount_classic(target).map(|()| Kept::default());
        for mount in [Overlay::mount, classic] {
            mount(&overlay, std::fs::File::open(&target).unwrap().as_fd()).unwrap();
            let seen = std::fs::read_dir(&target).unwrap().count();
            rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty()).unwrap();
            assert_eq!(seen, 100);
        }
        assert!(overlay.images().unwrap().iter().all(Option::is_none));
        let missing = Overlay { lower: vec!["/nowhere".into()], ..overlay };
        let error = missing.mount(std::fs::File::open(&target).unwrap().as_fd()).unwrap_err();
        assert!(error.one_line().contains("/nowhere"), "{error:?}");
    }

    /// Images below directories and directories below images, by both ways of naming an image.
    #[test]
    fn images_are_layers_too() {
        let dir = tempfile::tempdir().unwrap();
        if !rustix::process::geteuid().is_root() || erofs::is_supported(dir.path()).is_err() {
            return;
        }
        let mut lower = Vec::new();
        for (number, hides) in [(0, None), (1, Some("file-0")), (2, None)] {
            let layer = dir.path().join(format!("layer-{number}"));
            std::fs::create_dir(&layer).unwrap();
            let create = |name| std::fs::File::create_new(layer.join(name)).unwrap();
            let (index, tar) = (create(INDEX), create(DATA));
            tar.set_len(1024).unwrap();
            let mut tree = erofs::Tree::new(&erofs::Budget::new(1 << 20));
            let attributes =
                erofs::Attributes { mode: 0o644, uid: 0, gid: 0, mtime: crate::tar::Time::default(), xattrs: &[] };
            let content = erofs::Content { offset: 0, size: 600, segments: None };
            tree.file(format!("file-{number}").as_bytes(), &attributes, &content).unwrap();
            if let Some(name) = hides {
                tree.whiteout(b"", name.as_bytes()).unwrap();
            }
            tree.write(&index, &tar, 1024, [0; 16]).unwrap().unwrap();
            lower.push(layer.join(INDEX));
        }
        let plain = dir.path().join("plain");
        std::fs::create_dir(&plain).unwrap();
        std::fs::write(plain.join("file-2"), "plain").unwrap();
        lower.reverse();
        lower.insert(1, plain);
        for name in ["upper", "work", "target"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let upper = Some(Upper { dir: dir.path().join("upper"), work: dir.path().join("work") });
        let overlay = Overlay { lower, upper, ..Overlay::default() };
        let target = dir.path().join("target");
        let attached = |overlay: &Overlay, target: BorrowedFd<'_>| {
            let images = overlay.images()?;
            overlay.mount_over_attached(&images, target).map(|()| Kept { _images: images })
        };
        for mount in [Overlay::mount, attached] {
            mount(&overlay, std::fs::File::open(&target).unwrap().as_fd()).unwrap();
            let mut seen: Vec<_> =
                std::fs::read_dir(&target).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            seen.sort();
            let devices = ["", "file-1", "file-2"].map(|name| {
                std::os::unix::fs::MetadataExt::dev(&std::fs::symlink_metadata(target.join(name)).unwrap())
            });
            let size = std::fs::read(target.join("file-2")).unwrap().len();
            std::fs::write(target.join("file-1"), "written").unwrap();
            rustix::mount::unmount(&target, UnmountFlags::empty()).unwrap();
            assert_eq!(seen, ["file-1", "file-2"]);
            assert_eq!(size, 600);
            assert!(devices.iter().all(|device| *device == devices[0]), "{devices:?}");
            let still = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
            assert!(!still.contains(dir.path().to_str().unwrap()), "{still}");
        }
    }
}
