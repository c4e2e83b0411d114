//! `Range` and `Content-Range`, read strictly.

/// What part of a blob is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    /// All of it: no range, or one that need not be honoured (RFC 9110, 14.2).
    Whole,
    /// From the first to the last byte, inclusive.
    Bytes(u64, u64),
    /// Nothing that there is.
    Outside,
}

/// Reads a `Range` header for content of `size` bytes. Several ranges are answered with the whole.
pub(crate) fn part(header: Option<&str>, size: u64) -> Part {
    let Some(spec) = header.and_then(|header| header.trim().strip_prefix("bytes=")) else { return Part::Whole };
    let Some((first, last)) = spec.split_once('-') else { return Part::Whole };
    if spec.contains(',') {
        return Part::Whole;
    }
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first > last => Part::Whole,
        (Some(first), last) if first < size && (last.is_some() || last_is_open(spec)) => {
            Part::Bytes(first, last.unwrap_or(u64::MAX).min(size - 1))
        }
        (Some(_), last) if last.is_some() || last_is_open(spec) => Part::Outside,
        // The last so many bytes.
        (None, Some(count)) if first.trim().is_empty() => match count {
            0 => Part::Outside,
            _ if size == 0 => Part::Outside,
            count => Part::Bytes(size.saturating_sub(count), size - 1),
        },
        _ => Part::Whole,
    }
}

fn last_is_open(spec: &str) -> bool {
    spec.trim_end().ends_with('-')
}

/// Reads the `Content-Range` of a chunk, `FIRST-LAST`, also as `bytes FIRST-LAST/SIZE` and `bytes=FIRST-LAST` as some
/// clients write it. `None` where it is none.
pub(crate) fn chunk(header: &str) -> Option<(u64, u64)> {
    let spec = header.trim();
    let spec = spec.strip_prefix("bytes").map_or(spec, |rest| rest.trim_start_matches([' ', '=']));
    let spec = spec.split_once('/').map_or(spec, |(range, _)| range);
    let (first, last) = spec.split_once('-')?;
    let (first, last) = (number(first)?, number(last)?);
    (first <= last).then_some((first, last))
}

/// Digits alone: `parse` would take a plus sign.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_of_a_download() {
        for (header, size, expected) in [
            (None, 10, Part::Whole),
            (Some("bytes=0-4"), 10, Part::Bytes(0, 4)),
            (Some("bytes=5-"), 10, Part::Bytes(5, 9)),
            (Some("bytes=5-99999999999"), 10, Part::Bytes(5, 9)),
            (Some("bytes=-3"), 10, Part::Bytes(7, 9)),
            (Some("bytes=-30"), 10, Part::Bytes(0, 9)),
            (Some("bytes=10-"), 10, Part::Outside),
            (Some("bytes=10-12"), 10, Part::Outside),
            (Some("bytes=0-"), 0, Part::Outside),
            (Some("bytes=-0"), 10, Part::Outside),
            (Some("bytes=-1"), 0, Part::Outside),
            (Some("bytes=4-2"), 10, Part::Whole),
            (Some("bytes=0-1,3-4"), 10, Part::Whole),
            (Some("bytes=x-4"), 10, Part::Whole),
            (Some("bytes=+1-4"), 10, Part::Whole),
            (Some("bytes=1-x"), 10, Part::Whole),
            (Some("items=0-4"), 10, Part::Whole),
            (Some("bytes=18446744073709551616-"), 10, Part::Whole),
        ] {
            assert_eq!(part(header, size), expected, "{header:?} of {size}");
        }
    }

    #[test]
    fn ranges_of_a_chunk() {
        for (header, expected) in [
            ("0-9", Some((0, 9))),
            ("bytes 10-19/20", Some((10, 19))),
            ("bytes=10-19", Some((10, 19))),
            ("9-0", None),
            ("0-", None),
            ("-9", None),
            ("a-b", None),
            ("+0-9", None),
            ("", None),
        ] {
            assert_eq!(chunk(header), expected, "{header}");
        }
    }
}
