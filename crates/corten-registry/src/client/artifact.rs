//! Artifacts: files in a registry that are no image, by themselves or about something else (ORAS's forms).

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use corten_fs::Root;
use corten_sys::Call as _;
use corten_types::digest::Algorithm;
use corten_types::image_spec::{Descriptor, Document, Manifest, media_type};
use corten_types::{Context, Digest, Error, ErrorKind, Reference, Result};
use rustix::fs::{Mode, OFlags};

use super::Client;
use super::manifests::{Hash, digest_of, referrers_tag};
use super::progress::{Step, Watch};
use super::session::{Access, Session};

/// The annotation that holds a file's name.
const TITLE: &str = "org.opencontainers.image.title";
/// The annotation of the moment that it was made.
const CREATED: &str = "org.opencontainers.image.created";
/// What an artifact without a type of its own is.
const TYPE_DEFAULT: &str = "application/vnd.unknown.artifact.v1";
/// A file without a type of its own.
const FILE_TYPE: &str = "application/vnd.oci.image.layer.v1.tar";
/// The configuration of what needs none.
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const EMPTY: &[u8] = b"{}";
/// Most files of an artifact.
const FILES_MAX: usize = 10_000;

/// One file to send.
#[derive(Debug, Clone)]
pub struct ArtifactFile {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called there.
    pub title: String,
    /// Its media type.
    pub media_type: Option<String>,
}

/// What [`Client::push_artifact`] sends.
#[derive(Clone, Copy)]
pub struct ArtifactRequest<'a> {
    /// Where to; of an artifact that is attached, the tag or digest names what it is about.
    pub reference: &'a Reference,
    /// Whether it is about what the reference names, and has no name of its own.
    pub attach: bool,
    /// Its type.
    pub artifact_type: Option<&'a str>,
    /// Its files.
    pub files: &'a [ArtifactFile],
    /// Its annotations.
    pub annotations: &'a BTreeMap<String, String>,
    /// RFC 3339.
    pub created: &'a str,
    /// Hears of the files.
    pub watch: Watch<'a>,
}

impl Client {
    /// Sends files as an artifact; the digest of its manifest.
    pub fn push_artifact(&self, request: &ArtifactRequest<'_>) -> Result<Digest> {
        let verb = if request.attach { "attach to" } else { "push" };
        self.send_artifact(request).context(|| format!("cannot {verb} `{}`", request.reference.familiar()))
    }

