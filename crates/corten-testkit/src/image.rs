//! Tiny images, built from this machine's own files and written by nobody but the tests: what the program under test
//! reads was not made by it.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::tar::{Entry, archive};

/// An image: a configuration and its layers, lowest first.
#[derive(Debug, Clone)]
pub struct Image {
    /// `repository:tag` that archives name it by.
    pub reference: String,
    /// The `config` object of the image configuration: Env, Cmd, Entrypoint, User, WorkingDir, Labels, ….
    pub config: Value,
    /// The configuration's `history`, where it has one.
    pub history: Value,
    /// The machine that it is for; empty: this one.
    pub architecture: String,
    /// Entries of each layer.
    pub layers: Vec<Vec<Entry>>,
    /// Whether an OCI layout carries its layers gzip-compressed.
    pub gzip: bool,
}

impl Image {
    /// An image of one layer.
    pub fn new(reference: &str, entries: Vec<Entry>) -> Self {
        let config = json!({"Env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "Cmd": ["sh"]});
        Self {
            reference: reference.into(),
            config,
            history: Value::Null,
            architecture: String::new(),
            layers: vec![entries],
            gzip: true,
        }
    }

    /// The image named `tiny:latest`: a shell and small programs of this machine.
    pub fn tiny() -> Self {
        static ENTRIES: OnceLock<Vec<Entry>> = OnceLock::new();
        Self::new("tiny:latest", ENTRIES.get_or_init(crate::host::root_entries).clone())
    }

    /// The same image with one more layer.
    #[must_use]
    pub fn layer(mut self, entries: Vec<Entry>) -> Self {
        self.layers.push(entries);
        self
    }

    /// The same image with one property of its configuration set: `.config("User", json!("alice"))`.
    #[must_use]
    pub fn config(mut self, property: &str, value: Value) -> Self {
        self.config[property] = value;
        self
    }

    /// The same image for another machine.
    #[must_use]
    pub fn architecture(mut self, name: &str) -> Self {
        self.architecture = name.into();
        self
    }

    /// The same image with steps that it was made by.
    #[must_use]
    pub fn history(mut self, steps: Value) -> Self {
        self.history = steps;
        self
    }

    /// Writes an OCI image layout at `directory`; the value for `corten run`: `oci:DIRECTORY:TAG`.
    pub fn write_layout(&self, directory: &Path) -> String {
        let blobs = directory.join("blobs/sha256");
        std::fs::create_dir_all(&blobs).unwrap();
        let blob = |bytes: &[u8]| {
            let digest = hex(bytes);
            std::fs::write(blobs.join(&digest), bytes).unwrap();
            (format!("sha256:{digest}"), bytes.len())
        };
        let (media_type, layers): (&str, Vec<Vec<u8>>) = if self.gzip {
            ("application/vnd.oci.image.layer.v1.tar+gzip", self.tars().iter().map(|tar| gzip(tar)).collect())
        } else {
            ("application/vnd.oci.image.layer.v1.tar", self.tars())
        };
        let descriptor = |media_type: &str, bytes: &[u8]| {
            let (digest, size) = blob(bytes);
            json!({"mediaType": media_type, "digest": digest, "size": size})
        };
        let layers: Vec<Value> = layers.iter().map(|layer| descriptor(media_type, layer)).collect();
        let config = descriptor("application/vnd.oci.image.config.v1+json", &bytes(&self.configuration()));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config,
            "layers": layers,
        });
        let mut manifest = descriptor("application/vnd.oci.image.manifest.v1+json", &bytes(&manifest));
        let tag = self.reference.rsplit_once(':').map_or("latest", |(_, tag)| tag);
        manifest["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        let index = json!({
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [manifest],
        });
        std::fs::write(directory.join("index.json"), bytes(&index)).unwrap();
        std::fs::write(directory.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        format!("oci:{}:{tag}", directory.display())
    }

    /// The bytes of what `docker save` writes.
    pub fn docker_archive(&self) -> Vec<u8> {
        let configuration = bytes(&self.configuration());
        let config_name = format!("{}.json", hex(&configuration));
        let mut entries = vec![Entry::file(&config_name, 0o644, configuration)];
        let mut names = Vec::new();
        for tar in self.tars() {
            let folder = hex(&tar);
            entries.push(Entry::directory(&folder, 0o755));
            names.push(format!("{folder}/layer.tar"));
            entries.push(Entry::file(&format!("{folder}/layer.tar"), 0o644, tar));
        }
        let manifest = json!([{"Config": config_name, "RepoTags": [self.reference], "Layers": names}]);
        entries.push(Entry::file("manifest.json", 0o644, bytes(&manifest)));
        archive(&entries)
    }

    /// Writes [`Image::docker_archive`] to `file`.
    pub fn write_docker_archive(&self, file: &Path) -> PathBuf {
        std::fs::write(file, self.docker_archive()).unwrap();
        file.to_path_buf()
    }

    /// Unpacks the layers, without whiteouts, as a directory tree.
    pub fn unpack(&self, root: &Path) {
        std::fs::create_dir_all(root).unwrap();
        self.layers.iter().for_each(|layer| crate::host::unpack(layer, root));
    }

    fn tars(&self) -> Vec<Vec<u8>> {
        self.layers.iter().map(|layer| archive(layer)).collect()
    }

    fn configuration(&self) -> Value {
        let diff_ids: Vec<String> = self.tars().iter().map(|tar| format!("sha256:{}", hex(tar))).collect();
        let history = match &self.history {
            Value::Null => self.layers.iter().map(|_| json!({"created_by": "corten-testkit"})).collect(),
            steps => steps.clone(),
        };
        json!({
            "created": "2026-01-02T03:04:05Z",
            "architecture": match (self.architecture.as_str(), std::env::consts::ARCH) {
                ("", "x86_64") => "amd64",
                ("", "aarch64") => "arm64",
                ("", other) => other,
                (chosen, _) => chosen,
            },
            "os": "linux",
            "config": self.config,
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
            "history": history,
        })
    }
}

fn bytes(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).unwrap()
}

/// SHA-256 in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    use std::io::Write;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_layout_names_blobs_by_their_digests() {
        let directory = tempfile::tempdir().unwrap();
        let image = Image::new("small:1", vec![Entry::file("hi", 0o644, "hi")]);
        assert!(image.write_layout(directory.path()).ends_with(":1"));
        let blobs: Vec<_> = std::fs::read_dir(directory.path().join("blobs/sha256")).unwrap().collect();
        assert_eq!(blobs.len(), 3);
        for blob in blobs {
            let blob = blob.unwrap();
            assert_eq!(hex(&std::fs::read(blob.path()).unwrap()), blob.file_name().to_str().unwrap());
        }
    }
}
