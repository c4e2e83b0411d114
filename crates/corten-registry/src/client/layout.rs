//! Images in directories: an OCI layout (`oci:DIR[:TAG]`) and skopeo's plain form (`dir:DIR`).
//!
//! ```text
//! oci:   oci-layout, index.json, blobs/sha256/HEX
//! dir:   version, manifest.json, HEX.manifest.json of each member of an index, HEX of each blob
//! ```

use std::fs::File;
use std::io::Read;
use std::os::fd::AsFd;
use std::path::Path;

use corten_fs::Root;
use corten_fs::atomic::{self, Durability};
use corten_sys::Call;
use corten_types::image_spec::{Descriptor, Index, MANIFEST_SIZE_BYTES_MAX, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Result};
use rustix::fs::{AtFlags, Mode, OFlags};

use super::manifests::{Fetched, digest_of};

/// The annotation that names an image of a layout.
const NAME: &str = "org.opencontainers.image.ref.name";
/// What skopeo writes into `version`.
const VERSION: &[u8] = b"Directory Transport Version: 1.1\n";

/// Which of the two forms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    Oci,
    Dir,
}

/// A directory that holds images.
#[derive(Debug)]
pub(crate) struct Layout {
    root: Root,
    form: Form,
    tag: Option<String>,
}

impl Layout {
    /// Opens one for reading.
    pub(crate) fn open(directory: &Path, form: Form, tag: Option<String>) -> Result<Self> {
        let root = Root::open_ambient(directory).context(|| format!("cannot open `{}`", directory.display()))?;
        Ok(Self { root, form, tag })
    }

    /// Makes or opens one for writing.
    pub(crate) fn create(directory: &Path, form: Form, tag: Option<String>) -> Result<Self> {
        let named = || format!("cannot make `{}`", directory.display());
        let whole = Root::open_ambient(Path::new("/"))?;
        let below = directory.strip_prefix("/").unwrap_or(directory);
        whole.create_dir_all(below, Mode::from_raw_mode(0o755)).context(named)?;
        let layout = Self::open(directory, form, tag)?;
        match form {
            Form::Oci => {
                layout.root.create_dir_all("blobs/sha256", Mode::from_raw_mode(0o755)).context(named)?;
                layout.root.create_dir_all("blobs/sha512", Mode::from_raw_mode(0o755)).context(named)?;
                layout.write("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
            }
            Form::Dir => layout.write("version", VERSION)?,
        }
        Ok(layout)
    }

    fn directory(&self) -> Result<rustix::fd::OwnedFd> {
        self.root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    fn write(&self, name: &str, content: &[u8]) -> Result<()> {
        atomic::replace(&self.directory()?, name, content, 0o644, Durability::Durable)
    }

    fn path(&self, digest: &Digest) -> String {
        match self.form {
            Form::Oci => format!("blobs/{}/{}", digest.algorithm().as_str(), digest.hex()),
            Form::Dir => digest.hex(),
        }
    }

    /// The manifest or index that the directory, or its tag, stands for.
    pub(crate) fn top(&self) -> Result<Fetched> {
        if self.form == Form::Dir {
            let bytes = self.root.read("manifest.json", MANIFEST_SIZE_BYTES_MAX)?;
            return described(bytes, None);
        }
        let index = self.index()?;
        let named = |descriptor: &&Descriptor| match &self.tag {
            Some(tag) => descriptor.annotations.get(NAME).is_some_and(|name| name == tag),
            None => true,
        };
        let found: Vec<&Descriptor> = index.manifests.iter().filter(named).collect();
        match (found.as_slice(), &self.tag) {
            ([one], _) => self.member(one),
            ([], Some(tag)) => Err(Error::new(ErrorKind::NotFound, format!("there is no image `{tag}` in the layout"))),
            ([], None) => Err(Error::new(ErrorKind::NotFound, "the layout holds no image")),
            (several, _) => {
                let names = several.iter().filter_map(|descriptor| descriptor.annotations.get(NAME));
                let names: Vec<&str> = names.map(String::as_str).take(20).collect();
                Err(Error::invalid("the layout holds several images").hint(format!("choose one: {}", names.join(", "))))
            }
        }
    }

    fn index(&self) -> Result<Index> {
        let bytes = self.root.read("index.json", MANIFEST_SIZE_BYTES_MAX)?;
        serde_json::from_slice(&bytes).map_err(|error| Error::invalid(format!("`index.json` is malformed: {error}")))
    }

    /// A manifest or an index by what points to it, verified.
    pub(crate) fn member(&self, descriptor: &Descriptor) -> Result<Fetched> {
        let path = match self.form {
            Form::Oci => self.path(&descriptor.digest),
            Form::Dir => format!("{}.manifest.json", descriptor.digest.hex()),
        };
        let bytes = self.root.read(path, MANIFEST_SIZE_BYTES_MAX)?;
        let found = digest_of(descriptor.digest.algorithm(), &bytes);
        if found != descriptor.digest {
            return Err(Error::new(ErrorKind::Corrupt, format!("expected {}, found {found}", descriptor.digest)));
        }
        Ok(Fetched { bytes, media_type: descriptor.media_type.clone(), digest: descriptor.digest })
    }

    /// A blob, for reading.
    pub(crate) fn blob(&self, digest: &Digest) -> Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK;
        self.root.open(self.path(digest), flags, Mode::empty()).map(File::from)
    }

    /// Whether a blob of this size is here.
    pub(crate) fn has(&self, blob: &Descriptor) -> bool {
        self.root.stat_nofollow(self.path(&blob.digest)).is_ok_and(|stat| u64::try_from(stat.st_size) == Ok(blob.size))
    }

    /// Writes a blob beside, and names it when `fill` has written and verified it.
    pub(crate) fn put(&self, digest: &Digest, fill: impl FnOnce(&mut File) -> Result<()>) -> Result<()> {
        let directory = self.directory()?;
        let beside = format!(".{}.new", digest.hex());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&directory, &*beside, flags, Mode::from_raw_mode(0o644))
            .call(|| format!("openat({beside:?}, O_CREAT)"))?;
        let mut file = File::from(file);
        let filled = fill(&mut file).and_then(|()| rustix::fs::fdatasync(&file).call(|| "fdatasync(<blob>)"));
        if let Err(error) = filled {
            // What stays beside is overwritten by the next attempt.
            rustix::fs::unlinkat(&directory, &*beside, AtFlags::empty()).unwrap_or_default();
            return Err(error);
        }
        let path = self.path(digest);
        self.root.rename(&*beside, &*path, rustix::fs::RenameFlags::empty())
    }