    fn send_artifact(&self, request: &ArtifactRequest<'_>) -> Result<Digest> {
        let session = self.registry(request.reference, Access::Write)?;
        let named = name_of(request.reference);
        let subject = match request.attach {
            true => {
                let found = session.resolve(&named)?;
                Some(found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no `{named}`")))?)
            }
            false => None,
        };
        let empty = Descriptor { media_type: EMPTY_TYPE.to_owned(), ..described(EMPTY) };
        let mut layers = Vec::new();
        for file in request.files {
            let what = || format!("cannot send `{}`", file.path.display());
            let mut open = File::open(&file.path).context(what)?;
            let mut layer = describe_file(&mut open).context(what)?;
            layer.media_type = file.media_type.clone().unwrap_or_else(|| FILE_TYPE.to_owned());
            layer.annotations.insert(TITLE.to_owned(), file.title.clone());
            self.place(&session, &layer, &open, request.watch)?;
            layers.push(layer);
        }
        self.place_bytes(&session, &empty, EMPTY)?;
        if layers.is_empty() {
            // The image specification wants one layer at least.
            layers.push(empty.clone());
        }
        let mut annotations = request.annotations.clone();
        annotations.entry(CREATED.to_owned()).or_insert_with(|| request.created.to_owned());
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::MANIFEST.to_owned()),
            artifact_type: Some(request.artifact_type.unwrap_or(TYPE_DEFAULT).to_owned()),
            config: empty,
            layers,
            subject: subject.clone().map(|subject| Descriptor { annotations: BTreeMap::new(), ..subject }),
            annotations,
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|error| Error::new(ErrorKind::Internal, "the manifest cannot be encoded").caused_by(error))?;
        let digest = digest_of(Algorithm::Sha256, &bytes);
        let name = if request.attach { digest.to_string() } else { named };
        let listed = session.put_manifest(&name, media_type::MANIFEST, &bytes)?;
        if let Some(subject) = subject
            && listed != Some(subject.digest)
        {
            // The registry keeps no list: it is kept under a tag, as the specification says.
            list_under_tag(&session, &subject.digest, &manifest, &bytes)?;
        }
        Ok(digest)
    }

    fn place(&self, session: &Session<'_>, blob: &Descriptor, file: &File, watch: Watch<'_>) -> Result<()> {
        watch(&blob.digest, Step::Preparing);
        let step = match session.place_blob(blob, file, None, watch)? {
            super::upload::Placed::Existed => Step::There,
            super::upload::Placed::Mounted(from) => Step::Mounted { from },
            super::upload::Placed::Uploaded => Step::Pushed,
        };
        watch(&blob.digest, step);
        Ok(())
    }

    fn place_bytes(&self, session: &Session<'_>, blob: &Descriptor, bytes: &[u8]) -> Result<()> {
        let memory =
            rustix::fs::memfd_create("corten-blob", rustix::fs::MemfdFlags::CLOEXEC).call(|| "memfd_create")?;
        let mut file = File::from(memory);
        file.write_all(bytes)?;
        session.place_blob(blob, &file, None, &|_, _| {}).map(drop)
    }

    /// Removes a manifest from its registry, with every tag that points to it; its digest.
    pub fn remove_artifact(&self, reference: &Reference) -> Result<Digest> {
        self.remove_manifest(reference).context(|| format!("cannot remove `{}`", reference.familiar()))
    }

    fn remove_manifest(&self, reference: &Reference) -> Result<Digest> {
        let session = self.registry(reference, Access::Delete)?;
        let name = name_of(reference);
        let found = session.resolve(&name)?;
        let found = found.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no `{name}`")))?;
        let fetched = session.manifest(&found.digest.to_string())?;
        let subject = match Document::parse(&fetched.bytes, Some(&fetched.media_type)) {
            Ok(Document::Manifest(manifest)) => manifest.subject,
            Ok(Document::Index(index)) => index.subject.map(|subject| *subject),
            // What cannot be read can be removed.
            Err(_) => None,
        };
        session.delete_manifest(&fetched.digest)?;
        // Where a tag stands in for the referrers API, the specification wants the list kept by who removes.
        if let Some(subject) = subject {
            unlist_under_tag(&session, &subject.digest, &fetched.digest)?;
        }
        Ok(fetched.digest)
    }

    /// Writes an artifact's files into `directory`; their names.
    pub fn pull_artifact(
        &self,
        reference: &Reference,
        directory: &Path,
        overwrite: bool,
        watch: Watch<'_>,
    ) -> Result<(Digest, Vec<String>)> {
        self.first_of(reference, Access::Read, |session| {
            let fetched = session.manifest(&name_of(reference))?;
            let Document::Manifest(manifest) = Document::parse(&fetched.bytes, Some(&fetched.media_type))? else {
                return Err(Error::new(ErrorKind::Unsupported, "it is an index, not an artifact"));
            };
            let files = write_files(session, &manifest, directory, overwrite, watch)?;
            Ok((fetched.digest, files))
        })
        .context(|| format!("cannot pull `{}`", reference.familiar()))
    }

    /// What refers to an image or an artifact; its own digest first.
    pub fn artifacts_of(&self, reference: &Reference, kind: Option<&str>) -> Result<(Digest, Vec<Descriptor>)> {
        self.first_of(reference, Access::Read, |session| {
            let name = name_of(reference);
            let subject = session.resolve(&name)?;
            let subject = subject.ok_or_else(|| Error::new(ErrorKind::NotFound, format!("there is no `{name}`")))?;
            Ok((subject.digest, session.referrers(&subject.digest, kind)?))
        })
        .context(|| format!("cannot list what refers to `{}`", reference.familiar()))
    }
}

fn name_of(reference: &Reference) -> String {
    match (reference.digest(), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or("latest").to_owned(),
    }
}

fn described(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        digest: digest_of(Algorithm::Sha256, bytes),
        size: bytes.len() as u64,
        urls: Vec::new(),
        annotations: BTreeMap::new(),
        platform: None,
        artifact_type: None,
    }
}

fn describe_file(file: &mut File) -> Result<Descriptor> {
    if !file.metadata()?.is_file() {
        return Err(Error::invalid("it is not a regular file"));
    }
    let (mut hash, mut size, mut piece) = (Hash::new(Algorithm::Sha256), 0, vec![0; 256 * 1024]);
    loop {
        match file.read(&mut piece)? {
            0 => break,
            count => {
                hash.update(&piece[..count]);
                size += count as u64;
            }
        }
    }
    Ok(Descriptor { digest: hash.finish(), size, ..described(b"") })
}

