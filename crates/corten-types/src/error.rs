//! One error type for every crate: what failed, of which kind, why, and what to type next.
//!
//! `Display` prints only the headline. [`Error::report`] walks the chain; nothing else does.

use std::error::Error as StdError;
use std::fmt;

/// The result of every fallible function in Corten.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure this is. The kind decides exit code, HTTP status and gRPC code, each in one table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// The input is malformed or contradicts itself.
    Invalid,
    /// The named object does not exist.
    NotFound,
    /// The name is taken.
    AlreadyExists,
    /// The object is in a state that does not allow the operation.
    Conflict,
    /// The kernel or a policy forbids it.
    Denied,
    /// This kernel, host or version of Corten cannot do it.
    Unsupported,
    /// A limit of the host or of Corten is reached.
    Exhausted,
    /// The program to run inside the container does not exist (docker's exit code 127).
    CommandNotFound,
    /// The program to run inside the container cannot be executed (docker's exit code 126).
    CommandNotExecutable,
    /// Stored state does not have its digest or its form.
    Corrupt,
    /// Anything else, a failed system call above all.
    Internal,
}

impl ErrorKind {
    /// Exit code of a CLI command that failed without having started a container's program.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 1,
        }
    }

    /// Exit code of `run` where the container's program never ran: 125, 126 or 127 as docker uses them.
    pub fn run_exit_code(self) -> u8 {
        match self {
            Self::CommandNotFound => 127,
            Self::CommandNotExecutable => 126,
            _ => 125,
        }
    }

    /// The kind's name in data that crosses a process boundary.
    pub fn as_str(self) -> &'static str {
        self.entry().1
    }

    /// The reverse of [`ErrorKind::as_str`]; an unknown word is `Internal`.
    pub fn parse(word: &str) -> Self {
        Self::TABLE.iter().find(|(_, name)| *name == word).map_or(Self::Internal, |(kind, _)| *kind)
    }

    const TABLE: [(Self, &'static str); 11] = [
        (Self::Invalid, "invalid"),
        (Self::NotFound, "not-found"),
        (Self::AlreadyExists, "already-exists"),
        (Self::Conflict, "conflict"),
        (Self::Denied, "denied"),
        (Self::Unsupported, "unsupported"),
        (Self::Exhausted, "exhausted"),
        (Self::CommandNotFound, "command-not-found"),
        (Self::CommandNotExecutable, "command-not-executable"),
        (Self::Corrupt, "corrupt"),
        (Self::Internal, "internal"),
    ];

    fn entry(self) -> (Self, &'static str) {
        Self::TABLE.into_iter().find(|(kind, _)| *kind == self).unwrap_or((Self::Internal, "internal"))
    }
}

/// A failure: a headline, its kind, its cause, and hints that a user can type.
pub struct Error(Box<Inner>);

