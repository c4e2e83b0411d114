//! The forms that an unpacked layer may have, behind one face: read from one stream, then made whole once the layers below
//! it are known.

use std::fs::File;
use std::path::Path;

use corten_fs::Root;
use corten_types::{Digest, Error, ErrorKind, Result};

use super::apply::Applied;
use super::decode::Decoder;
use crate::disk::Temporary;

/// How an unpacked layer lies under its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Form {
    /// A directory in overlay's form.
    Directory,
    /// An EROFS image: the tar as it came, and an index that the kernel mounts.
    Erofs,
}

impl Form {
    /// Its name in the database and for users.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Directory => "directory",
            Self::Erofs => "erofs",
        }
    }

    /// The reverse of [`Form::as_str`].
    pub fn parse(text: &str) -> Result<Self> {
        match text {
            "directory" => Ok(Self::Directory),
            "erofs" => Ok(Self::Erofs),
            _ => Err(Error::new(ErrorKind::Unsupported, format!("`{}` is no form of a layer", text.escape_debug()))
                .hint("the forms are `directory` and `erofs`")),
        }
    }

    /// What overlay gets as a lower layer, beneath the layer's directory.
    pub(crate) fn lower(self) -> &'static str {
        match self {
            Self::Directory => "fs",
            Self::Erofs => corten_fs::overlay::INDEX,
        }
    }
}

/// A form.
pub(crate) trait LayerForm: Send + Sync {
    /// Unpacks the stream, to its end, into the empty directory `into`. Where the stream is what lies in a whole file as it
    /// is, `plain` is that file.
    fn unpack(
        &self,
        stream: Decoder<'static>,
        plain: Option<&File>,
        into: &Temporary,
    ) -> Result<(Box<dyn Draft>, Option<Digest>)>;

    /// The tree of the layer that lies at `path`, for looking into it.
    fn open(&self, path: &Path) -> Result<Root>;
}

/// A layer that is unpacked but for the looks of directories that none of its members describes.
pub(crate) trait Draft: Send {
    /// What was made; its `implicit` directories wait for their looks.
    fn applied(&self) -> &Applied;

    /// Gives those directories the looks that they have in the layers below (topmost first), and makes the layer whole.
    fn finish(self: Box<Self>, below: &[Root]) -> Result<Finished>;
}

/// A layer that is whole.
pub(crate) struct Finished {
    pub(crate) form: Form,
    pub(crate) applied: Applied,
    /// Bytes that it takes on the disk, where that is known.
    pub(crate) disk_size: Option<u64>,
    /// The digest of an image's index.
    pub(crate) index: Option<Digest>,
}
