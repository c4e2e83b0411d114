//! Which of several images is for this machine.

use corten_types::image_spec::{Descriptor, Platform};

/// The best of `manifests` for this machine: its architecture, and the highest variant that it can run. Without any
/// platform given, the first one.
pub(super) fn select(manifests: &[Descriptor]) -> Option<&Descriptor> {
    let rank = |descriptor: &Descriptor| descriptor.platform.as_ref().and_then(rank);
    let known = manifests.iter().any(|descriptor| descriptor.platform.is_some());
    if !known {
        return manifests.first();
    }
    // The first of equals: `max_by_key` gives the last.
    manifests.iter().rev().filter(|descriptor| rank(descriptor).is_some()).max_by_key(|descriptor| rank(descriptor))
}

/// What this machine is called in an index.
pub(crate) fn this_machine() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        "x86" => "386",
        "powerpc64" => "ppc64le",
        other => other,
    }
}

/// How well a platform suits; `None` where it cannot run here.
fn rank(platform: &Platform) -> Option<u32> {
    if platform.os != "linux" || platform.architecture != this_machine() {
        return None;
    }
    let variant = platform.variant.as_deref().unwrap_or("");
    let level = match variant {
        "" => 1,
        _ => variant.strip_prefix('v')?.parse::<u32>().ok()?,
    };
    (level <= level_max()).then_some(level)
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
        assert_eq!(select(&all).unwrap().platform.as_ref().unwrap().variant, None);
        assert!(select(&all[..2]).is_none());
        let bare = Descriptor { platform: None, ..all[1].clone() };
        assert_eq!(select(std::slice::from_ref(&bare)), Some(&bare));
    }
}
