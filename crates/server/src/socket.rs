//! One WebSocket, from its upgrade to its end: frames in, frames out, and the clock.
//!
//! Reading and writing go on side by side in one task. An idle socket holds no buffer: bytes are
//! read into a buffer that all sockets of a thread share, and only what is not yet a whole frame
//! stays with the socket.

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::ready;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::time::timeout;
use walcast_hub::{Closing, Outbox, Pending};
use walcast_websocket::{CloseCode, Decoder, Incoming, Limits, OpCode, close_frame, frame};

use crate::session::{Message, Session};
use crate::stream::Stream;

/// What holds for every socket.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketSettings {
    pub(crate) message_bytes_max: usize,
    pub(crate) write_timeout: Duration,
}

/// Frames that one system call may carry.
const FRAMES_PER_WRITE: usize = 64;
/// A fragmented message may have this many parts.
const FRAGMENTS_MAX: usize = 1024;
/// How long the peer may take to answer our close frame.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// Why a socket's loops came to their end.
enum End {
    /// We end it; the outbox says why.
    Ours(Closing),
    /// The peer sent a close frame, or broke the protocol: the code that we answer with.
    Code(CloseCode, &'static str),
    /// The transport is gone.
    Gone,
}

/// Runs a socket until it ends. `early` are bytes that came together with the handshake.
pub(crate) async fn run(
    stream: Stream,
    early: Bytes,
    mut session: Session,
    settings: SocketSettings,
) {
    let outbox = session.outbox().clone();
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut unwritten = Unwritten::default();
    let end = tokio::select! {
        end = read_loop(&mut reader, early, &mut session, settings) => end,
        end = write_loop(&mut writer, &outbox, &mut unwritten, settings.write_timeout) => end,
    };
    let code = match end {
        End::Gone => None,
        End::Code(code, reason) => Some((code, reason)),
        End::Ours(closing) => Some(session.closing(closing)),
    };
    outbox.close(Closing::Done);
    // The subscriptions end now, not after the peer's answer.
    session.end().await;
    if let Some((code, reason)) = code {
        let farewell = say_goodbye(&mut writer, &outbox, unwritten, close_frame(code, reason));
        if let Ok(Ok(())) = timeout(settings.write_timeout, farewell).await {
            let _ = timeout(CLOSE_PATIENCE, until_end(&mut reader)).await;
        }
    }
}

async fn read_loop(
    reader: &mut (impl AsyncRead + Unpin),
    early: Bytes,
    session: &mut Session,
    settings: SocketSettings,
) -> End {
    let limits = Limits {
        message_bytes_max: settings.message_bytes_max,
        fragments_max: FRAGMENTS_MAX,
    };
    let mut decoder = Decoder::new(limits);
    let mut input = BytesMut::from(&early[..]);
    drop(early); // even when empty it holds the handshake's buffer, 8 KiB
    loop {
        loop {
            match decoder.decode(&mut input) {
                Ok(Some(incoming)) => {
                    // Only whole messages count: the pieces of one that never ends are no life.
                    session.heard(Instant::now());
                    if let Some(end) = receive(incoming, session).await {
                        return end;
                    }
                    // Who sends a flood gives way to the others on this thread, and to the writing
                    // of its own answers.
                    tokio::task::coop::consume_budget().await;
                }
                Ok(None) => break,
                Err(violation) => return End::Code(violation.code, violation.what),
            }
        }
        if input.is_empty() {
            input = BytesMut::new();
        }
        let wake = tokio::time::Instant::from_std(session.wake_at());
        tokio::select! {
            read = read_some(reader, &mut input) => match read {
                Ok(0) | Err(_) => return End::Gone,
                Ok(_) => {}
            },
            () = tokio::time::sleep_until(wake) => {
                if let Some(closing) = Box::pin(session.tick(Instant::now())).await {
                    return End::Ours(closing);
                }
            }
        }
    }
}

async fn receive(incoming: Incoming, session: &mut Session) -> Option<End> {
    match incoming {
        // Boxed: what a command needs exists only while it is carried out.
        Incoming::Text(message) => {
            let message = Message::Text(message);
            Box::pin(session.receive(message)).await.map(End::Ours)
        }
        Incoming::Binary(message) => {
            let message = Message::Binary(message);
            Box::pin(session.receive(message)).await.map(End::Ours)
        }
        Incoming::Ping(payload) => {
            session.outbox().push(frame(OpCode::Pong, &payload));
            None
        }
        Incoming::Pong(_) => None,
        Incoming::Close(None) => Some(End::Code(CloseCode::NORMAL, "")),
        Incoming::Close(Some((code, _))) => Some(End::Code(code, "")),
    }
}

async fn write_loop(
    writer: &mut (impl AsyncWrite + Unpin),
    outbox: &Arc<Outbox>,
    unwritten: &mut Unwritten,
    write_timeout: Duration,
) -> End {
    loop {
        match outbox.take(&mut unwritten.frames, FRAMES_PER_WRITE).await {
            Pending::Closed(closing) => return End::Ours(closing),
            Pending::Frames => match timeout(write_timeout, unwritten.write(writer)).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return End::Gone,
                // It may only be slow: once it reads again, it is told so.
                Err(_) => return End::Ours(Closing::Slow),
            },
        }
    }
}