    /// Writes a member of an index.
    pub(crate) fn put_member(&self, document: &Fetched) -> Result<()> {
        match self.form {
            Form::Oci => self.put_bytes(document),
            Form::Dir => self.write(&format!("{}.manifest.json", document.digest.hex()), &document.bytes),
        }
    }

    /// Writes what the directory, or its tag, stands for; the last step.
    pub(crate) fn put_top(&self, document: &Fetched) -> Result<()> {
        if self.form == Form::Dir {
            self.write("manifest.json", &document.bytes)?;
            return atomic::sync_directory(self.root.as_fd());
        }
        self.put_bytes(document)?;
        let mut manifests: Vec<Descriptor> = match self.root.exists("index.json")? {
            true => self.index()?.manifests,
            false => Vec::new(),
        };
        manifests.retain(|known| match &self.tag {
            Some(tag) => known.annotations.get(NAME) != Some(tag),
            None => known.annotations.contains_key(NAME),
        });
        let mut descriptor = document.descriptor();
        if let Some(tag) = &self.tag {
            descriptor.annotations.insert(NAME.to_owned(), tag.clone());
        }
        manifests.push(descriptor);
        let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests});
        self.write("index.json", index.to_string().as_bytes())
    }

    fn put_bytes(&self, document: &Fetched) -> Result<()> {
        self.put(&document.digest, |file| std::io::Write::write_all(file, &document.bytes).map_err(Error::from))
    }
}

/// A document whose type only its body says.
fn described(bytes: Vec<u8>, claimed: Option<&str>) -> Result<Fetched> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        #[serde(default)]
        media_type: Option<String>,
        #[serde(default)]
        manifests: Option<serde::de::IgnoredAny>,
    }
    let typed: Typed = serde_json::from_slice(&bytes)
        .map_err(|error| Error::invalid(format!("the manifest is malformed: {error}")))?;
    let guess = if typed.manifests.is_some() { media_type::INDEX } else { media_type::MANIFEST };
    let media_type = typed.media_type.or(claimed.map(str::to_owned)).unwrap_or_else(|| guess.to_owned());
    let digest = digest_of(corten_types::digest::Algorithm::Sha256, &bytes);
    Ok(Fetched { bytes, media_type, digest })
}

/// Every byte of a file of `size` bytes.
pub(crate) fn drain(file: File, size: u64, sink: &mut dyn FnMut(&[u8]) -> Result<()>) -> Result<()> {
    let mut reader = file.take(size.saturating_add(1));
    let mut piece = vec![0; 256 * 1024];
    loop {
        match reader.read(&mut piece)? {
            0 => return Ok(()),
            count => sink(&piece[..count])?,
        }
    }
}
