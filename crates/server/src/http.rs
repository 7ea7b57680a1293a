//! All routes of the server.

use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HeaderMap, ORIGIN, UPGRADE};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;
use walcast_hub::Closing;
use walcast_websocket::accept_key;
use warp::{Filter, Reply};

use crate::metrics::Metrics;
use crate::page::Page;
use crate::ready::Readiness;
use crate::session::{Dialect, Session};
use crate::settings::Network;
use crate::shared::Shared;
use crate::socket::{self, SocketSettings};
use crate::sockets::Sockets;
use crate::stream::Stream;

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
    let realtime = warp::path!("realtime")
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Peer>())
        .and(warp::ext::optional::<OnUpgrade>())
        .and(with)
        .then(upgrade);
    health
        .or(ready)
        .unify()
        .or(metrics)
        .unify()
        .or(page)
        .unify()
        .or(users)
        .unify()
        .or(realtime)
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

/// Answers a WebSocket handshake and leaves the socket to a task of its own.
async fn upgrade(
    headers: HeaderMap,
    query: String,
    Peer(peer): Peer,
    on_upgrade: Option<OnUpgrade>,
    context: Arc<Context>,
) -> Body {
    let key = match handshake_key(&headers) {
        Ok(key) => key,
        Err(refusal) => return refusal,
    };
    let Some(on_upgrade) = on_upgrade else {
        return problem(
            StatusCode::BAD_REQUEST,
            "this connection can't be upgraded (use HTTP/1.1)",
        );
    };
    if !origin_allowed(&headers, &context.allowed_origins) {
        return problem(
            StatusCode::FORBIDDEN,
            "this origin is not allowed (setting allowed_origins)",
        );
    }
    if context.stop.is_cancelled() {
        return problem(StatusCode::SERVICE_UNAVAILABLE, "the server is stopping");
    }
    let token = token(&headers, &query);
    let address = client_address(peer.ip(), &headers, &context.trusted_proxies);
    context
        .tasks
        .spawn(talk(context.clone(), on_upgrade, address, token));
    let mut reply = Response::new(String::new());
    *reply.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = [
        (CONNECTION, "Upgrade".to_owned()),
        (UPGRADE, "websocket".to_owned()),
        (http::header::SEC_WEBSOCKET_ACCEPT, accept_key(&key)),
    ];
    for (name, value) in fields {
        reply
            .headers_mut()
            .insert(name, value.parse().expect("letters and digits only"));
    }
    reply
}

async fn talk(
    context: Arc<Context>,
    on_upgrade: OnUpgrade,
    address: IpAddr,
    token: Option<String>,
) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "upgrade failed"),
    };
    // Not Upgraded::downcast: hyper-util's `auto` wraps the transport once more.
    let parts = hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<Stream>>(upgraded);
    let Ok(parts) = parts else {
        return debug!("the upgraded connection is not one of ours");
    };
    let session = Session::begin(
        context.shared.clone(),
        Dialect::Native,
        address,
        token.as_deref(),
    )
    .await;
    drop(token);
    // Being told why costs a socket for a moment; not for any number at once.
    let told = match session.is_admitted() {
        true => None,
        false => match REFUSALS.try_acquire() {
            Ok(place) => Some(place),
            Err(_) => return,
        },
    };
    let entry = context.sockets.enter(&session);
    // The call that closes all sockets may have come before this one was among them.
    if context.stop.is_cancelled() {
        session.outbox().close(Closing::Shutdown);
    }
    let (stream, settings) = (parts.io.into_inner(), context.socket);
    // From here on the socket keeps nothing of the HTTP side alive.
    drop(context);
    socket::run(stream, parts.read_buf, session, settings).await;
    drop((entry, told));
}

/// Sockets over the limit on connections that are being told so.
static REFUSALS: Semaphore = Semaphore::const_new(256);

#[expect(clippy::result_large_err, reason = "it is the answer to one request")]
fn handshake_key(headers: &HeaderMap) -> Result<String, Body> {
    let has = |name, word: &str| {
        let values = headers
            .get_all(name)
            .iter()
            .filter_map(|value| value.to_str().ok());
        values
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(word))
    };
    if !has(CONNECTION, "upgrade") || !has(UPGRADE, "websocket") {
        let mut reply = problem(
            StatusCode::UPGRADE_REQUIRED,
            "connect with a WebSocket client",
        );
        reply
            .headers_mut()
            .insert(UPGRADE, "websocket".parse().expect("a header value"));
        return Err(reply);
    }
    if !has(http::header::SEC_WEBSOCKET_VERSION, "13") {
        let mut reply = problem(
            StatusCode::UPGRADE_REQUIRED,
            "the WebSocket version must be 13",
        );
        let version = "13".parse().expect("a header value");
        reply
            .headers_mut()
            .insert(http::header::SEC_WEBSOCKET_VERSION, version);
        return Err(reply);
    }
    let key = headers
        .get(http::header::SEC_WEBSOCKET_KEY)
        .and_then(|key| key.to_str().ok());
    // 16 bytes in base64 (RFC 6455, section 4.1).
    match key
        .map(str::trim)
        .filter(|key| key.len() == 24 && key.ends_with("=="))
    {
        Some(key) => Ok(key.to_owned()),
        None => Err(problem(
            StatusCode::BAD_REQUEST,
            "Sec-WebSocket-Key is missing or malformed",
        )),
    }
}

