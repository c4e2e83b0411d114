//! Manifest lists in the making: docker's `manifest create`, `annotate`, `push`.
//!
//! ```text
//! DIR/SHA256-OF-NAME.json      a list: its name and what it holds; replaced as a whole
//! ```

use std::path::Path;

use corten_fs::Root;
use corten_fs::atomic::{self, Durability};
use corten_types::digest::Algorithm;
use corten_types::image_spec::{CONFIG_SIZE_BYTES_MAX, Descriptor, Document, ImageConfig, Platform, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use super::Client;
use super::copy::{CopyRequest, Place};
use super::manifests::digest_of;
use super::policy::Policy;
use super::progress::Watch;
use super::session::Access;
use corten_store::Store;

/// Largest list, bytes.
const LIST_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// The lists of a directory.
#[derive(Debug)]
pub struct Lists {
    root: Root,
}

/// One list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct List {
    /// Its name in full.
    pub name: String,
    /// What it holds.
    pub entries: Vec<Entry>,
}

/// One manifest of a list.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Entry {
    /// Where it is.
    pub reference: String,
    /// What it is, and for which platform.
    pub descriptor: Descriptor,
}

impl Lists {
    /// Opens a directory, making it where it is missing.
    pub fn open(directory: &Path) -> Result<Self> {
        let whole = Root::open_ambient(Path::new("/"))?;
        whole.create_dir_all(directory.strip_prefix("/").unwrap_or(directory), Mode::RWXU)?;
        Ok(Self { root: Root::open_ambient(directory)? })
    }

    fn file(name: &Reference) -> String {
        format!("{}.json", digest_of(Algorithm::Sha256, name.to_string().as_bytes()).hex())
    }

    /// A list.
    pub fn get(&self, name: &Reference) -> Result<Option<List>> {
        match self.root.read(Self::file(name), LIST_SIZE_BYTES_MAX) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| Error::new(ErrorKind::Corrupt, format!("list `{name}` is damaged: {error}"))),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A list that must be there.
    pub fn need(&self, name: &Reference) -> Result<List> {
        self.get(name)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("No such manifest: {}", name.familiar()))
                .hint("`corten manifest create LIST MANIFEST...` makes a list")
        })
    }

    /// Keeps a list.
    pub fn put(&self, name: &Reference, list: &List) -> Result<()> {
        let text = serde_json::to_vec_pretty(list)
            .map_err(|error| Error::new(ErrorKind::Internal, "the list cannot be encoded").caused_by(error))?;
        let directory = self.root.open(".", OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
        atomic::replace(&directory, &Self::file(name), &text, 0o600, Durability::Durable)
    }

    /// Forgets a list.
    pub fn remove(&self, name: &Reference) -> Result<()> {
        match self.root.remove_file(Self::file(name)) {
            Err(error) if error.kind() == ErrorKind::NotFound => self.need(name).map(drop),
            result => result,
        }
    }
}

impl List {
    /// What the list is in a registry: its media type and its bytes.
    pub fn document(&self) -> Result<(&'static str, Vec<u8>)> {
        let docker = self.entries.iter().all(|entry| entry.descriptor.media_type == media_type::DOCKER_MANIFEST);
        let kind = if docker { media_type::DOCKER_LIST } else { media_type::INDEX };
        let manifests: Vec<&Descriptor> = self.entries.iter().map(|entry| &entry.descriptor).collect();
        let list = serde_json::json!({"schemaVersion": 2, "mediaType": kind, "manifests": manifests});
        let bytes = serde_json::to_vec_pretty(&list)
            .map_err(|error| Error::new(ErrorKind::Internal, "the list cannot be encoded").caused_by(error))?;
        Ok((kind, bytes))
    }
}

impl Client {
    /// What a reference is in its registry, as a list holds it.
    pub fn list_entry(&self, reference: &Reference) -> Result<Entry> {
        let name = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => digest.to_string(),
            (None, tag) => tag.unwrap_or("latest").to_owned(),
        };
        self.first_of(reference, Access::Read, |session| {
            let fetched = session.manifest(&name)?;
            let mut descriptor = fetched.descriptor();
            match Document::parse(&fetched.bytes, Some(&fetched.media_type))? {
                Document::Index(_) => {
                    return Err(Error::invalid(format!("{} is a manifest list", reference.familiar()))
                        .hint("a list holds manifests of single images"));
                }
                Document::Manifest(manifest) => {
                    let config = session.small_blob(&manifest.config, CONFIG_SIZE_BYTES_MAX, "image configuration")?;
                    let platform = ImageConfig::parse(&config).map(|config| config.platform);
                    descriptor.platform = Some(platform.unwrap_or_else(|_| Platform::default()));
                }
            }
            Ok(Entry { reference: reference.to_string(), descriptor })
        })
        .context(|| format!("cannot look at `{}`", reference.familiar()))
    }

    /// Sends a list: what lies in other repositories is brought along first.
    pub fn push_list(
        &self,
        store: &Store,
        list: &List,
        target: &Reference,
        scratch: &Path,
        watch: Watch<'_>,
    ) -> Result<Digest> {
        for entry in &list.entries {
            let from = Reference::parse(&entry.reference)?.with_digest(entry.descriptor.digest);
            if from.repository() == target.repository() {
                continue;
            }
            self.copy(
                store,
                &CopyRequest {
                    from: &Place::Registry(from),
                    to: &Place::Registry(target.with_digest(entry.descriptor.digest)),
                    all: true,
                    platform: None,
                    policy: &Policy::default(),
                    scratch,
                    watch,
                },
            )?;
        }
        let (kind, bytes) = list.document()?;
        let session = self.registry(target, Access::Write)?;
        session.put_manifest(target.tag().unwrap_or("latest"), kind, &bytes)?;
        Ok(digest_of(Algorithm::Sha256, &bytes))
    }
}