/// Frames taken from the outbox that are not yet on the wire. Lives outside the writing future,
/// so that a frame that was cut short by the end of the socket is finished before the close frame.
#[derive(Default)]
struct Unwritten {
    frames: Vec<Bytes>,
}

impl Unwritten {
    async fn write(&mut self, writer: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        while !self.frames.is_empty() {
            let written = poll_fn(|cx| {
                // Made anew at every poll: as a part of the future it would cost each socket 1 KiB.
                let slices: [IoSlice<'_>; FRAMES_PER_WRITE] = std::array::from_fn(|at| {
                    IoSlice::new(self.frames.get(at).map_or(&[], |frame| frame))
                });
                let count = self.frames.len().min(FRAMES_PER_WRITE);
                Pin::new(&mut *writer).poll_write_vectored(cx, &slices[..count])
            })
            .await?;
            if written == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            self.advance(written);
        }
        if self.frames.capacity() > FRAMES_PER_WRITE {
            self.frames.shrink_to(FRAMES_PER_WRITE);
        }
        writer.flush().await
    }

    fn advance(&mut self, mut written: usize) {
        let whole = self.frames.iter().take_while(|frame| {
            let fits = frame.len() <= written;
            if fits {
                written -= frame.len();
            }
            fits
        });
        let whole = whole.count();
        self.frames.drain(..whole);
        if let Some(first) = self.frames.first_mut() {
            first.advance(written);
        }
    }
}

/// Writes what still waits, then the close frame.
async fn say_goodbye(
    writer: &mut (impl AsyncWrite + Unpin),
    outbox: &Arc<Outbox>,
    mut unwritten: Unwritten,
    close: Bytes,
) -> io::Result<()> {
    unwritten.write(writer).await?;
    while outbox.take(&mut unwritten.frames, FRAMES_PER_WRITE).await == Pending::Frames {
        unwritten.write(writer).await?;
    }
    unwritten.frames.push(close);
    unwritten.write(writer).await?;
    writer.shutdown().await
}

/// Reads and forgets until the peer closes its side.
async fn until_end(reader: &mut (impl AsyncRead + Unpin)) {
    let mut input = BytesMut::new();
    while matches!(read_some(reader, &mut input).await, Ok(1..)) {
        input.clear();
    }
}

thread_local! {
    /// What all sockets of a thread read into.
    static SCRATCH: RefCell<Vec<u8>> = RefCell::new(vec![0; 16 * 1024]);
}

/// Appends what has come to `input`; 0 at the end of the stream.
async fn read_some(
    reader: &mut (impl AsyncRead + Unpin),
    input: &mut BytesMut,
) -> io::Result<usize> {
    poll_fn(|cx| {
        SCRATCH.with_borrow_mut(|scratch| {
            let mut buffer = ReadBuf::new(scratch);
            ready!(Pin::new(&mut *reader).poll_read(cx, &mut buffer))?;
            input.extend_from_slice(buffer.filled());
            std::task::Poll::Ready(Ok(buffer.filled().len()))
        })
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_go_out_whole_and_in_order_whatever_the_transport_takes() {
        for capacity in [1, 2, 3, 7, 1000] {
            let (mut near, mut far) = tokio::io::duplex(capacity);
            let frames: Vec<Bytes> = (0..200u8)
                .map(|n| Bytes::from(vec![n; usize::from(n % 5) + 1]))
                .collect();
            let expected: Vec<u8> = frames.concat();
            let reading = tokio::spawn(async move {
                let mut input = BytesMut::new();
                while read_some(&mut far, &mut input)
                    .await
                    .expect("a pipe does not fail")
                    > 0
                {}
                input
            });
            let mut unwritten = Unwritten { frames };
            unwritten
                .write(&mut near)
                .await
                .expect("a pipe does not fail");
            drop(near);
            assert_eq!(
                reading.await.expect("no panic"),
                expected,
                "capacity {capacity}"
            );
        }
    }
}
