//! `features`: what this runtime implements, as data.

use corten_types::Result;

use super::arguments::Arguments;
use super::{Context, list, print};

/// `features`
pub(super) fn features(_context: &Context<'_>, _arguments: &Arguments) -> Result<u8> {
    let text = list::to_json_pretty(&corten_runtime::features::features(), b"    ")?;
    Ok(print(&(text + "\n")))
}
