//! Manifests, indexes, configurations, references and digests: any bytes give one of them or an error in words.

use corten_types::image_spec::{Document, ImageConfig, media_type};
use corten_types::{Digest, Reference};

/// Panics where the promise does not hold for `bytes`.
pub(crate) fn check(bytes: &[u8]) {
    for claimed in [None, Some(media_type::MANIFEST), Some(media_type::DOCKER_LIST)] {
        if let Err(error) = Document::parse(bytes, claimed) {
            assert!(!error.report().is_empty());
        }
    }
    drop(ImageConfig::parse(bytes));
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if let Ok(reference) = Reference::parse(text) {
        assert_eq!(Reference::parse(&reference.familiar()).expect("the short form is a reference"), reference);
        assert_eq!(Reference::parse(&reference.to_string()).expect("the full form is a reference"), reference);
    }
    if let Ok(digest) = Digest::parse(text) {
        assert_eq!(digest.to_string(), text);
    }
}