/// Adds a manifest to the index that stands in for the referrers API. The registry has no way to do this safely beside
/// others; what they wrote between reading and writing is looked at once more.
fn list_under_tag(session: &Session<'_>, subject: &Digest, manifest: &Manifest, bytes: &[u8]) -> Result<()> {
    let entry = Descriptor {
        media_type: media_type::MANIFEST.to_owned(),
        artifact_type: manifest.artifact_type.clone(),
        annotations: manifest.annotations.clone(),
        ..described(bytes)
    };
    for _ in 0..3 {
        let known = session.referrers_by_tag(subject)?.map(|(index, _)| index.manifests).unwrap_or_default();
        if known.iter().any(|known| known.digest == entry.digest) {
            return Ok(());
        }
        put_list(session, subject, known.iter().chain([&entry]).collect())?;
    }
    Err(always_changing())
}

/// Takes a manifest out of that index.
fn unlist_under_tag(session: &Session<'_>, subject: &Digest, digest: &Digest) -> Result<()> {
    for _ in 0..3 {
        let Some((known, _)) = session.referrers_by_tag(subject)? else { return Ok(()) };
        if known.manifests.iter().all(|known| known.digest != *digest) {
            return Ok(());
        }
        put_list(session, subject, known.manifests.iter().filter(|known| known.digest != *digest).collect())?;
    }
    Err(always_changing())
}

fn put_list(session: &Session<'_>, subject: &Digest, manifests: Vec<&Descriptor>) -> Result<()> {
    let index = serde_json::json!({"schemaVersion": 2, "mediaType": media_type::INDEX, "manifests": manifests});
    session.put_manifest(&referrers_tag(subject), media_type::INDEX, index.to_string().as_bytes()).map(drop)
}

fn always_changing() -> Error {
    Error::new(ErrorKind::Conflict, "others change the list of referrers all the time").hint("try again")
}

fn write_files(
    session: &Session<'_>,
    manifest: &Manifest,
    directory: &Path,
    overwrite: bool,
    watch: Watch<'_>,
) -> Result<Vec<String>> {
    if manifest.layers.len() > FILES_MAX {
        return Err(Error::new(ErrorKind::Exhausted, format!("it has more than {FILES_MAX} files")));
    }
    let whole = Root::open_ambient(Path::new("/"))?;
    whole.create_dir_all(directory.strip_prefix("/").unwrap_or(directory), Mode::from_raw_mode(0o755))?;
    let root = Root::open_ambient(directory)?.beneath();
    let mut written = Vec::new();
    for layer in &manifest.layers {
        let Some(title) = layer.annotations.get(TITLE) else { continue };
        let name = checked_title(title)?;
        if let Some((folder, _)) = name.rsplit_once('/') {
            root.create_dir_all(folder, Mode::from_raw_mode(0o755))?;
        }
        if root.exists(&name)? && !overwrite {
            let message = format!("`{name}` is in `{}` already", directory.display());
            return Err(Error::new(ErrorKind::AlreadyExists, message).hint("remove it, or add `--overwrite`"));
        }
        let beside = format!("{name}.corten-new");
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NOFOLLOW;
        let mut file = File::from(root.open(&beside, flags, Mode::from_raw_mode(0o644))?);
        let fetched = fetch_file(session, layer, &mut file, watch);
        match fetched.and_then(|()| root.rename(&beside, &name, rustix::fs::RenameFlags::empty())) {
            Ok(()) => written.push(name),
            Err(error) => {
                // The failure that matters is the fetch's.
                let _removed = root.remove_file(&beside);
                return Err(error.context(format!("cannot write `{name}`")));
            }
        }
    }
    Ok(written)
}

fn fetch_file(session: &Session<'_>, layer: &Descriptor, file: &mut File, watch: Watch<'_>) -> Result<()> {
    let (mut hash, mut current) = (Hash::new(layer.digest.algorithm()), 0);
    session.transfer(layer, 0, &mut |bytes| {
        hash.update(bytes);
        current += bytes.len() as u64;
        watch(&layer.digest, Step::Downloading { current, total: layer.size });
        file.write_all(bytes).map_err(Error::from)
    })?;
    let found = hash.finish();
    if found != layer.digest {
        return Err(Error::new(ErrorKind::Corrupt, format!("expected {}, received {found}", layer.digest)));
    }
    watch(&layer.digest, Step::Downloaded);
    Ok(())
}

/// A file's name from an annotation: below the directory, whatever it says.
fn checked_title(title: &str) -> Result<String> {
    let is_plain = |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains('\0');
    if title.len() > 4096 || title.starts_with('/') || !title.split('/').all(is_plain) {
        let shown = super::url::shown(title);
        return Err(Error::new(ErrorKind::Denied, format!("the file name `{shown}` leads out of the directory")));
    }
    Ok(title.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_title_stays_below_the_directory() {
        assert_eq!(checked_title("a/b.txt").unwrap(), "a/b.txt");
        for wrong in ["", "/etc/passwd", "../x", "a/../../x", "a//b", ".", "a\0b"] {
            assert!(checked_title(wrong).is_err(), "{wrong:?}");
        }
    }
}
