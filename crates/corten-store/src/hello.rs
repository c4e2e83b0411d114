//! The built-in image `hello`: its one layer is the running binary. It is made as any other image is loaded: tar, blob,
//! layer, rows.

use std::fs::File;
use std::os::fd::AsFd;
use std::sync::Arc;

use corten_fs::tar::{Builder, Kind, Member, Time};
use corten_sys::Call;
use corten_types::digest::Algorithm;
use corten_types::image_spec::media_type;
use corten_types::{Error, Reference, Result};
use serde_json::json;

use crate::blob::{FileReader, Ingest, digest_of};
use crate::disk::Disk;
use crate::import::descriptor;
use crate::import::unpack::Unpacker;
use crate::import::{Content, Imported};

/// Its name.
pub(crate) const NAME: &str = "hello";

const PASSWD: &str = "root:x:0:0:root:/:/corten\nnobody:x:65534:65534:nobody:/:/corten\n";
const GROUP: &str = "root:x:0:\nnogroup:x:65534:\n";

/// What tells one binary from another without reading it.
pub(crate) fn identity(binary: &File) -> Result<String> {
    let stat = rustix::fs::fstat(binary.as_fd()).call(|| "fstat(<binary>)")?;
    Ok(format!(
        "{}:{}:{}:{}.{}:{}.{}",
        stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime, stat.st_mtime_nsec, stat.st_ctime, stat.st_ctime_nsec
    ))
}

/// The image of `binary`, built and not stored yet.
pub(crate) fn build(
    binary: &File,
    disk: &Disk,
    unpacker: &Unpacker<'_>,
    reference: Option<Reference>,
) -> Result<Imported> {
    let stat = rustix::fs::fstat(binary.as_fd()).call(|| "fstat(<binary>)")?;
    let mtime = Time { seconds: stat.st_mtime, nanoseconds: 0 };
    let ingest = Ingest::new(disk, Algorithm::Sha256)?;
    let size = u64::try_from(stat.st_size).unwrap_or(0);
    let staged = Arc::new(layer(ingest, binary, size, mtime)?.finish()?);
    unpacker.start(&staged);

    let created = jiff::Timestamp::from_second(mtime.seconds)
        .map_err(|error| Error::invalid("the binary's time stamp is none").caused_by(error))?
        .to_string();
    let config = json!({
        "created": created,
        "architecture": architecture(),
        "os": "linux",
        "config": {
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Entrypoint": ["/corten", "hello"],
            "WorkingDir": "/",
        },
        "rootfs": { "type": "layers", "diff_ids": [staged.digest] },
        "history": [{ "created": created, "created_by": "corten (built in)" }],
    });
    let config = to_vec(&config)?;
    let config_digest = digest_of(Algorithm::Sha256, &config)?;
    let layer = descriptor(media_type::LAYER, staged.digest, staged.size);
    let manifest = to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": media_type::MANIFEST,
        "config": descriptor(media_type::CONFIG, config_digest, config.len() as u64),
        "layers": [layer],
    }))?;
    Ok(Imported {
        manifest,
        media_type: media_type::MANIFEST.to_owned(),
        config,
        config_digest,
        layers: vec![(layer, Content::Staged(staged))],
        references: reference.into_iter().collect(),
        index: None,
    })
}

fn layer(ingest: Ingest, binary: &File, size: u64, mtime: Time) -> Result<Ingest> {
    let mut tar = Builder::new(ingest);
    let member =
        |path: &'static str, kind, mode, size| Member { mtime, ..Member::new(path.as_bytes(), kind, mode, size) };
    for (path, mode) in [("./", 0o755), ("etc/", 0o755), ("tmp/", 0o1777)] {
        tar.append(&member(path, Kind::Directory, mode, 0), &[][..])?;
    }
    for (path, text) in [("etc/passwd", PASSWD), ("etc/group", GROUP)] {
        tar.append(&member(path, Kind::File, 0o644, text.len() as u64), text.as_bytes())?;
    }
    let content = FileReader::new(Arc::new(binary.try_clone()?));
    tar.append(&member("corten", Kind::File, 0o755, size), content)?;
    tar.finish()
}

fn architecture() -> &'static str {
    crate::import::this_machine()
}

fn to_vec(value: &serde_json::Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::invalid("cannot write JSON").caused_by(error))
}
