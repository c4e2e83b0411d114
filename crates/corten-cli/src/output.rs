//! The one place where errors become text on a terminal.

use corten_types::Error;

use crate::Environment;
use crate::terminal::is_terminal;

const RED: &str = "\x1b[1;31m";
const CYAN: &str = "\x1b[1;36m";
const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The report of `error`, coloured where `colours` says so, with a line feed.
pub(crate) fn report(error: &Error, colours: bool) -> String {
    let text = error.report();
    if !colours {
        return text + "\n";
    }
    let paint = |line: &str| {
        for (start, colour) in [("error:", RED), ("hint:", CYAN), ("  caused by:", DIM)] {
            if let Some(rest) = line.strip_prefix(start) {
                return format!("{colour}{start}{RESET}{rest}\n");
            }
        }
        format!("{line}\n")
    };
    text.lines().map(paint).collect()
}

/// Whether standard error takes colours: a terminal, and nobody asked for plain text.
pub(crate) fn has_colours(environment: &Environment) -> bool {
    environment.text("NO_COLOR").is_none()
        && environment.text("TERM").is_some_and(|terminal| terminal != "dumb")
        && is_terminal(rustix::stdio::stderr())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_change_no_words() {
        let error = Error::invalid("inner").context("cannot start `x`").hint("try `y`");
        let coloured = report(&error, true);
        let mut plain = coloured.clone();
        for code in [RED, CYAN, DIM, RESET] {
            plain = plain.replace(code, "");
        }
        assert_eq!(plain, report(&error, false));
        assert!(coloured.starts_with("\x1b[1;31merror:\x1b[0m cannot start"));
    }
}
