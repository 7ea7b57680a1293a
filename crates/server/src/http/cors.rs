//! What browsers ask before a page may speak to another origin. Everybody's page may, as with
//! Supabase's: a request is worth what its token is worth, no cookie is ever read.

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_MAX_AGE, HeaderValue,
};
use http::{Response, StatusCode};

use super::Body;

/// The headers that their clients send.
const HEADERS: &str = "authorization, apikey, content-type, x-client-info, x-supabase-api-version";

pub(super) fn preflight() -> Body {
    let mut reply = Response::new(String::new());
    *reply.status_mut() = StatusCode::NO_CONTENT;
    let fields = [
        (ACCESS_CONTROL_ALLOW_METHODS, "GET, POST, OPTIONS"),
        (ACCESS_CONTROL_ALLOW_HEADERS, HEADERS),
        (ACCESS_CONTROL_MAX_AGE, "86400"),
    ];
    for (name, value) in fields {
        reply
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    open(reply)
}

/// The reply, for pages of every origin.
pub(super) fn open(mut reply: Body) -> Body {
    let all = HeaderValue::from_static("*");
    reply.headers_mut().insert(ACCESS_CONTROL_ALLOW_ORIGIN, all);
    reply
}
