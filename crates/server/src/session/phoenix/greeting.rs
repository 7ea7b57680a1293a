//! What a handshake brings, judged before there is a socket.

use std::net::IpAddr;
use std::sync::Arc;

use http::HeaderMap;
use serde_json::{Map, Value};
use walcast_hub::Ticket;
use walcast_protocol::phoenix::Version;

use super::{TokenError, identify};
use crate::shared::Shared;

/// A client that may have a socket.
pub(crate) struct Greeting {
    pub(super) version: Version,
    pub(super) key: String,
    pub(super) headers: Arc<str>,
    pub(super) ticket: Ticket,
}

/// Why there is no socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A `vsn` that is not spoken here.
    Version,
    Key(TokenError),
    /// A limit on connections is reached.
    Full,
}

/// Judges a handshake: its version, its API key, and whether there is a place.
pub(crate) async fn greet(
    shared: &Shared,
    address: IpAddr,
    headers: &HeaderMap,
    query: &str,
) -> Result<Greeting, Refused> {
    let version = Version::from_vsn(parameter(query, "vsn").as_deref());
    let version = version.map_err(|_| Refused::Version)?;
    let header = headers.get("x-api-key").and_then(|key| key.to_str().ok());
    let key = header
        .map(str::to_owned)
        .or_else(|| parameter(query, "apikey"))
        .filter(|key| !key.trim().is_empty())
        .ok_or(Refused::Key(TokenError::Missing))?;
    let identity = identify(shared, &key).await.map_err(Refused::Key)?;
    let ticket = shared.connections.admit(address);
    let mut ticket = ticket.map_err(|_| Refused::Full)?;
    ticket
        .set_user(identity.subject)
        .map_err(|_| Refused::Full)?;
    Ok(Greeting {
        version,
        key,
        headers: policy_headers(headers),
        ticket,
    })
}

/// A parameter of a query string, decoded.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let mut pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let (_, value) = pairs.find(|(known, _)| *known == name)?;
    let decoded = percent_encoding::percent_decode_str(value).decode_utf8();
    decoded.ok().map(|value| value.into_owned())
}

/// The headers that policies may read in `request.headers`: those that begin with `x-`, without
/// the key.
pub(crate) fn policy_headers(headers: &HeaderMap) -> Arc<str> {
    let mut object = Map::new();
    for (name, value) in headers {
        let name = name.as_str();
        if let Ok(value) = value.to_str()
            && name.starts_with("x-")
            && name != "x-api-key"
        {
            object.insert(name.to_owned(), value.into());
        }
    }
    Value::Object(object).to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters() {
        for (query, name, expected) in [
            ("apikey=a.b.c&vsn=2.0.0", "apikey", Some("a.b.c")),
            ("apikey=a.b.c&vsn=2.0.0", "vsn", Some("2.0.0")),
            ("apikey=a%2Eb", "apikey", Some("a.b")),
            ("apikey=%ff", "apikey", None),
            ("xapikey=a", "apikey", None),
            ("", "apikey", None),
        ] {
            assert_eq!(parameter(query, name).as_deref(), expected, "{query}");
        }
    }

    #[test]
    fn policies_read_no_secrets() {
        let mut headers = HeaderMap::new();
        for (name, value) in [("x-a", "1"), ("x-api-key", "k"), ("authorization", "b")] {
            headers.insert(name, value.parse().expect("a header value"));
        }
        assert_eq!(&*policy_headers(&headers), r#"{"x-a":"1"}"#);
    }
}
