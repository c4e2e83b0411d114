//! The documents of the OCI image specification 1.1 and of Docker's image manifest schema 2, as data.
//!
//! What a document is, is decided once and strictly in [`Document::parse`]: the media type in the body, the media type its
//! carrier claimed and the fields that are there must agree. The original bytes stay with whoever read them: a document
//! is never written back from these types, so that digests survive.

use std::collections::BTreeMap;

use serde::de::IgnoredAny;
use serde::{Deserialize, Deserializer, Serialize};

use crate::digest::{Digest, printable};
use crate::runtime_spec::parse_document;
use crate::{Error, ErrorKind, Result};

/// Largest manifest or index that is read, bytes.
pub const MANIFEST_SIZE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Largest image configuration that is read, bytes.
pub const CONFIG_SIZE_BYTES_MAX: u64 = 8 * 1024 * 1024;
/// Most layers of one image.
pub const LAYER_COUNT_MAX: usize = 500;

/// Media types that Corten reads.
pub mod media_type {
    /// OCI image index.
    pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
    /// OCI image manifest.
    pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    /// OCI image configuration.
    pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    /// OCI layer, not compressed.
    pub const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    /// OCI layer, gzip.
    pub const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    /// OCI layer, zstd.
    pub const LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    /// Docker manifest list.
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    /// Docker manifest, schema 2.
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    /// Docker image configuration.
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    /// Docker layer, not compressed.
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar";
    /// Docker layer, gzip.
    pub const DOCKER_LAYER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
    /// Docker layer, zstd.
    pub const DOCKER_LAYER_ZSTD: &str = "application/vnd.docker.image.rootfs.diff.tar.zstd";
}

/// A pointer to content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What the content is.
    pub media_type: String,
    /// The content's digest.
    pub digest: Digest,
    /// The content's size, bytes.
    pub size: u64,
    /// Other places to fetch it from; never followed on their own.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// Free words; they never decide anything on this host but a reference's name in an OCI layout.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The platform, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
}

/// What machine an image is for.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Platform {
    /// GOARCH.
    #[serde(default)]
    pub architecture: String,
    /// GOOS.
    #[serde(default)]
    pub os: String,
    /// `v8`, `v7`, `v3`, …
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// Version of the operating system (Windows).
    #[serde(default, rename = "os.version", skip_serializing_if = "Option::is_none")]
    pub os_version: Option<String>,
    /// Needed features of the operating system.
    #[serde(default, rename = "os.features", deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub os_features: Vec<String>,
}

/// One image: a configuration and layers, lowest first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// The manifest's own media type; absent in some OCI manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, lowest first.
    pub layers: Vec<Descriptor>,
    /// What this manifest is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Descriptor>,
    /// Free words.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// Several images of one name.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// The index's own media type; absent in some OCI indexes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// Kind of artifact.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// Manifests or further indexes.
    pub manifests: Vec<Descriptor>,
    /// What this index is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subject: Option<Box<Descriptor>>,
    /// Free words.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// What a manifest's bytes turn out to be.
#[derive(Debug, Clone)]
pub enum Document {
    /// One image.
    Manifest(Box<Manifest>),
    /// Several.
    Index(Index),
}

/// Every field that decides what a document is, before any is believed.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Probe {
    #[serde(default)]
    schema_version: Option<u32>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    config: Option<IgnoredAny>,
    #[serde(default)]
    layers: Option<IgnoredAny>,
    #[serde(default)]
    manifests: Option<IgnoredAny>,
    #[serde(default)]
    fs_layers: Option<IgnoredAny>,
    #[serde(default)]
    signatures: Option<IgnoredAny>,
}

impl Document {
    /// Parses a manifest or an index. `claimed` is the media type that the carrier gave (a descriptor, an HTTP header).
    pub fn parse(json: &[u8], claimed: Option<&str>) -> Result<Self> {
        if u64::try_from(json.len()).unwrap_or(u64::MAX) > MANIFEST_SIZE_BYTES_MAX {
            let limit = MANIFEST_SIZE_BYTES_MAX / (1024 * 1024);
            return Err(Error::new(ErrorKind::Exhausted, format!("image manifest is larger than {limit} MiB")));
        }
        let probe: Probe = parse_document(json, "image manifest")?;
        let is_index = probe.is_index(claimed)?;
        if is_index {
            return Ok(Self::Index(parse_document(json, "image index")?));
        }
        let manifest: Manifest = parse_document(json, "image manifest")?;
        if manifest.layers.len() > LAYER_COUNT_MAX {
            let message = format!("image manifest has {} layers, more than {LAYER_COUNT_MAX}", manifest.layers.len());
            return Err(Error::new(ErrorKind::Exhausted, message));
        }
        Ok(Self::Manifest(Box::new(manifest)))
    }
}

