//! The time of day as the state shows it.

/// Now, RFC 3339 in UTC with nanoseconds.
pub(crate) fn now() -> String {
    format!("{:.9}", jiff::Timestamp::now())
}
