//! Which of several images is for this machine, or for the platform that was asked for.

use corten_types::image_spec::{Descriptor, Platform};
use corten_types::{Error, Result};

/// The best of `manifests` for `wanted`, or for this machine: its architecture, and the highest variant that it can run.
/// Without any platform given, the first one.
pub fn select<'d>(manifests: &'d [Descriptor], wanted: Option<&Platform>) -> Option<&'d Descriptor> {
    let known = manifests.iter().any(|descriptor| descriptor.platform.is_some());
    if !known {
        return manifests.first();
    }
    let platforms = manifests.iter().filter_map(|descriptor| Some((descriptor.platform.as_ref()?, descriptor)));
    best(platforms, wanted)
}

/// The best of what each platform stands for; the first of equals.
pub(crate) fn best<'p, T>(
    platforms: impl DoubleEndedIterator<Item = (&'p Platform, T)>,
    wanted: Option<&Platform>,
) -> Option<T> {
    let ranked = platforms.rev().filter_map(|(platform, thing)| Some((rank(platform, wanted)?, thing)));
    // `max_by_key` gives the last of equals.
    ranked.max_by_key(|(rank, _)| *rank).map(|(_, thing)| thing)
}

/// Parses docker's `--platform`: `OS/ARCHITECTURE[/VARIANT]`, or an architecture or operating system alone.
pub fn parse(text: &str) -> Result<Platform> {
    let wrong = || {
        Error::invalid(format!("`{}` is not a platform", corten_types::digest::printable(text)))
            .hint("write it as `linux/amd64` or `linux/arm64/v8`")
    };
    let words: Vec<&str> = text.split('/').collect();
    if words.len() > 3
        || words.iter().any(|word| {
            word.is_empty()
                || !word.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.'))
        })
    {
        return Err(wrong());
    }
    let (os, architecture, variant) = match words.as_slice() {
        [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (*os, this_machine(), None),
        [architecture] => ("linux", *architecture, None),
        [os, architecture] => (*os, *architecture, None),
        [os, architecture, variant] => (*os, *architecture, Some(*variant)),
        _ => return Err(wrong()),
    };
    let (architecture, variant) = match (architecture, variant) {
        ("x86_64" | "x86-64", variant) => ("amd64", variant),
        ("aarch64", variant) => ("arm64", variant),
        ("i386" | "i686", variant) => ("386", variant),
        ("armhf", None) => ("arm", Some("v7")),
        ("armel", None) => ("arm", Some("v6")),
        other => other,
    };
    let variant = variant.filter(|variant| !matches!((architecture, *variant), ("amd64", "v1") | ("arm64", "v8")));
    Ok(Platform {
        architecture: architecture.to_owned(),
        os: os.to_lowercase(),
        variant: variant.map(str::to_owned),
        ..Platform::default()
    })
}

/// A platform as `--platform` writes it.
pub fn text(platform: &Platform) -> String {
    match &platform.variant {
        Some(variant) if !variant.is_empty() => format!("{}/{}/{variant}", platform.os, platform.architecture),
        _ => format!("{}/{}", platform.os, platform.architecture),
    }
}

/// What this machine is called in an index.
pub fn this_machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// How well a platform suits; `None` where it does not.
fn rank(platform: &Platform, wanted: Option<&Platform>) -> Option<u32> {
    let variant = platform.variant.as_deref().unwrap_or("");
    let Some(wanted) = wanted else {
        let fits = platform.os == "linux" && platform.architecture == this_machine();
        return level(variant).filter(|level| fits && *level <= level_max());
    };
    if platform.os != wanted.os || platform.architecture != wanted.architecture {
        return None;
    }
    // As with containerd: a variant that is asked for may be answered by a lower one, an older machine's.
    match wanted.variant.as_deref().unwrap_or("") {
        "" => level(variant).or(Some(1)),
        asked if asked == variant => Some(u32::MAX),
        asked => level(variant).zip(level(asked)).filter(|(has, asked)| has <= asked).map(|(has, _)| has),
    }
}

/// A variant's number; one for none.
fn level(variant: &str) -> Option<u32> {
    if variant.is_empty() { Some(1) } else { variant.strip_prefix('v')?.parse().ok() }
}

#[cfg(target_arch = "x86_64")]
fn level_max() -> u32 {
    if is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512vl") {
        4
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") && is_x86_feature_detected!("fma") {
        3
    } else if is_x86_feature_detected!("sse4.2") && is_x86_feature_detected!("popcnt") {
        2
    } else {
        1
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn level_max() -> u32 {
    8
}

#[cfg(test)]
mod tests {
    use super::*;

    fn descriptor(architecture: &str, variant: Option<&str>) -> Descriptor {
        let platform = Platform {
            architecture: architecture.to_owned(),
            os: if architecture == "unknown" { "unknown" } else { "linux" }.to_owned(),
            variant: variant.map(str::to_owned),
            ..Platform::default()
        };
        let digest = crate::blob::digest_of(corten_types::digest::Algorithm::Sha256, architecture.as_bytes()).unwrap();
        Descriptor {
            media_type: String::new(),
            digest,
            size: 0,
            urls: Vec::new(),
            annotations: Default::default(),
            platform: Some(platform),
            artifact_type: None,
        }
    }

    #[test]
    fn the_image_for_this_machine_is_chosen() {
        let here = this_machine();
        let all = [
            descriptor("unknown", None),
            descriptor("s390x", None),
            descriptor(here, Some("v99")),
            descriptor(here, None),
        ];
        assert_eq!(select(&all, None).unwrap().platform.as_ref().unwrap().variant, None);
        assert!(select(&all[..2], None).is_none());
        let bare = Descriptor { platform: None, ..all[1].clone() };
        assert_eq!(select(std::slice::from_ref(&bare), None), Some(&bare));
    }
}
