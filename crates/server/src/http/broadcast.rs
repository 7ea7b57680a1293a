//! Broadcasts over HTTP, as Supabase's clients send them: `POST /api/broadcast` and
//! `POST /api/broadcast/:topic/events/:event`, also under `/realtime/v1`. Described in
//! `proto-docs/openapi.json`, which is served at `/api/openapi`.

mod batch;
mod rates;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes};
use futures_util::Stream;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap};
use http::{Method, Response, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;
use walcast_hub::{ChannelError, Message, Namespace};
use walcast_protocol::phoenix::is_shallow;
use walcast_rls::{ChannelAction, ChannelAsk, ChannelRefusal, ChannelViewer, Viewer};
use warp::{Filter, Rejection};

use super::{Body, Context, Peer, body, cors, json, upgrade};
use crate::session::phoenix::{identify, parameter, policy_headers};
use crate::shared::Shared;
use rates::Rates;

/// What all of these requests have in common.
struct Request {
    method: Method,
    headers: HeaderMap,
    query: String,
    address: IpAddr,
    rates: Arc<Rates>,
    context: Arc<Context>,
}

/// One message on its way, its permission not yet asked.
struct Posting {
    topic: String,
    namespace: Namespace,
    message: Message,
}

const OPENAPI: &str = include_str!("../../../../proto-docs/openapi.json");

pub(super) fn routes(
    context: Arc<Context>,
) -> impl Filter<Extract = (Body,), Error = Rejection> + Clone + Send + Sync + 'static {
    let rates = Arc::new(Rates::new(
        context.shared.settings.phoenix.http_messages_per_second_max,
    ));
    let query = warp::query::raw().or(warp::any().map(String::new)).unify();
    let request = warp::method()
        .and(warp::header::headers_cloned())
        .and(query)
        .and(warp::ext::get::<Peer>())
        .map(
            move |method, headers: HeaderMap, query, Peer(peer)| Request {
                method,
                address: upgrade::client_address(peer.ip(), &headers, &context.trusted_proxies),
                headers,
                query,
                rates: rates.clone(),
                context: context.clone(),
            },
        );
    let prefix = warp::path("realtime")
        .and(warp::path("v1"))
        .or(warp::any())
        .unify();
    let batch = prefix
        .and(warp::path!("api" / "broadcast"))
        .and(request.clone())
        .and(warp::body::stream())
        .then(batch);
    let single = prefix
        .and(warp::path!(
            "api" / "broadcast" / String / "events" / String
        ))
        .and(request)
        .and(warp::body::stream())
        .then(single);
    let openapi = prefix
        .and(warp::path!("api" / "openapi"))
        .and(warp::get())
        .map(openapi);
    batch.or(single).unify().or(openapi).unify()
}

fn openapi() -> Body {
    let mut reply = Response::new(OPENAPI.to_owned());
    let kind = http::HeaderValue::from_static("application/json");
    reply.headers_mut().insert(CONTENT_TYPE, kind);
    cors::open(reply)
}

async fn batch<S, B>(request: Request, body: S) -> Body
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    answer(&request, async {
        let viewer = viewer(&request).await?;
        let shared = &request.context.shared;
        let held = take(&request, body).await?;
        let postings = batch::read(&held.bytes, shared.channels.limits().broadcast_bytes_max);
        let postings =
            postings.map_err(|errors| json(StatusCode::UNPROCESSABLE_ENTITY, &errors))?;
        count(&request, postings.len())?;
        // As theirs: what may not be sent is left out, and nothing is said about it.
        let allowed = allowed(shared, &viewer, &postings).await;
        for (posting, allowed) in postings.iter().zip(allowed) {
            if allowed.is_ok() {
                // A batch's limits were looked at when it was read.
                let _ = publish(shared, posting).await;
            }
        }
        Ok(())
    })
    .await
}

async fn single<S, B>(topic: String, event: String, request: Request, body: S) -> Body
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    answer(&request, async {
        let viewer = viewer(&request).await?;
        let shared = &request.context.shared;
        let held = take(&request, body).await?;
        let topic = decoded(&topic).ok_or_else(|| invalid("topic"))?;
        let event = decoded(&event).ok_or_else(|| invalid("event"))?;
        let message = single_message(&request.headers, event, held.bytes.clone())?;
        count(&request, 1)?;
        let posting = Posting {
            topic,
            namespace: match parameter(&request.query, "private").as_deref() {
                Some("true") => Namespace::Private,
                _ => Namespace::Public,
            },
            message,
        };
        let allowed = allowed(shared, &viewer, std::slice::from_ref(&posting)).await;
        match allowed.into_iter().next() {
            Some(Err(ChannelRefusal::Denied(_))) => {
                return Err(unauthorized(StatusCode::FORBIDDEN));
            }
            Some(Err(_)) => {
                let text = "Realtime was unable to connect to the project database";
                return Err(refusal(StatusCode::INTERNAL_SERVER_ERROR, text));
            }
            _ => {}
        }
        publish(shared, &posting).await.map_err(|error| {
            let errors = json!({ "errors": { "payload": [error.to_string()] } });
            json(StatusCode::UNPROCESSABLE_ENTITY, &errors)
        })
    })
    .await
}

