//! Bodies of requests, within bounds: of each, and of all that are being read.

use bytes::{Buf, Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use http::StatusCode;
use http::header::{CONTENT_LENGTH, HeaderMap};
use tokio::sync::{Semaphore, SemaphorePermit};

/// What all bodies together may hold while they are being read and used.
static ROOM: Semaphore = Semaphore::const_new(256 << 20);

/// A body, and its place in the memory.
pub(super) struct Held {
    pub(super) bytes: Bytes,
    _room: Option<SemaphorePermit<'static>>,
}

/// Reads a body of at most `bytes_max`; the status of the refusal if it is longer, breaks off, or
/// does not find room.
pub(super) async fn read<S, B, E>(
    headers: &HeaderMap,
    body: S,
    bytes_max: usize,
) -> Result<Held, StatusCode>
where
    S: Stream<Item = Result<B, E>>,
    B: Buf,
{
    let announced = headers.get(CONTENT_LENGTH);
    let announced = announced.and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if announced.is_some_and(|length| length > bytes_max) {
        return Err(StatusCode::PAYLOAD_TOO_LARGE);
    }
    let mut body = std::pin::pin!(body);
    let mut bytes = BytesMut::new();
    let mut room: Option<SemaphorePermit<'static>> = None;
    while let Some(chunk) = body.next().await {
        let mut chunk = chunk.map_err(|_| StatusCode::BAD_REQUEST)?;
        let more = chunk.remaining();
        if bytes.len() + more > bytes_max {
            return Err(StatusCode::PAYLOAD_TOO_LARGE);
        }
        let taken = u32::try_from(more).map_err(|_| StatusCode::PAYLOAD_TOO_LARGE)?;
        let taken = ROOM.try_acquire_many(taken);
        let taken = taken.map_err(|_| StatusCode::TOO_MANY_REQUESTS)?;
        match &mut room {
            Some(room) => room.merge(taken),
            None => room = Some(taken),
        }
        while chunk.has_remaining() {
            let piece = chunk.chunk();
            bytes.extend_from_slice(piece);
            let length = piece.len();
            chunk.advance(length);
        }
    }
    Ok(Held {
        bytes: bytes.freeze(),
        _room: room,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use futures_util::stream::iter;

    use super::*;

    #[tokio::test]
    async fn bodies_are_bounded_whatever_they_announce() {
        for (announced, chunks, expected) in [
            (None, vec!["abc", "de"], Ok("abcde")),
            (None, vec!["abc", "def"], Err(StatusCode::PAYLOAD_TOO_LARGE)),
            (Some("6"), vec![], Err(StatusCode::PAYLOAD_TOO_LARGE)),
            (Some("nonsense"), vec!["a"], Ok("a")),
            (None, vec![], Ok("")),
        ] {
            let mut headers = HeaderMap::new();
            if let Some(length) = announced {
                headers.insert(CONTENT_LENGTH, length.parse().expect("a header value"));
            }
            let chunks = chunks
                .into_iter()
                .map(|chunk| Ok::<_, Infallible>(chunk.as_bytes()));
            let held = read(&headers, iter(chunks), 5).await;
            let held = held
                .as_ref()
                .map(|held| &held.bytes[..])
                .map_err(|status| *status);
            assert_eq!(held, expected.map(str::as_bytes), "{announced:?}");
        }
    }
}
