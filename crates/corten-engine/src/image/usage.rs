//! What is on the disk, and work that nobody needs to wait for.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use corten_store::ImageUsage;
use corten_types::{Error, Result};

use crate::container::Container;
use crate::engine::Engine;

/// What an engine takes on the disk.
#[derive(Debug, Clone, Default)]
pub struct DiskUsage {
    /// Blobs and layers of all images, bytes.
    pub images_bytes: u64,
    /// Each image, newest first, with how many containers use it.
    pub images: Vec<(ImageUsage, usize)>,
    /// Each container with the bytes that it wrote.
    pub containers: Vec<(Container, u64)>,
}

impl Engine {
    /// Counts what lies on the disk, as `du` does.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let usage = self.store().usage()?;
        let containers = self.containers()?;
        let mut users: BTreeMap<&str, usize> = BTreeMap::new();
        for container in &containers {
            *users.entry(container.config.image_id.as_str()).or_default() += 1;
        }
        let count = |image: &ImageUsage| users.get(image.image.id.to_string().as_str()).copied().unwrap_or(0);
        let images = usage.by_image.into_iter().map(|image| (image.clone(), count(&image))).collect();
        let size = |container: &Container| usage.snapshots.get(&container.config.id).copied().unwrap_or(0);
        let containers = containers.iter().map(|container| (container.clone(), size(container))).collect();
        Ok(DiskUsage { images_bytes: usage.images, images, containers })
    }

    /// Starts a process that deletes what was removed and makes new layers durable, where there is such work, and does
    /// not wait for it. Where none can be started, the next command that looks does the work.
    pub fn do_chores_in_background(&self) -> Result<()> {
        if !self.store().has_chores()? {
            return Ok(());
        }
        let options = self.options();
        let started = Command::new(&options.executable)
            .arg("--root")
            .arg(&options.root)
            .arg("--run-root")
            .arg(&options.run_root)
            .args(["system", "chores"])
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The terminal's signals are not for it.
            .process_group(0)
            .spawn();
        started.map(drop).map_err(|error| Error::from(error).context("cannot start the background work of the store"))
    }
}