impl Probe {
    fn is_index(&self, claimed: Option<&str>) -> Result<bool> {
        // An absent type is no claim; Go writes it as an empty string.
        let claimed = claimed.filter(|text| !text.is_empty());
        let body = self.media_type.as_deref().filter(|text| !text.is_empty());
        if self.fs_layers.is_some()
            || self.signatures.is_some()
            || self.schema_version == Some(1)
            || [claimed, body].iter().flatten().any(|kind| kind.contains("manifest.v1+"))
                && ![claimed, body].iter().flatten().any(|kind| *kind == media_type::MANIFEST)
        {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the image manifest is Docker's schema 1, which is not read",
            )
            .hint("convert it: `skopeo copy --format oci …`, or push it again with a current docker"));
        }
        if self.schema_version != Some(2) {
            return Err(Error::invalid("`schemaVersion` of the image manifest is not 2"));
        }
        if let (Some(claimed), Some(body)) = (claimed, body)
            && claimed != body
        {
            let (claimed, body) = (printable(claimed), printable(body));
            return Err(Error::invalid(format!("image manifest is announced as `{claimed}` but says `{body}`")));
        }
        if self.manifests.is_some() && (self.layers.is_some() || self.config.is_some()) {
            return Err(Error::invalid("image manifest has both `manifests` and `layers` or `config`"));
        }
        let is_index = match body.or(claimed) {
            Some(media_type::INDEX | media_type::DOCKER_LIST) => true,
            Some(media_type::MANIFEST | media_type::DOCKER_MANIFEST) => false,
            Some(other) => {
                let message = format!("`{}` is not a media type of an image", printable(other));
                return Err(Error::new(ErrorKind::Unsupported, message));
            }
            None => self.manifests.is_some(),
        };
        if is_index != self.manifests.is_some() {
            let missing = if is_index { "manifests" } else { "layers" };
            return Err(Error::invalid(format!("image manifest lacks `{missing}`, which its media type asks for")));
        }
        Ok(is_index)
    }
}

/// How a layer's bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952).
    Gzip,
    /// Zstandard (RFC 8878).
    Zstd,
}

/// The compression that a layer's media type announces; other types are `Unsupported`.
pub fn layer_compression(kind: &str) -> Result<Compression> {
    use media_type::*;
    // "Non-distributable" only says where a layer may be pushed; its bytes are the same.
    match kind.replace("layer.nondistributable.", "layer.").replace("rootfs.foreign.", "rootfs.").as_str() {
        LAYER | DOCKER_LAYER => Ok(Compression::None),
        LAYER_GZIP | DOCKER_LAYER_GZIP => Ok(Compression::Gzip),
        LAYER_ZSTD | DOCKER_LAYER_ZSTD => Ok(Compression::Zstd),
        _ => {
            let message = format!("layers of media type `{}` are not supported", printable(kind));
            Err(Error::new(ErrorKind::Unsupported, message).hint("it may be an artifact, which cannot be run"))
        }
    }
}

/// An image's configuration: what to run, and which layers make its root.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ImageConfig {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// GOARCH, GOOS, variant.
    #[serde(flatten)]
    pub platform: Platform,
    /// Defaults of a container.
    #[serde(default, deserialize_with = "nullable")]
    pub config: ContainerConfig,
    /// The layers.
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
}

impl ImageConfig {
    /// Parses the configuration; an error names the field.
    pub fn parse(json: &[u8]) -> Result<Self> {
        let config: Self = parse_document(json, "image configuration")?;
        if config.rootfs.kind != "layers" {
            let kind = printable(&config.rootfs.kind);
            return Err(Error::invalid(format!("`rootfs.type` of the image configuration is `{kind}`, not `layers`")));
        }
        Ok(config)
    }
}

/// Defaults that an image gives its containers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, names or numbers.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `80/tcp`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// First words of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// The other words of the command.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Paths that get a volume.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub volumes: BTreeMap<String, Empty>,
    /// Working directory.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Free words.
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Signal of `stop`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// Seconds between that signal and SIGKILL (docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    /// How health is probed (docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// Steps for a child image's build (docker).
    #[serde(default, deserialize_with = "nullable", skip_serializing_if = "Vec::is_empty")]
    pub on_build: Vec<String>,
    /// The shell of shell-form commands (docker).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
}

