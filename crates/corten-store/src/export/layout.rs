//! An OCI layout in a directory as one archive: `oci-archive`, or, with docker's `manifest.json` beside, `docker-archive`.

use std::fs::File;
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_fs::tar::{Builder, Kind, Member};
use corten_types::image_spec::{Descriptor, Document, Index, MANIFEST_SIZE_BYTES_MAX, media_type};
use corten_types::{Digest, Error, ErrorKind, Reference, Result};
use rustix::fs::{FileType, Mode, OFlags};
use serde_json::json;

use crate::add::is_image;
use crate::disk::Temporary;
use crate::export::archive::annotations;
use crate::import::blob_path;
use crate::store::Store;

/// A directory for files in the making; it goes with its owner, however that ends.
#[derive(Debug)]
pub struct Scratch {
    directory: Temporary,
    path: PathBuf,
}

impl Scratch {
    /// Where it lies.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes the layout that was made there as one archive. With `docker`, docker's description of its one image lies
    /// beside, under these names.
    pub fn archive_layout(&self, docker: Option<&[Reference]>, out: &File) -> Result<()> {
        let directory = rustix::io::dup(self.directory.as_fd())
            .map_err(|errno| Error::syscall("dup(<ingest>)", errno.raw_os_error()))?;
        let root = Root::from_fd(directory, &self.path);
        let mut tar = Builder::new(out);
        let described = docker.map(|names| describe(&root, names)).transpose()?;
        for name in ["blobs", "blobs/sha256", "blobs/sha512"] {
            tar.append(&Member::new(format!("{name}/").as_bytes(), Kind::Directory, 0o755, 0), &[][..])?;
            for entry in root.list(name)? {
                append(&mut tar, &root, &format!("{name}/{}", entry.name.to_string_lossy()))?;
            }
        }
        match described {
            None => append(&mut tar, &root, "index.json")?,
            Some(described) => {
                for (name, content) in [("index.json", described.index), ("manifest.json", described.manifest)] {
                    let member = Member::new(name.as_bytes(), Kind::File, 0o644, content.len() as u64);
                    tar.append(&member, content.as_bytes())?;
                }
            }
        }
        append(&mut tar, &root, "oci-layout")?;
        tar.finish()?;
        Ok(())
    }
}

impl Store {
    /// A directory in the store for what is being put together.
    pub fn scratch(&self) -> Result<Scratch> {
        let directory = self.disk().temporary("scratch")?;
        let path = directory.path(self.disk());
        Ok(Scratch { directory, path })
    }
}

/// A regular file of the layout; its directories are written by themselves.
fn append(tar: &mut Builder<&File>, root: &Root, path: &str) -> Result<()> {
    let file = File::from(root.open(path, OFlags::RDONLY | OFlags::NOFOLLOW, Mode::empty())?);
    let stat = rustix::fs::fstat(&file).map_err(|errno| Error::syscall("fstat", errno.raw_os_error()))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
        return Ok(());
    }
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    tar.append(&Member::new(path.as_bytes(), Kind::File, 0o644, size), file)
}

/// What says which image of the layout has which name.
struct Described {
    index: String,
    manifest: String,
}

fn describe(root: &Root, names: &[Reference]) -> Result<Described> {
    let index: Index = serde_json::from_slice(&root.read("index.json", MANIFEST_SIZE_BYTES_MAX)?)
        .map_err(|error| Error::invalid("`index.json` is malformed").caused_by(error))?;
    let [descriptor] = index.manifests.as_slice() else {
        return Err(Error::new(ErrorKind::Internal, "the layout holds more than one image"));
    };
    let read = |digest: &Digest| root.read(blob_path(digest), MANIFEST_SIZE_BYTES_MAX);
    let (config, layers) = match Document::parse(&read(&descriptor.digest)?, Some(&descriptor.media_type))? {
        Document::Manifest(manifest) if is_image(&manifest) => {
            let layers: Vec<String> = manifest.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
            (blob_path(&manifest.config.digest), layers)
        }
        _ => {
            let message = "a docker-archive holds images of one platform, and nothing else";
            return Err(Error::new(ErrorKind::Unsupported, message)
                .hint("write an `oci-archive:`, or choose one image with `--platform`"));
        }
    };
    let named = names.iter().map(|name| Descriptor { annotations: annotations(name), ..descriptor.clone() });
    let manifests: Vec<Descriptor> = if names.is_empty() { vec![descriptor.clone()] } else { named.collect() };
    let tags: Vec<String> = names.iter().map(Reference::familiar).collect();
    Ok(Described {
        index: json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests}).to_string(),
        manifest: json!([{"Config": config, "RepoTags": tags, "Layers": layers}]).to_string(),
    })
}
