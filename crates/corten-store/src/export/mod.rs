//! Images and trees on their way out: `save`'s archive, a root as a tar.

pub(crate) mod archive;
mod layout;

pub mod tree;

pub use archive::SaveRequest;
pub use layout::Scratch;