/// A browser always says its origin; other clients need not.
fn origin_allowed(headers: &HeaderMap, allowed: &[String]) -> bool {
    let Some(origin) = headers.get(ORIGIN) else {
        return true;
    };
    let origin = origin.to_str().unwrap_or_default();
    allowed
        .iter()
        .any(|one| one == "*" || one.eq_ignore_ascii_case(origin))
}

/// The client's own address: behind proxies that we trust, the last one that they did not add
/// themselves.
fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let forwarded = headers
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok());
    let forwarded: Vec<&str> = forwarded
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    let mut address = peer;
    for hop in forwarded.iter().rev() {
        match hop.parse() {
            Ok(before) if is_trusted(address) => address = before,
            _ => break,
        }
    }
    address.to_canonical()
}

/// `Authorization: Bearer …` first, else `?token=…`.
fn token(headers: &HeaderMap, query: &str) -> Option<String> {
    let header = headers
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok());
    let bearer = header.and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme
            .eq_ignore_ascii_case("bearer")
            .then(|| token.trim().to_owned())
    });
    let parameter = || {
        let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
        // A JWT is made of letters, digits, `-`, `_` and `.`: nothing in it is percent-encoded.
        pairs
            .find(|(name, _)| *name == "token")
            .map(|(_, token)| token.to_owned())
    };
    bearer.or_else(parameter).filter(|token| !token.is_empty())
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

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| {
                (
                    http::HeaderName::from_static(name),
                    value.parse().expect("a header value"),
                )
            })
            .collect()
    }

    #[test]
    fn handshakes() {
        let key = ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
        let upgrade = ("upgrade", "WebSocket");
        let version = ("sec-websocket-version", "13");
        for (fields, expected) in [
            (
                vec![key, upgrade, version, ("connection", "keep-alive, Upgrade")],
                101,
            ),
            (vec![key, version, ("connection", "Upgrade")], 426),
            (vec![key, upgrade, version, ("connection", "close")], 426),
            (
                vec![
                    key,
                    upgrade,
                    ("sec-websocket-version", "12"),
                    ("connection", "Upgrade"),
                ],
                426,
            ),
            (vec![upgrade, version, ("connection", "Upgrade")], 400),
            (
                vec![
                    ("sec-websocket-key", "x"),
                    upgrade,
                    version,
                    ("connection", "Upgrade"),
                ],
                400,
            ),
        ] {
            let status = handshake_key(&headers(&fields))
                .map_or_else(|reply| reply.status().as_u16(), |_| 101);
            assert_eq!(status, expected, "{fields:?}");
        }
    }

    #[test]
    fn origins() {
        let allowed = ["https://good.com".to_owned()];
        for (origin, expected) in [
            (Some("https://good.com"), true),
            (Some("HTTPS://GOOD.com"), true),
            (None, true),
            (Some("null"), false),
            (Some("https://good.com.evil.com"), false),
            (Some("https://good.com:8443"), false),
            (Some("http://good.com"), false),
        ] {
            let fields: Vec<_> = origin
                .map(|origin| ("origin", origin))
                .into_iter()
                .collect();
            assert_eq!(
                origin_allowed(&headers(&fields), &allowed),
                expected,
                "{origin:?}"
            );
            assert!(origin_allowed(&headers(&fields), &["*".to_owned()]));
        }
    }

    #[test]
    fn forwarded_addresses_are_believed_of_trusted_proxies_only() {
        let trusted: Vec<Network> = ["10.0.0.0/8"]
            .iter()
            .map(|text| Network::parse(text).expect("a network"))
            .collect();
        for (peer, forwarded, expected) in [
            ("203.0.113.1", "198.51.100.7", "203.0.113.1"),
            ("10.0.0.1", "198.51.100.7", "198.51.100.7"),
            (
                "10.0.0.1",
                "192.0.2.9, 198.51.100.7, 10.0.0.2",
                "198.51.100.7",
            ),
            ("10.0.0.1", "198.51.100.7, nonsense", "10.0.0.1"),
            ("10.0.0.1", "", "10.0.0.1"),
        ] {
            let fields = headers(&[("x-forwarded-for", forwarded)]);
            let address = client_address(peer.parse().expect("an address"), &fields, &trusted);
            assert_eq!(address.to_string(), expected, "{peer} {forwarded}");
        }
    }

    #[test]
    fn tokens() {
        for (header, query, expected) in [
            (None, "", None),
            (None, "token=", None),
            (None, "a=b&token=x.y.z", Some("x.y.z")),
            (Some("Bearer h"), "token=q", Some("h")),
            (Some("bearer h"), "", Some("h")),
            (Some("Basic h"), "token=q", Some("q")),
            (Some("h"), "", None),
        ] {
            let fields: Vec<_> = header
                .map(|value| ("authorization", value))
                .into_iter()
                .collect();
            assert_eq!(
                token(&headers(&fields), query).as_deref(),
                expected,
                "{header:?} {query}"
            );
        }
    }
}