/// Go's `struct{}`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// Docker's health check; times are nanoseconds.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", "…"]`.
    #[serde(default, deserialize_with = "nullable")]
    pub test: Vec<String>,
    /// Between probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<i64>,
    /// For one probe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<i64>,
    /// Grace at the start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_period: Option<i64>,
    /// Between probes during the grace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_interval: Option<i64>,
    /// Failures that make it unhealthy.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<i64>,
}

/// The layers of a configuration.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Digest of each layer's plain tar, lowest first.
    #[serde(default, deserialize_with = "nullable")]
    pub diff_ids: Vec<Digest>,
}

/// How one layer came to be.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct History {
    /// RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// Who.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// A note.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// It made no layer.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

fn nullable<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(reader: D) -> std::result::Result<T, D::Error> {
    Ok(Option::deserialize(reader)?.unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    const DIGEST: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    fn config() -> String {
        format!(r#"{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{DIGEST}","size":2}}"#)
    }

    fn message(json: &str, claimed: Option<&str>) -> String {
        Document::parse(json.as_bytes(), claimed).unwrap_err().one_line()
    }

    #[test]
    fn a_manifest_and_an_index_are_told_apart() {
        let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, config());
        assert!(matches!(Document::parse(manifest.as_bytes(), None).unwrap(), Document::Manifest(_)));
        assert!(Document::parse(manifest.as_bytes(), Some(media_type::DOCKER_MANIFEST)).is_ok());
        let index = br#"{"schemaVersion":2,"manifests":[]}"#;
        assert!(matches!(Document::parse(index, Some(media_type::INDEX)).unwrap(), Document::Index(_)));
    }

    #[test]
    fn a_document_that_contradicts_itself_is_refused() {
        let both = format!(r#"{{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}}"#, config());
        assert_eq!(message(&both, None), "image manifest has both `manifests` and `layers` or `config`");
        let manifest = format!(r#"{{"schemaVersion":2,"config":{},"layers":[]}}"#, config());
        assert!(message(&manifest, Some(media_type::INDEX)).contains("lacks `manifests`"));
        let typed = manifest.replace(
            r#"{"schemaVersion":2"#,
            r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json""#,
        );
        assert!(message(&typed, Some(media_type::DOCKER_MANIFEST)).contains("is announced as"));
        assert!(message(r#"{"schemaVersion":1,"fsLayers":[]}"#, None).contains("schema 1"));
        assert!(message(r#"{"schemaVersion":2,"mediaType":"text/html"}"#, None).contains("`text/html`"));
        assert!(message(r#"{"schemaVersion":2,"layers":[]}"#, None).contains("config"));
        let twice = manifest.replace(r#""layers":[]"#, r#""layers":[],"layers":[]"#);
        assert!(message(&twice, None).contains("duplicate field"));
        assert!(Document::parse(&vec![b' '; 5 << 20], None).unwrap_err().one_line().contains("larger than"));
    }

    #[test]
    fn an_error_names_the_field() {
        let json = format!(r#"{{"schemaVersion":2,"config":{},"layers":[{{"mediaType":"x","size":1}}]}}"#, config());
        assert!(message(&json, None).contains("`layers[0]` in `image manifest`: missing field `digest`"));
    }

    #[test]
    fn go_nulls_are_absent_values() {
        let json = br#"{"architecture":"amd64","os":"linux","config":{"Env":null,"Cmd":["sh"],"Entrypoint":null,
            "Volumes":null,"ExposedPorts":{"80/tcp":{}},"Labels":null,"OnBuild":null},
            "rootfs":{"type":"layers","diff_ids":null},"history":null,"container_config":{"x":1}}"#;
        let config = ImageConfig::parse(json).unwrap();
        assert_eq!(config.platform.architecture, "amd64");
        assert_eq!(config.config.cmd, Some(vec!["sh".to_owned()]));
        assert!(config.config.exposed_ports.contains_key("80/tcp"));
    }

    #[test]
    fn compressions_follow_from_the_media_type() {
        assert_eq!(layer_compression(media_type::DOCKER_LAYER_GZIP).unwrap(), Compression::Gzip);
        let foreign = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
        assert_eq!(layer_compression(foreign).unwrap(), Compression::Gzip);
        assert!(layer_compression("application/vnd.cncf.helm.chart.content.v1.tar+gzip").is_err());
    }
}
