//! One record as it is read.

use crate::LogStream;

/// When.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stamp<'a> {
    /// RFC 3339 as it was written; read only where somebody asks.
    Text(&'a str),
    /// Seconds and nanoseconds since 1970.
    Moment((i64, u32)),
}

impl Stamp<'_> {
    /// Seconds and nanoseconds since 1970.
    pub fn moment(&self) -> Option<(i64, u32)> {
        match self {
            Self::Moment(moment) => Some(*moment),
            Self::Text(text) => {
                let time = text.parse::<jiff::Timestamp>().ok()?;
                Some((time.as_second(), u32::try_from(time.subsec_nanosecond()).unwrap_or(0)))
            }
        }
    }

    /// RFC 3339 with nine digits, as `logs -t` shows it.
    pub fn text(&self) -> String {
        self.moment().map(|(seconds, nanos)| corten_types::time::rfc3339(seconds, nanos)).unwrap_or_default()
    }
}

/// One record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogEntry<'a> {
    /// When.
    pub stamp: Stamp<'a>,
    /// Where.
    pub stream: LogStream,
    /// The text, without its line feed.
    pub bytes: &'a [u8],
    /// Whether a line ends here.
    pub ends_line: bool,
    /// The JSON of what `--details` shows.
    pub details: Option<&'a str>,
}
