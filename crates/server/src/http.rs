//! All routes of the server.

mod body;
mod broadcast;
mod cors;
mod upgrade;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;

use http::header::CONTENT_TYPE;
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warp::{Filter, Reply};

use crate::metrics::Metrics;
use crate::page::Page;
use crate::ready::Readiness;
use crate::session::Dialect;
use crate::settings::Network;
use crate::shared::Shared;
use crate::socket::SocketSettings;
use crate::sockets::Sockets;

type Body = Response<String>;

/// Where a request comes from. The listener puts it into the request: warp's own type for it can
/// only be made by warp's own accept loop.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// What the routes need.
pub(crate) struct Context {
    pub(crate) shared: Arc<Shared>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) readiness: Readiness,
    pub(crate) page: Option<Page>,
    pub(crate) socket: SocketSettings,
    /// Of Supabase's clients, which may send larger messages.
    pub(crate) phoenix_socket: SocketSettings,
    pub(crate) sockets: Arc<Sockets>,
    /// Origins that browsers may connect from; `*` is all.
    pub(crate) allowed_origins: Vec<String>,
    /// Whose `X-Forwarded-For` is believed.
    pub(crate) trusted_proxies: Vec<Network>,
    pub(crate) tasks: TaskTracker,
    pub(crate) stop: CancellationToken,
}

pub(crate) fn routes(
    context: Arc<Context>,
) -> impl Filter<Extract = (impl Reply,), Error = Infallible> + Clone + Send + Sync + 'static {
    let broadcasts = broadcast::routes(context.clone());
    let with = warp::any().map(move || context.clone());
    let health = warp::path!("health")
        .and(warp::get())
        .map(|| text(StatusCode::OK, "ok\n".into()));
    let ready =
        warp::path!("ready")
            .and(warp::get())
            .and(with.clone())
            .map(|context: Arc<Context>| {
                let (ready, report) = context.readiness.report();
                json(
                    if ready {
                        StatusCode::OK
                    } else {
                        StatusCode::SERVICE_UNAVAILABLE
                    },
                    &report,
                )
            });
    let metrics = warp::path!("metrics")
        .and(warp::get())
        .and(with.clone())
        .map(|context: Arc<Context>| {
            context.sockets.measure(&context.metrics);
            context.readiness.measure(&context.metrics);
            let mut reply = text(StatusCode::OK, context.metrics.text());
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            reply
                .headers_mut()
                .insert(CONTENT_TYPE, kind.parse().expect("a header value"));
            reply
        });
    let page = warp::path::end()
        .and(warp::get())
        .and(with.clone())
        .map(|context: Arc<Context>| context.page.as_ref().map_or_else(not_found, Page::html));
    let users = warp::path!("page.json")
        .and(warp::get())
        .and(with.clone())
        .map(|context: Arc<Context>| context.page.as_ref().map_or_else(not_found, Page::users));
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let native = warp::path!("realtime").map(|| Dialect::Native);
    let direct = warp::path!("socket" / "websocket").map(|| Dialect::Phoenix);
    let behind_gateway = warp::path!("realtime" / "v1" / "websocket").map(|| Dialect::Phoenix);
    let sockets = native
        .or(direct)
        .unify()
        .or(behind_gateway)
        .unify()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Peer>())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(with)
        .then(upgrade::upgrade);
    health
        .or(ready)
        .unify()
        .or(metrics)
        .unify()
        .or(page)
        .unify()
        .or(users)
        .unify()
        .or(broadcasts)
        .unify()
        .or(sockets)
        .unify()
        .recover(rejected)
        .unify()
}

async fn rejected(rejection: warp::Rejection) -> Result<Body, Infallible> {
    let status = match rejection.is_not_found() {
        true => StatusCode::NOT_FOUND,
        false if rejection.find::<warp::reject::MethodNotAllowed>().is_some() => {
            StatusCode::METHOD_NOT_ALLOWED
        }
        false => StatusCode::BAD_REQUEST,
    };
    Ok(problem(
        status,
        status.canonical_reason().unwrap_or("error"),
    ))
}

fn not_found() -> Body {
    problem(StatusCode::NOT_FOUND, "Not Found")
}

fn problem(status: StatusCode, message: &str) -> Body {
    json(status, &serde_json::json!({ "error": message }))
}

pub(crate) fn json(status: StatusCode, value: &serde_json::Value) -> Body {
    let mut reply = text(status, format!("{value}\n"));
    let kind = "application/json".parse().expect("a header value");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}

fn text(status: StatusCode, body: String) -> Body {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    let kind = "text/plain; charset=utf-8".parse().expect("a header value");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    reply
}
