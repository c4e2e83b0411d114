//! The health check of a container: the user's wishes above the image's, with docker's defaults.

use corten_types::image_spec::Healthcheck;
use corten_types::shim::HealthCheck;
use corten_types::{Error, Result};

use crate::request::HealthRequest;

const INTERVAL_MS: u64 = 30_000;
const TIMEOUT_MS: u64 = 30_000;
const START_INTERVAL_MS: u64 = 5_000;
const RETRIES: u32 = 3;

/// What is checked, and how; `None` where nothing is.
pub(crate) fn decide(request: Option<HealthRequest>, image: Option<&Healthcheck>) -> Result<Option<HealthCheck>> {
    let request = request.unwrap_or_default();
    if request.disabled {
        if request != (HealthRequest { disabled: true, ..HealthRequest::default() }) {
            return Err(Error::invalid("--no-healthcheck conflicts with --health-* options"));
        }
        return Ok(None);
    }
    let test = match (&request.command, image) {
        (Some(command), _) if !command.is_empty() => vec!["CMD-SHELL".to_owned(), command.clone()],
        (_, Some(image)) => image.test.clone(),
        _ => Vec::new(),
    };
    match test.first().map(String::as_str) {
        Some("CMD" | "CMD-SHELL") if test.len() > 1 => {}
        None | Some("NONE") => return Ok(None),
        Some(_) => return Err(Error::invalid("the image's health check is neither `CMD` nor `CMD-SHELL`")),
    }
    // The image's are nanoseconds; zero is docker's default.
    let of_image = |value: Option<i64>| {
        value.and_then(|nanoseconds| u64::try_from(nanoseconds / 1_000_000).ok()).filter(|time| *time > 0)
    };
    let time = |asked: Option<u64>, image: Option<i64>, default: u64| {
        asked.filter(|time| *time > 0).or_else(|| of_image(image)).unwrap_or(default)
    };
    let field = |get: fn(&Healthcheck) -> Option<i64>| image.and_then(get);
    Ok(Some(HealthCheck {
        interval_ms: time(request.interval_ms, field(|one| one.interval), INTERVAL_MS),
        timeout_ms: time(request.timeout_ms, field(|one| one.timeout), TIMEOUT_MS),
        start_period_ms: time(request.start_period_ms, field(|one| one.start_period), 0),
        start_interval_ms: time(request.start_interval_ms, field(|one| one.start_interval), START_INTERVAL_MS),
        retries: request
            .retries
            .filter(|count| *count > 0)
            .or_else(|| image.and_then(|one| one.retries).and_then(|count| u32::try_from(count).ok()))
            .filter(|count| *count > 0)
            .unwrap_or(RETRIES),
        on_unhealthy: request.on_unhealthy,
        test,
    }))
}

/// A container's check with what `update` says.
pub(crate) fn change(request: HealthRequest, current: Option<&HealthCheck>) -> Result<Option<HealthCheck>> {
    let nanoseconds = |time: u64| i64::try_from(time.saturating_mul(1_000_000)).ok();
    let as_image = current.map(|check| Healthcheck {
        test: check.test.clone(),
        interval: nanoseconds(check.interval_ms),
        timeout: nanoseconds(check.timeout_ms),
        start_period: nanoseconds(check.start_period_ms),
        start_interval: nanoseconds(check.start_interval_ms),
        retries: Some(check.retries.into()),
    });
    decide(Some(request), as_image.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_user_s_wishes_stand_above_the_image_s() {
        let image = Healthcheck {
            test: vec!["CMD".into(), "check".into()],
            interval: Some(5_000_000_000),
            ..Healthcheck::default()
        };
        let plain = decide(None, Some(&image)).unwrap().unwrap();
        assert_eq!((plain.interval_ms, plain.timeout_ms, plain.retries), (5000, 30_000, 3));
        let request = HealthRequest { command: Some("true".into()), retries: Some(1), ..HealthRequest::default() };
        let mixed = decide(Some(request), Some(&image)).unwrap().unwrap();
        assert_eq!((mixed.test, mixed.interval_ms, mixed.retries), (vec!["CMD-SHELL".into(), "true".into()], 5000, 1));
        assert_eq!(decide(None, None).unwrap(), None);
        let off = HealthRequest { disabled: true, ..HealthRequest::default() };
        assert_eq!(decide(Some(off.clone()), Some(&image)).unwrap(), None);
        assert!(decide(Some(HealthRequest { retries: Some(1), ..off }), None).is_err());
    }
}
