//! Archives that become images.

use std::io::Read;

use corten_store::{Compress, LoadedImage, RootfsRequest, platform};
use corten_types::image_spec::{ContainerConfig, History, ImageConfig, Platform, RootFs};
use corten_types::{Reference, Result};

use super::changes;
use crate::engine::Engine;

/// What [`Engine::import_image`] makes of an archive.
#[derive(Debug, Clone, Default)]
pub struct ImportRequest {
    /// Instructions of a Dockerfile that set the container's defaults.
    pub changes: Vec<String>,
    /// What the history says.
    pub message: String,
    /// What the image is for; without it, this machine.
    pub platform: Option<Platform>,
    /// How its layer is compressed, where the archive is plain.
    pub compress: Option<Compress>,
    /// Its name.
    pub reference: Option<Reference>,
}

impl Engine {
    /// Makes an image of the tar of a root file system.
    pub fn import_image(&self, archive: impl Read + Send, request: ImportRequest) -> Result<LoadedImage> {
        let mut config = ContainerConfig::default();
        for change in &request.changes {
            changes::apply(&mut config, change)?;
        }
        let here = || Platform {
            os: "linux".to_owned(),
            architecture: platform::this_machine().to_owned(),
            ..Platform::default()
        };
        let created = Some(jiff::Timestamp::now().to_string());
        let step = History { created: created.clone(), comment: Some(request.message), ..History::default() };
        let config = ImageConfig {
            created,
            author: None,
            platform: request.platform.unwrap_or_else(here),
            config,
            rootfs: RootFs::default(),
            history: Vec::new(),
        };
        let (reference, compress) = (request.reference, request.compress);
        self.store().import_rootfs(archive, RootfsRequest { config, step, reference, compress, cause: "import" })
    }

    /// Makes an image of one layer that has the root and the configuration of another.
    pub fn squash_image(
        &self,
        name: &str,
        reference: Option<Reference>,
        compress: Option<Compress>,
    ) -> Result<LoadedImage> {
        let image = self.store().resolve(name)?;
        let view = self.store().view_image(&image)?;
        let steps = image.config.history.len();
        let mut config = image.config.clone();
        let created = Some(jiff::Timestamp::now().to_string());
        config.created.clone_from(&created);
        let comment = Some(format!("squashed {} layers of {steps} steps of {}", image.layers.len(), image.id));
        let step = History { created, comment, ..History::default() };
        let (reader, writer) = std::io::pipe()?;
        std::thread::scope(|scope| {
            let written =
                scope.spawn(move || view.write_tar(std::io::BufWriter::with_capacity(256 * 1024, writer)).map(drop));
            let request = RootfsRequest { config, step, reference, compress, cause: "squash" };
            let made = self.store().import_rootfs(reader, request);
            let written = written.join().unwrap_or_else(|_| {
                Err(corten_types::Error::new(
                    corten_types::ErrorKind::Internal,
                    "the thread that reads the image failed",
                ))
            });
            written.and(made)
        })
    }
}
