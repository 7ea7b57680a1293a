//! An echo server over blocking sockets, for the Autobahn test suite:
//!
//! ```text
//! make autobahn                                    # groups 1 to 7 and 10
//! integration/setup/autobahn.sh '9.*'              # limits and performance
//! ```
//!
//! Group 9 has messages of 16 MiB and of 65,536 parts, hence the limits. Groups 12 and 13 are about
//! compression, which the crate doesn't offer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;

use bytes::BytesMut;
use walcast_websocket::{
    CloseCode, Decoder, Incoming, Limits, OpCode, accept_key, close_frame, frame,
};

const LIMITS: Limits = Limits {
    message_bytes_max: 16 << 20,
    fragments_max: 1 << 17,
};

fn main() -> io::Result<()> {
    let address = std::env::args().nth(1);
    let listener = TcpListener::bind(address.as_deref().unwrap_or("127.0.0.1:9001"))?;
    println!("listening on {}", listener.local_addr()?);
    for socket in listener.incoming() {
        let socket = socket?;
        thread::spawn(move || {
            if let Err(error) = serve(socket) {
                eprintln!("{error}");
            }
        });
    }
    Ok(())
}

fn serve(mut socket: TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let mut input = BytesMut::new();
    upgrade(&mut socket, &mut input)?;
    let mut decoder = Decoder::new(LIMITS);
    loop {
        let reply = match decoder.decode(&mut input) {
            Ok(Some(Incoming::Text(text))) => frame(OpCode::Text, &text),
            Ok(Some(Incoming::Binary(data))) => frame(OpCode::Binary, &data),
            Ok(Some(Incoming::Ping(payload))) => frame(OpCode::Pong, &payload),
            Ok(Some(Incoming::Pong(_))) => continue,
            Ok(Some(Incoming::Close(close))) => {
                let code = close.map_or(CloseCode::NORMAL, |(code, _)| code);
                return farewell(&mut socket, &close_frame(code, ""));
            }
            Err(violation) => {
                return farewell(&mut socket, &close_frame(violation.code, violation.what));
            }
            Ok(None) => {
                if read(&mut socket, &mut input)? == 0 {
                    return Ok(());
                }
                continue;
            }
        };
        socket.write_all(&reply)?;
    }
}

/// Sends the last frame, and reads until the client closes its side.
fn farewell(socket: &mut TcpStream, close: &[u8]) -> io::Result<()> {
    socket.write_all(close)?;
    socket.shutdown(Shutdown::Write)?;
    io::copy(socket, &mut io::sink()).map(drop)
}

/// Answers the opening handshake; what came after it stays in `input`.
fn upgrade(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<()> {
    let end = loop {
        if let Some(at) = input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
            break at + 4;
        }
        if read(socket, input)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    };
    let request = input.split_to(end);
    let request = String::from_utf8_lossy(&request);
    let key = request
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"))
        .map(|(_, key)| key.trim())
        .ok_or(io::ErrorKind::InvalidData)?;
    write!(
        socket,
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {}\r\n\r\n",
        accept_key(key)
    )
}

fn read(socket: &mut TcpStream, input: &mut BytesMut) -> io::Result<usize> {
    let mut chunk = [0; 16 * 1024];
    let count = socket.read(&mut chunk)?;
    input.extend_from_slice(&chunk[..count]);
    Ok(count)
}
