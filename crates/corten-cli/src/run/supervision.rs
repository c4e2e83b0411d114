//! What a container's supervisor is told: log, restart policy, health check, stop.

use corten_engine::{HealthRequest, LogOptions, RestartPolicy, UnhealthyAction, parse_log_options};
use corten_types::{Error, Result};

use super::time::duration_ms;
use super::values;
use crate::command_line::Parsed;

/// `--log-driver` and `--log-opt`.
pub(crate) fn log(parsed: &Parsed) -> Result<LogOptions> {
    parse_log_options(parsed.last("log-driver").unwrap_or_default(), &parsed.list("log-opt"), values::bytes)
}

/// `--restart`.
pub(crate) fn restart(parsed: &Parsed) -> Result<Option<RestartPolicy>> {
    parsed.last("restart").map(RestartPolicy::parse).transpose()
}

/// `--restart-delay FIRST[:LONGEST]`.
pub(crate) fn restart_delay(parsed: &Parsed) -> Result<Option<(u64, u64)>> {
    parsed.read_last("restart-delay", |text| {
        let (first, longest) = text.split_once(':').unwrap_or((text, ""));
        let first = duration_ms(first)?;
        let longest = if longest.is_empty() { first.max(60_000) } else { duration_ms(longest)? };
        if first == 0 || longest < first {
            return Err("the first wait is at least 1ms and at most the longest".to_owned());
        }
        Ok((first, longest))
    })
}

/// `--health-…` and `--no-healthcheck`; `None` where nothing was said.
pub(crate) fn health(parsed: &Parsed) -> Result<Option<HealthRequest>> {
    let time = |name: &str| parsed.read_last(name, duration_ms);
    let action = parsed.last("health-on-failure").unwrap_or_default();
    let retries = parsed.read_last("health-retries", values::integer)?;
    let request = HealthRequest {
        disabled: parsed.is_on("no-healthcheck"),
        command: parsed.last("health-cmd").map(str::to_owned),
        interval_ms: time("health-interval")?,
        timeout_ms: time("health-timeout")?,
        start_period_ms: time("health-start-period")?,
        start_interval_ms: time("health-start-interval")?,
        retries: retries
            .map(|count| u32::try_from(count).map_err(|_| Error::invalid("--health-retries cannot be negative")))
            .transpose()?,
        on_unhealthy: UnhealthyAction::parse(action).ok_or_else(|| {
            Error::invalid(format!("invalid on-failure action `{action}`")).hint("use none, kill, restart or stop")
        })?,
    };
    Ok((request != HealthRequest::default()).then_some(request))
}
