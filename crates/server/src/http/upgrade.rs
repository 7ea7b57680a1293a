//! From an HTTP request to a socket of its own.

use std::net::IpAddr;
use std::sync::Arc;

use http::header::{AUTHORIZATION, CONNECTION, HeaderMap, ORIGIN, UPGRADE};
use http::{Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::sync::Semaphore;
use tracing::debug;
use walcast_hub::Closing;
use walcast_protocol::parse_numbers;
use walcast_websocket::accept_key;

use super::{Body, Context, Peer, problem};
use crate::session::phoenix::{self, Refused};
use crate::session::{Dialect, Greeting, Session};
use crate::settings::Network;
use crate::socket;
use crate::stream::Stream;

/// Answers a WebSocket handshake and leaves the socket to a task of its own.
pub(super) async fn upgrade(
    dialect: Dialect,
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
    let address = client_address(peer.ip(), &headers, &context.trusted_proxies);
    let greeting = match dialect {
        Dialect::Native => Greeting::Native {
            address,
            token: token(&headers, &query),
            numbers: parameter(&query, "numbers").map(parse_numbers).transpose(),
        },
        Dialect::Phoenix => {
            match phoenix::greet(&context.shared, address, &headers, &query).await {
                Ok(greeting) => Greeting::Phoenix(greeting),
                Err(refused) => return handshake_refused(&refused),
            }
        }
    };
    let talking = talk(context.clone(), on_upgrade, greeting);
    context.tasks.spawn(talking);
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

async fn talk(context: Arc<Context>, on_upgrade: OnUpgrade, greeting: Greeting) {
    let upgraded = match on_upgrade.await {
        Ok(upgraded) => upgraded,
        Err(error) => return debug!(%error, "upgrade failed"),
    };
    // Not Upgraded::downcast: hyper-util's `auto` wraps the transport once more.
    let parts = hyper_util::server::conn::auto::upgrade::downcast::<TokioIo<Stream>>(upgraded);
    let Ok(parts) = parts else {
        return debug!("the upgraded connection is not one of ours");
    };
    let settings = match &greeting {
        Greeting::Native { .. } => context.socket,
        Greeting::Phoenix(_) => context.phoenix_socket,
    };
    let session = Session::begin(context.shared.clone(), greeting).await;
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
    let stream = parts.io.into_inner();
    // From here on the socket keeps nothing of the HTTP side alive.
    drop(context);
    socket::run(stream, parts.read_buf, session, settings).await;
    drop((entry, told));
}

/// What their clients find when the handshake fails.
fn handshake_refused(refused: &Refused) -> Body {
    match refused {
        // As theirs: a version that is not spoken here is told nothing.
        Refused::Version => {
            let mut reply = Response::new(String::new());
            *reply.status_mut() = StatusCode::FORBIDDEN;
            reply
        }
        Refused::Full => problem(StatusCode::TOO_MANY_REQUESTS, "Too many connected users"),
        Refused::Key(error) => problem(StatusCode::UNAUTHORIZED, &error.at_handshake()),
    }
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
pub(super) fn client_address(peer: IpAddr, headers: &HeaderMap, trusted: &[Network]) -> IpAddr {
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
    // A JWT is made of letters, digits, `-`, `_` and `.`: nothing in it is percent-encoded.
    let in_query = || parameter(query, "token").map(str::to_owned);
    bearer.or_else(in_query).filter(|token| !token.is_empty())
}

/// As it stands in the query, without decoding.
fn parameter<'a>(query: &'a str, name: &str) -> Option<&'a str> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs.find(|(key, _)| *key == name).map(|(_, value)| value)
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