/// 202 without a body, or what was refused; readable for pages of every origin.
async fn answer(request: &Request, work: impl Future<Output = Result<(), Body>>) -> Body {
    match request.method {
        Method::OPTIONS => return cors::preflight(),
        Method::POST => {}
        _ => {
            return cors::open(refusal(
                StatusCode::METHOD_NOT_ALLOWED,
                "Method Not Allowed",
            ));
        }
    }
    cors::open(match work.await {
        Ok(()) => {
            let mut reply = Response::new(String::new());
            *reply.status_mut() = StatusCode::ACCEPTED;
            reply
        }
        Err(refused) => refused,
    })
}

/// Who asks: `Authorization: Bearer`, else the header `apikey`, else the parameter.
async fn viewer(request: &Request) -> Result<ChannelViewer, Body> {
    let header = |name| {
        let value: Option<&http::HeaderValue> = request.headers.get(name);
        value.and_then(|value| value.to_str().ok())
    };
    let bearer = header(AUTHORIZATION.as_str()).and_then(|value| {
        let (scheme, token) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(token)
    });
    let shown = bearer.or_else(|| header("apikey")).map(str::to_owned);
    let shown = shown.or_else(|| parameter(&request.query, "apikey"));
    let shared = &request.context.shared;
    let identity = identify(shared, shown.as_deref().unwrap_or_default()).await;
    let identity = identity.map_err(|_| unauthorized(StatusCode::UNAUTHORIZED))?;
    let viewer = Viewer {
        role: identity.role,
        claims: identity.claims,
    };
    Ok(ChannelViewer::new(viewer).with_headers(policy_headers(&request.headers)))
}

async fn take<S, B>(request: &Request, body: S) -> Result<body::Held, Body>
where
    S: Stream<Item = Result<B, warp::Error>>,
    B: Buf,
{
    let max = request.context.shared.settings.phoenix.body_bytes_max;
    let read = body::read(&request.headers, body, max).await;
    read.map_err(|status| match status {
        StatusCode::TOO_MANY_REQUESTS => refusal(status, "Too many requests"),
        status => refusal(status, status.canonical_reason().unwrap_or("error")),
    })
}

#[expect(clippy::result_large_err, reason = "it is the answer to one request")]
fn count(request: &Request, messages: usize) -> Result<(), Body> {
    let counted = request.rates.count(request.address, messages);
    counted.map_err(|over| {
        let text = match over {
            rates::Over::Ever => "Too many messages to broadcast, please reduce the batch size",
            rates::Over::Now => "You have exceeded your rate limit",
        };
        refusal(StatusCode::TOO_MANY_REQUESTS, text)
    })
}

/// Whether each may be sent. A topic that stands in several is asked about once.
async fn allowed(
    shared: &Shared,
    viewer: &ChannelViewer,
    postings: &[Posting],
) -> Vec<Result<(), ChannelRefusal>> {
    let is_private = |posting: &&Posting| posting.namespace == Namespace::Private;
    let mut topics: Vec<&str> = postings
        .iter()
        .filter(is_private)
        .map(|posting| &*posting.topic)
        .collect();
    topics.sort_unstable();
    topics.dedup();
    let asks = topics
        .iter()
        .map(|topic| ChannelAsk::new(*topic, ChannelAction::Write, "broadcast"));
    let asks: Vec<ChannelAsk> = asks.collect();
    let mut answers = Vec::new();
    for asks in asks.chunks(walcast_rls::ChannelAccess::ASKS_MAX) {
        answers.extend(shared.channel_access.judge(viewer, asks).await);
    }
    let of = |posting: &Posting| match topics.binary_search(&&*posting.topic) {
        Ok(at) if posting.namespace == Namespace::Private => {
            let unknown = || Err(walcast_rls::ChannelFailure::Busy.into());
            answers.get(at).cloned().unwrap_or_else(unknown)
        }
        _ => Ok(()),
    };
    postings.iter().map(of).collect()
}

async fn publish(shared: &Shared, posting: &Posting) -> Result<(), ChannelError> {
    let Posting {
        topic,
        namespace,
        message,
    } = posting;
    let published = shared.channels.broadcast(*namespace, topic, message)?;
    for outbox in published.crowded {
        outbox.relieved(crate::session::MOMENT).await;
    }
    Ok(())
}

#[expect(clippy::result_large_err, reason = "it is the answer to one request")]
fn single_message(headers: &HeaderMap, event: String, body: Bytes) -> Result<Message, Body> {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok());
    let kind = kind.unwrap_or_default().split(';').next();
    match kind.unwrap_or_default().trim() {
        "application/octet-stream" => Ok(Message::binary(event, body)),
        "application/json" => {
            let parsed: Result<&RawValue, _> = serde_json::from_slice(&body);
            let payload = parsed.ok().filter(|payload| {
                payload.get().starts_with('{') && is_shallow(payload.get().as_bytes())
            });
            let payload = payload.ok_or_else(|| invalid("payload"))?;
            Ok(Message::json(
                event,
                body.slice_ref(payload.get().as_bytes()),
            ))
        }
        _ => Err(json(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            &json!({ "error": "Unsupported Media Type. Use application/json or application/octet-stream" }),
        )),
    }
}

/// A part of the path; `None` if it is blank or no text.
fn decoded(part: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(part).decode_utf8();
    let decoded = decoded.ok()?.into_owned();
    (!decoded.trim().is_empty()).then_some(decoded)
}

fn invalid(field: &str) -> Body {
    let errors = json!({ "errors": { field: ["is invalid"] } });
    json(StatusCode::UNPROCESSABLE_ENTITY, &errors)
}

fn unauthorized(status: StatusCode) -> Body {
    refusal(status, "Unauthorized")
}

fn refusal(status: StatusCode, message: &str) -> Body {
    json(status, &json!({ "message": message }))
}
