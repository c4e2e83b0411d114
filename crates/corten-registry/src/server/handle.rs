//! One request: what it means, who asks, whether they may, what is answered, and the line in the log.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::body::Incoming;
use hyper::{HeaderMap, Method, Request, StatusCode, header};

use super::Registry;
use super::auth::{Identity, Need};
use super::config::Action;
use super::connection::Answer;
use super::failure::{Code, Failure};
use super::log::Line;
use super::metrics::{self, Counted};
use super::receive::Receiver;
use super::reply::{self, Reply};
use super::route::{Endpoint, Query};

/// What is read of a refused request's body, so that its client hears why before the connection closes.
const DRAIN_BYTES_MAX: u64 = 16 * 1024 * 1024;
const DRAIN_TIME_MAX: Duration = Duration::from_secs(5);

/// What a listener answers with.
#[derive(Debug)]
pub(super) enum Front {
    /// All of it.
    Registry(Arc<Registry>),
    /// `/metrics` alone, to everybody.
    Metrics(Arc<Registry>),
}

impl Front {
    fn registry(&self) -> &Arc<Registry> {
        match self {
            Self::Registry(registry) | Self::Metrics(registry) => registry,
        }
    }
}

/// A request, read.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) method: Method,
    pub(super) endpoint: Endpoint,
    pub(super) query: Query,
    pub(super) headers: HeaderMap,
    pub(super) identity: Identity,
}

impl Asked {
    /// A header's text.
    pub(super) fn header(&self, name: header::HeaderName) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

impl Answer for Front {
    async fn answer(self: Arc<Self>, peer: Arc<str>, request: Request<Incoming>) -> Reply {
        let started = Instant::now();
        let registry = Arc::clone(self.registry());
        let (parts, body) = request.into_parts();
        let mut receiver = Receiver::new(body, &registry.config.limits);
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str()).to_owned();
        let (method, headers) = (parts.method.clone(), parts.headers.clone());
        let mut identity = Identity::default();
        let endpoint = Endpoint::parse(parts.uri.path());
        let label = endpoint.as_ref().map_or("none", Endpoint::label);
        let answered = match (&*self, endpoint) {
            (_, Err(failure)) => Err(failure),
            (Self::Metrics(_), Ok(Endpoint::Metrics)) => Ok(metrics_page(&registry)),
            (Self::Metrics(_), Ok(_)) => Err(Failure::because(Code::NameUnknown, "there is nothing at this path")),
            (Self::Registry(_), Ok(endpoint)) => answer(&registry, parts, endpoint, &mut identity, &mut receiver).await,
        };
        let mut cause = None;
        let mut reply = match answered {
            Ok(reply) => reply,
            Err(failure) => {
                if failure.status == StatusCode::UNAUTHORIZED && headers.contains_key(header::AUTHORIZATION) {
                    registry.metrics.refused_logins.inc();
                }
                cause = failure.cause.as_ref().map(|error| error.one_line());
                let _in_time = tokio::time::timeout(DRAIN_TIME_MAX, receiver.drain(DRAIN_BYTES_MAX)).await;
                reply::failure(&failure)
            }
        };
        if method == Method::HEAD {
            reply = reply::without_body(reply);
        }
        reply::set(&mut reply, header::HeaderName::from_static("docker-distribution-api-version"), "registry/2.0");
        reply::set(&mut reply, header::X_CONTENT_TYPE_OPTIONS, "nosniff");
        let status = reply.status().as_u16();
        let received = receiver.received();
        registry.metrics.received.inc_by(received);
        let agent = headers.get(header::USER_AGENT).and_then(|agent| agent.to_str().ok()).unwrap_or("").to_owned();
        reply.body_mut().when_over(started, move |started, sent| {
            let took = started.elapsed();
            registry.metrics.sent.inc_by(sent);
            registry.metrics.request(&method, label, status, took);
            registry.log.write(&Line {
                peer: peer.to_string(),
                user: identity.user,
                method: method.to_string(),
                target,
                status,
                received,
                sent,
                agent,
                took,
                cause,
            });
        });
        reply
    }

    fn connected(&self) -> Box<dyn Send> {
        Box::new(Counted::new(&self.registry().metrics.connections))
    }
}

fn metrics_page(registry: &Registry) -> Reply {
    reply::bytes(StatusCode::OK, metrics::CONTENT_TYPE, registry.metrics.render())
}

async fn answer(
    registry: &Arc<Registry>,
    parts: hyper::http::request::Parts,
    endpoint: Endpoint,
    identity: &mut Identity,
    receiver: &mut Receiver,
) -> Result<Reply, Failure> {
    endpoint.check(&parts.method)?;
    let query = Query::parse(parts.uri.query())?;
    *identity = registry.gate.identify(&parts.headers).await?;
    registry.gate.check(identity, &needs(&endpoint, &parts.method))?;
    let asked = Asked { method: parts.method, endpoint, query, headers: parts.headers, identity: identity.clone() };
    match &asked.endpoint {
        Endpoint::Base => Ok(reply::json(&serde_json::json!({}))),
        Endpoint::Metrics => Ok(metrics_page(registry)),
        Endpoint::Catalog => registry.catalog(&asked).await,
        Endpoint::Tags(name) => registry.tags(&asked, name).await,
        Endpoint::Referrers(name, digest) => registry.referrers(&asked, name, digest).await,
        Endpoint::Blob(name, digest) => registry.blob(&asked, name, digest).await,
        Endpoint::Manifest(name, by) => registry.manifest(&asked, name, by, receiver).await,
        Endpoint::Uploads(name) => registry.start_upload(&asked, name, receiver).await,
        Endpoint::Upload(name, id) => registry.upload(&asked, name, id, receiver).await,
    }
}

/// What a request needs. Pushing asks for reading too, as docker-registry does: it says what is there.
fn needs<'a>(endpoint: &'a Endpoint, method: &Method) -> Vec<Need<'a>> {
    let name = match endpoint {
        Endpoint::Base | Endpoint::Metrics => return vec![Need::Known],
        Endpoint::Catalog => return vec![Need::Catalog],
        Endpoint::Tags(name)
        | Endpoint::Manifest(name, _)
        | Endpoint::Blob(name, _)
        | Endpoint::Uploads(name)
        | Endpoint::Upload(name, _)
        | Endpoint::Referrers(name, _) => name,
    };
    // Cancelling an upload takes nothing away that was there.
    let is_upload = matches!(endpoint, Endpoint::Uploads(_) | Endpoint::Upload(..));
    let actions: &[Action] = match method.as_str() {
        "DELETE" if !is_upload => &[Action::Delete],
        "GET" | "HEAD" if !is_upload => &[Action::Pull],
        _ => &[Action::Pull, Action::Push],
    };
    actions.iter().map(|action| Need::Repository(name, *action)).collect()
}
