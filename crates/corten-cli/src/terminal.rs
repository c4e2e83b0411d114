//! The caller's terminal: raw mode that is always undone, and the size of its window.

use std::os::fd::{AsFd, BorrowedFd};

use corten_types::{Context, Result};
use rustix::termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr};

/// A terminal in raw mode; dropping it restores what was.
#[derive(Debug)]
pub(crate) struct RawMode<'a> {
    terminal: BorrowedFd<'a>,
    before: Termios,
}

impl<'a> RawMode<'a> {
    /// Enters raw mode.
    pub(crate) fn enter(terminal: BorrowedFd<'a>) -> Result<Self> {
        let before = tcgetattr(terminal).map_err(std::io::Error::from).context(|| "cannot read the terminal's mode")?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(terminal, OptionalActions::Now, &raw)
            .map_err(std::io::Error::from)
            .context(|| "cannot put the terminal into raw mode")?;
        Ok(Self { terminal, before })
    }
}

impl Drop for RawMode<'_> {
    fn drop(&mut self) {
        // A terminal that is gone needs no mode.
        let _restored = tcsetattr(self.terminal, OptionalActions::Now, &self.before);
    }
}

/// Whether `descriptor` is a terminal.
pub(crate) fn is_terminal(descriptor: impl AsFd) -> bool {
    isatty(descriptor)
}

/// Rows and columns, where `descriptor` is a terminal that knows them.
pub(crate) fn size(descriptor: impl AsFd) -> Option<(u16, u16)> {
    let size = tcgetwinsize(descriptor).ok()?;
    (size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}
