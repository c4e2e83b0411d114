//! docker-archive: `manifest.json` names configurations and layers by path. There is no manifest to keep, so one is made.

use corten_types::digest::Algorithm;
use corten_types::image_spec::{
    CONFIG_SIZE_BYTES_MAX, Compression, Descriptor, ImageConfig, LAYER_COUNT_MAX, MANIFEST_SIZE_BYTES_MAX, Manifest,
    media_type,
};
use corten_types::runtime_spec::parse_list;
use corten_types::{Context, Error, ErrorKind, Reference, Result};
use serde::Deserialize;

use super::{Content, Files, Imported, Want, blob_of_path, platform};
use crate::blob::digest_of;
use crate::layer::decode::sniff;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Item {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

pub(super) fn images(files: &mut dyn Files, want: Want<'_>) -> Result<Vec<Imported>> {
    let bytes = files.read("manifest.json", MANIFEST_SIZE_BYTES_MAX)?.unwrap_or_default();
    let items: Vec<Item> = parse_list(&bytes, "manifest.json")?;
    let chosen: Vec<&Item> = match want {
        Want::All(_) => items.iter().collect(),
        Want::One(name) => vec![one(&items, name)?],
    };
    if chosen.is_empty() {
        return Err(Error::new(ErrorKind::NotFound, "the archive holds no image"));
    }
    let mut images = chosen.into_iter().map(|item| image(files, item)).collect::<Result<Vec<_>>>()?;
    if let Want::All(Some(platform)) = want {
        let mut fitting = Vec::new();
        for image in images {
            let config = ImageConfig::parse(&image.config)?;
            if platform::best(std::iter::once((&config.platform, ())), Some(platform)).is_some() {
                fitting.push(image);
            }
        }
        if fitting.is_empty() {
            let message = format!("the archive holds no image for {}", platform::text(platform));
            return Err(Error::new(ErrorKind::NotFound, message));
        }
        images = fitting;
    }
    Ok(images)
}

fn one<'i>(items: &'i [Item], name: Option<&str>) -> Result<&'i Item> {
    let names: Vec<&str> = items.iter().flat_map(|item| item.repo_tags.iter().flatten()).map(String::as_str).collect();
    let Some(name) = name else {
        return match items {
            [one] => Ok(one),
            [] => Err(Error::new(ErrorKind::NotFound, "the archive holds no image")),
            _ => Err(Error::invalid("the archive holds several images")
                .hint(format!("add the name of one: {}", names.join(", ")))),
        };
    };
    let wanted = Reference::parse(name)?;
    let is_wanted = |tag: &String| Reference::parse(tag).is_ok_and(|reference| reference == wanted);
    items.iter().find(|item| item.repo_tags.iter().flatten().any(is_wanted)).ok_or_else(|| {
        Error::new(ErrorKind::NotFound, format!("the archive holds no image `{name}`"))
            .hint(format!("it holds: {}", names.join(", ")))
    })
}

fn image(files: &mut dyn Files, item: &Item) -> Result<Imported> {
    if item.layers.len() > LAYER_COUNT_MAX {
        let message = format!("the image has {} layers, more than {LAYER_COUNT_MAX}", item.layers.len());
        return Err(Error::new(ErrorKind::Exhausted, message));
    }
    let missing =
        |path: &str| Error::new(ErrorKind::NotFound, format!("`{}` is not in the archive", path.escape_debug()));
    let config = files.read(&item.config, CONFIG_SIZE_BYTES_MAX)?.ok_or_else(|| missing(&item.config))?;
    let config_digest = digest_of(Algorithm::Sha256, &config)?;
    let announced = item.config.strip_suffix(".json").filter(|hex| hex.len() == 64);
    let announced = match announced {
        Some(hex) => Some(corten_types::Digest::from_hex(Algorithm::Sha256, hex)?),
        None => blob_of_path(&item.config),
    };
    if let Some(announced) = announced.filter(|announced| *announced != config_digest) {
        let message = format!("the configuration's name says {announced}, its content is {config_digest}");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    let mut layers = Vec::with_capacity(item.layers.len());
    for path in &item.layers {
        let content = files.content(path, Algorithm::Sha256)?.ok_or_else(|| missing(path))?;
        layers.push((layer_descriptor(&content)?, content));
    }
    let references = item.repo_tags.iter().flatten().map(|tag| Reference::parse(tag)).collect::<Result<_>>();
    let references = references.context(|| "`manifest.json` has a wrong name")?;
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::MANIFEST.to_owned()),
        artifact_type: None,
        config: descriptor(media_type::CONFIG, config_digest, config.len() as u64),
        layers: layers.iter().map(|(descriptor, _)| descriptor.clone()).collect(),
        subject: None,
        annotations: Default::default(),
    };
    let manifest =
        serde_json::to_vec(&manifest).map_err(|error| Error::invalid("cannot write a manifest").caused_by(error))?;
    Ok(Imported {
        manifest,
        media_type: media_type::MANIFEST.to_owned(),
        config,
        config_digest,
        layers,
        references,
        index: None,
    })
}

fn layer_descriptor(content: &Content) -> Result<Descriptor> {
    let compression = match content {
        Content::Bytes(_, bytes) => sniff(&bytes[..bytes.len().min(4)]),
        Content::Staged(staged) => start_of(&staged.file)?,
        Content::Stored(_, _, file) => start_of(file)?,
    };
    let kind = match compression {
        Compression::None => media_type::LAYER,
        Compression::Gzip => media_type::LAYER_GZIP,
        Compression::Zstd => media_type::LAYER_ZSTD,
    };
    Ok(descriptor(kind, content.digest(), content.size()))
}

/// How a file is compressed.
pub(super) fn start_of(file: &std::fs::File) -> Result<Compression> {
    let mut start = [0; 4];
    let count = std::os::unix::fs::FileExt::read_at(file, &mut start, 0)?;
    Ok(sniff(&start[..count]))
}

/// A plain pointer to content.
pub(crate) fn descriptor(kind: &str, digest: corten_types::Digest, size: u64) -> Descriptor {
    Descriptor {
        media_type: kind.to_owned(),
        digest,
        size,
        urls: Vec::new(),
        annotations: Default::default(),
        platform: None,
        artifact_type: None,
    }
}
