//! Images named by where their files lie.

use std::path::PathBuf;

use corten_types::{Error, Reference, Result};

/// An image named by where its files lie.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `oci:DIR[:TAG]`: an OCI layout directory.
    OciLayout {
        /// The directory.
        dir: PathBuf,
        /// `org.opencontainers.image.ref.name` of the wanted image.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of one.
    OciArchive {
        /// The file.
        file: PathBuf,
        /// As above.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REFERENCE]`: what `docker save` writes.
    DockerArchive {
        /// The file.
        file: PathBuf,
        /// The wanted image, where the archive has several.
        reference: Option<Reference>,
    },
}

impl Source {
    /// Parses `oci:…`, `oci-archive:…` and `docker-archive:…`; `None` where the text has no such prefix.
    ///
    /// A name that could be an image `oci` with a tag (`oci:latest`) has no slash and no dot; it is a source only where
    /// the word behind the colon is a path.
    pub fn parse(text: &str) -> Option<Result<Self>> {
        let (kind, rest) = text.split_once(':')?;
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) => (path, Some(name)),
            None => (rest, None),
        };
        let file = PathBuf::from(path);
        let source = match kind {
            "oci" if rest.contains(['/', '.']) => Self::OciLayout { dir: file, tag: name.map(str::to_owned) },
            "oci-archive" => Self::OciArchive { file, tag: name.map(str::to_owned) },
            "docker-archive" => match name.map(Reference::parse).transpose() {
                Ok(reference) => Self::DockerArchive { file, reference },
                Err(error) => return Some(Err(error)),
            },
            _ => return None,
        };
        if path.is_empty() {
            let error = Error::invalid(format!("`{text}` names no file")).hint(format!("write `{kind}:PATH[:NAME]`"));
            return Some(Err(error));
        }
        Some(Ok(source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_from_references() {
        let layout = Source::OciLayout { dir: "./layout".into(), tag: Some("latest".to_owned()) };
        assert_eq!(Source::parse("oci:./layout:latest").unwrap().unwrap(), layout);
        assert!(Source::parse("oci:latest").is_none() && Source::parse("busybox").is_none());
        assert!(Source::parse("docker-archive:").unwrap().is_err());
        let archive = Source::parse("docker-archive:a.tar:localhost/x:1").unwrap().unwrap();
        let reference = Some(Reference::parse("localhost/x:1").unwrap());
        assert_eq!(archive, Source::DockerArchive { file: "a.tar".into(), reference });
    }
}
