//! `/metrics`: what the server does, in the OpenMetrics format.

use std::sync::atomic::AtomicU64;
use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

/// The content type of the answer.
pub(crate) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Request {
    method: &'static str,
    endpoint: &'static str,
    code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Endpoint {
    endpoint: &'static str,
}

/// What is counted. Labels come from fixed sets: no client can make them grow.
#[derive(Debug)]
pub(crate) struct Metrics {
    registry: Registry,
    requests: Family<Request, Counter>,
    durations: Family<Endpoint, Histogram, fn() -> Histogram>,
    pub(crate) received: Counter,
    pub(crate) sent: Counter,
    pub(crate) connections: Gauge,
    pub(crate) uploads: Gauge,
    pub(crate) refused_logins: Counter,
    over_quota: Counter,
    pub(crate) collected_blobs: Counter,
    pub(crate) collected_bytes: Counter<u64, AtomicU64>,
    pub(crate) cache_hits: Counter,
    pub(crate) cache_misses: Counter,
}

fn histogram() -> Histogram {
    Histogram::new([0.001, 0.005, 0.025, 0.1, 0.5, 2.5, 10.0, 60.0])
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("corten_registry");
        let requests = Family::<Request, Counter>::default();
        let durations: Family<Endpoint, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(histogram as fn() -> Histogram);
        registry.register("requests", "Requests answered", requests.clone());
        registry.register("request_seconds", "Time from a request's head to its answer's end", durations.clone());
        let mut counter = |name: &str, help: &str| {
            let counter = Counter::default();
            registry.register(name, help, counter.clone());
            counter
        };
        let received = counter("received_bytes", "Bytes of content received");
        let sent = counter("sent_bytes", "Bytes of content sent");
        let refused_logins = counter("refused_logins", "Proofs of identity that failed");
        let over_quota = counter("over_quota", "Uploads refused because of a quota");
        let collected_blobs = counter("collected_blobs", "Blobs removed by collection");
        let collected_bytes = counter("collected_bytes", "Bytes given back by collection");
        let cache_hits = counter("cache_hits", "Content of another registry that was here");
        let cache_misses = counter("cache_misses", "Content of another registry that was fetched");
        let (connections, uploads) = (Gauge::default(), Gauge::default());
        registry.register("connections", "Connections open", connections.clone());
        registry.register("uploads", "Requests that bring content, running", uploads.clone());
        Self {
            registry,
            requests,
            durations,
            received,
            sent,
            connections,
            uploads,
            refused_logins,
            over_quota,
            collected_blobs,
            collected_bytes,
            cache_hits,
            cache_misses,
        }
    }

    /// Counts a request that is over.
    pub(crate) fn request(&self, method: &hyper::Method, endpoint: &'static str, code: u16, took: Duration) {
        let method = match method.as_str() {
            "GET" => "GET",
            "HEAD" => "HEAD",
            "PUT" => "PUT",
            "POST" => "POST",
            "PATCH" => "PATCH",
            "DELETE" => "DELETE",
            _ => "other",
        };
        self.requests.get_or_create(&Request { method, endpoint, code }).inc();
        self.durations.get_or_create(&Endpoint { endpoint }).observe(took.as_secs_f64());
    }

    /// Counts an upload that a quota refused.
    pub(crate) fn note_over_quota(&self) {
        self.over_quota.inc();
    }

    /// The page.
    pub(crate) fn render(&self) -> String {
        let mut page = String::new();
        // Writing to a string cannot fail.
        text::encode(&mut page, &self.registry).unwrap_or_default();
        page
    }
}

/// Something that is counted while it lives.
#[derive(Debug)]
pub(crate) struct Counted(Gauge);

impl Counted {
    pub(crate) fn new(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_was_counted() {
        let metrics = Metrics::new();
        metrics.request(&hyper::Method::GET, "blob", 200, Duration::from_millis(2));
        let counted = Counted::new(&metrics.connections);
        let page = metrics.render();
        assert!(
            page.contains(r#"corten_registry_requests_total{method="GET",endpoint="blob",code="200"} 1"#),
            "{page}"
        );
        assert!(page.contains("corten_registry_connections 1") && page.ends_with("# EOF\n"), "{page}");
        drop(counted);
        assert!(metrics.render().contains("corten_registry_connections 0"));
    }
}