struct Inner {
    kind: ErrorKind,
    message: String,
    errno: Option<i32>,
    hints: Vec<String>,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `kind` with a headline: lower case, names in backticks, no full stop.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self(Box::new(Inner { kind, message: message.into(), errno: None, hints: Vec::new(), source: None }))
    }

    /// Shorthand for [`ErrorKind::Invalid`].
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorKind::Invalid, message)
    }

    /// A failed system call, `call` written as it was made: `openat2([7]<rootfs>, "etc", RESOLVE_IN_ROOT)`.
    ///
    /// The kind follows from `errno` (the raw number): EPERM and EACCES are `Denied`, ENOENT is `NotFound`, and so on.
    pub fn syscall(call: impl Into<String>, errno: i32) -> Self {
        let source = std::io::Error::from_raw_os_error(errno);
        let kind = match errno {
            1 | 13 | 30 => ErrorKind::Denied,
            2 => ErrorKind::NotFound,
            17 => ErrorKind::AlreadyExists,
            12 | 23 | 24 | 28 | 122 => ErrorKind::Exhausted,
            38 | 95 => ErrorKind::Unsupported,
            _ => ErrorKind::Internal,
        };
        let mut error = Self::new(kind, call).caused_by(source);
        error.0.errno = Some(errno);
        error
    }

    /// Adds a hint: something to type, or one sentence that says what to change.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hints.push(hint.into());
        self
    }

    /// Sets the cause.
    #[must_use]
    pub fn caused_by(mut self, source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        self.0.source = Some(source.into());
        self
    }

    /// Replaces the kind, where the caller knows better than the call that failed.
    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// Wraps this error under a new headline; kind, errno and hints carry over.
    #[must_use]
    pub fn context(mut self, message: impl Into<String>) -> Self {
        let hints = std::mem::take(&mut self.0.hints);
        let (kind, errno) = (self.0.kind, self.0.errno);
        Self(Box::new(Inner { kind, message: message.into(), errno, hints, source: Some(Box::new(self)) }))
    }

    /// The kind.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The headline alone.
    pub fn message(&self) -> &str {
        &self.0.message
    }

    /// The raw error number of the system call at the root of this failure, if it was one.
    pub fn errno(&self) -> Option<i32> {
        self.0.errno
    }

    /// The hints, outermost first.
    pub fn hints(&self) -> &[String] {
        &self.0.hints
    }

    /// The headline and every cause below it, outermost first.
    pub fn chain(&self) -> Vec<String> {
        let mut lines = vec![self.0.message.clone()];
        let mut next = self.source();
        while let Some(cause) = next {
            lines.push(cause.to_string());
            next = cause.source();
        }
        lines
    }

    /// One line: the chain joined by `: `, for logs, JSON and protocols that have one string.
    pub fn one_line(&self) -> String {
        self.chain().join(": ")
    }

    /// What a terminal shows: headline, indented causes, a blank line, hints. No trailing newline.
    pub fn report(&self) -> String {
        let mut text = String::new();
        for (depth, line) in self.chain().iter().enumerate() {
            text.push_str(if depth == 0 { "error: " } else { "\n  caused by: " });
            text.push_str(line);
        }
        for (index, hint) in self.0.hints.iter().enumerate() {
            text.push_str(if index == 0 { "\n\nhint: " } else { "\nhint: " });
            text.push_str(hint);
        }
        text
    }

    /// Rebuilds an error from data that crossed a process boundary: what [`Error::kind`], [`Error::errno`],
    /// [`Error::chain`] and [`Error::hints`] gave on the other side.
    pub fn from_parts(kind: ErrorKind, errno: Option<i32>, chain: Vec<String>, hints: Vec<String>) -> Self {
        let mut lines = chain.into_iter().rev();
        let innermost = lines.next().unwrap_or_default();
        let mut error = Self::new(kind, innermost);
        error.0.errno = errno;
        for line in lines {
            error = error.context(line);
        }
        error.0.hints = hints;
        error
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.message)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} {}", self.0.kind, self.report())
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}

impl From<std::io::Error> for Error {
    fn from(error: std::io::Error) -> Self {
        match error.raw_os_error() {
            Some(errno) => {
                let mut typed = Self::syscall("system call", errno);
                typed.0.message = error.to_string();
                typed.0.source = None;
                typed
            }
            None => Self::new(ErrorKind::Internal, error.to_string()),
        }
    }
}

/// Puts a headline above the failure of any call.
pub trait Context<T> {
    /// Wraps the error, if there is one, under `message`.
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T>;
}

impl<T, E: Into<Error>> Context<T> for std::result::Result<T, E> {
    fn context<M: Into<String>>(self, message: impl FnOnce() -> M) -> Result<T> {
        self.map_err(|error| error.into().context(message()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_shows_causes_indented_and_hints_last() {
        let error = Error::syscall("openat2([7]<rootfs>, \"etc\", RESOLVE_IN_ROOT)", 1)
            .hint("run `corten info`")
            .context("cannot start container `web`");
        assert_eq!(
            error.report(),
            "error: cannot start container `web`\n  caused by: openat2([7]<rootfs>, \"etc\", RESOLVE_IN_ROOT)\n  \
             caused by: Operation not permitted (os error 1)\n\nhint: run `corten info`"
        );
        assert_eq!((error.kind(), error.errno()), (ErrorKind::Denied, Some(1)));
    }

    #[test]
    fn an_error_survives_a_process_boundary() {
        let error = Error::invalid("`process.args` is empty").context("cannot create `x`").hint("name a program");
        let back = Error::from_parts(
            ErrorKind::parse(error.kind().as_str()),
            error.errno(),
            error.chain(),
            error.hints().to_vec(),
        );
        assert_eq!(back.report(), error.report());
    }
}
