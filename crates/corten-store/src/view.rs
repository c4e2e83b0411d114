//! An image's or a container's root, mounted for nobody to see: read by its descriptor, gone with it.

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};

use corten_fs::tar::Builder;
use corten_sys::{Call, namespace};
use corten_types::{Context, Error, ErrorKind, Result};
use rustix::fs::{Mode, OFlags, openat};
use rustix::io::Errno;

use crate::compare::{Difference, Rules, compare};
use crate::disk::Temporary;
use crate::export::tree::append_tree;
use crate::image::Image;
use crate::layer::LayerRow;
use crate::layer::owner::Owners;
use crate::lease::Lease;
use crate::snapshot::Snapshot;
use crate::store::Store;

/// A read-only root that has no place in any directory.
#[derive(Debug)]
pub struct View {
    root: OwnedFd,
    _lease: Lease,
    _empty: Temporary,
}

impl View {
    /// Its root directory.
    pub fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// What differs between this root and another, path by path.
    pub fn differences(&self, other: &Self) -> Result<Vec<Difference>> {
        compare(self.root.as_fd().try_clone_to_owned()?, other.root.as_fd().try_clone_to_owned()?, Rules::Image)
    }

    /// Writes it as a tar.
    pub fn write_tar<W: Write>(&self, out: W) -> Result<W> {
        let mut tar = Builder::new(out);
        append_tree(&mut tar, self.root.as_fd())?;
        tar.finish()
    }
}

impl Store {
    /// The root of an image.
    pub fn view_image(&self, image: &Image) -> Result<View> {
        self.view(|lease| {
            let layers = self.layers()?.kept_by(lease);
            let rows = self.unpacked(image, &layers)?;
            Ok(layers.overlay(&rows))
        })
        .context(|| format!("cannot open the root of image {}", image.id.short()))
    }

    /// The root of a container as it is now, whether it runs or not.
    pub fn view_snapshot(&self, key: &str) -> Result<View> {
        self.view(|_| {
            let Snapshot { mut overlay, .. } = self.snapshot(key)?;
            if !overlay.parts.is_empty() || overlay.lower.iter().any(|dir| dir.as_os_str() == "/") {
                return Err(Error::new(ErrorKind::Unsupported, "its root is this machine's own")
                    .hint("copy what you need with `tar` on the host"));
            }
            // What the container wrote is one more layer to a reader; the mount of the container is left alone.
            if let Some(upper) = overlay.upper.take() {
                overlay.lower.insert(0, upper.dir);
            }
            overlay.volatile = false;
            Ok(overlay)
        })
    }

    fn view(&self, overlay: impl FnOnce(&Lease) -> Result<corten_fs::overlay::Overlay>) -> Result<View> {
        let lease = self.lease("view")?;
        let mut overlay = overlay(&lease)?;
        // Overlay without a writable part wants two layers at least.
        let empty = self.disk().temporary("empty")?;
        let name = "fs";
        empty.create_dir(name, 0o755)?;
        overlay.lower.push(empty.path(self.disk()).join(name));
        let mount = match overlay.create() {
            // In a user namespace one may mount in a mount namespace that belongs to it, and in no other.
            Err(error)
                if error.errno() == Some(Errno::PERM.raw_os_error())
                    && Owners::of_this_process()?.in_user_namespace() =>
            {
                namespace::unshare(namespace::NEWNS).call(|| "unshare(CLONE_NEWNS)")?;
                overlay.create()?
            }
            mount => mount?,
        };
        // A mount's descriptor is a place alone; reading wants the directory.
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = openat(&mount, c".", flags, Mode::empty()).call(|| "openat(<overlay>, \".\")")?;
        Ok(View { root, _lease: lease, _empty: empty })
    }

    /// Bytes of each layer of an image, lowest first; unknown where it is not unpacked.
    pub fn layer_sizes(&self, image: &Image) -> Result<Vec<Option<u64>>> {
        let size = |layer: &crate::image::Layer| -> Result<Option<u64>> {
            let row = match self.database().layer(&layer.diff_id.hex())? {
                None => self.database().layer(&layer.chain_id.hex())?,
                found => found,
            };
            Ok(row.map(|row: LayerRow| row.size))
        };
        image.layers.iter().map(size).collect()
    }
}
