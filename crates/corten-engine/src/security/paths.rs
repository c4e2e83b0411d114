//! The paths of /proc and /sys that a container does not see or cannot change.

use std::path::Path;

/// Hidden by default on every machine (docker's list); [`masked`] adds those of this one.
pub const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

/// Read-only by default (docker's list).
pub const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// Everything hidden by default: [`MASKED_PATHS`], and the counters by which one container could watch others heat a CPU.
pub fn masked() -> Vec<String> {
    let throttles = thermal_throttles(Path::new("/sys/devices/system/cpu"));
    MASKED_PATHS.into_iter().map(str::to_owned).chain(throttles).collect()
}

fn thermal_throttles(processors: &Path) -> Vec<String> {
    // All processors of a machine have the counters or none has: virtual machines are spared the walk.
    if !processors.join("cpu0/thermal_throttle").exists() {
        return Vec::new();
    }
    let entries = processors.read_dir().into_iter().flatten().flatten();
    let throttles = entries.map(|entry| entry.path().join("thermal_throttle")).filter(|path| path.exists());
    let mut paths: Vec<String> = throttles.map(|path| path.to_string_lossy().into_owned()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_every_processor_are_hidden() {
        let directory = tempfile::tempdir().unwrap();
        for name in ["cpu0", "cpu1", "cpu11"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        assert!(thermal_throttles(directory.path()).is_empty());
        for name in ["cpu0", "cpu11"] {
            std::fs::create_dir(directory.path().join(name).join("thermal_throttle")).unwrap();
        }
        let root = directory.path().display();
        assert_eq!(
            thermal_throttles(directory.path()),
            [format!("{root}/cpu0/thermal_throttle"), format!("{root}/cpu11/thermal_throttle")]
        );
        assert!(masked().iter().take(12).eq(MASKED_PATHS.iter()));
    }
}
