//! Whether a database's address is a connection pooler's.
//!
//! A pooler that lends sessions by the transaction is no place for what a session keeps: prepared
//! statements, and the temporary table in which viewers stand while policies are judged. It shows by
//! chance only, as statements that nobody has prepared; so it is looked for at the start.

use tokio_postgres::{Client, SimpleQueryMessage};
use walcast_source::{SourceError, connect_sql};

/// What to do about it, for whichever setting.
pub(crate) const REMEDY: &str = "give the database's own address (without -pooler in the host's name; often port 5432 \
                                 instead of 6432 or 6543), or a pooler that lends whole sessions";

/// Whether two connections that are open at once are one session of the server. They are where a
/// pooler has no reason to open a second one; a busy pooler may pass.
pub(crate) async fn shares_sessions(url: &str) -> Result<bool, SourceError> {
    const NAME: &str = "walcast start";
    let (one, other) = (connect_sql(url, NAME).await?, connect_sql(url, NAME).await?);
    let (one, other) = (session_of(&one).await?, session_of(&other).await?);
    Ok(one.is_some() && one == other)
}

/// Asked without a prepared statement, which might be gone before it is run.
async fn session_of(client: &Client) -> Result<Option<String>, SourceError> {
    let answer = client.simple_query("SELECT pg_catalog.pg_backend_pid()");
    Ok(answer.await?.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;

    /// The n-th connection is session `sessions[n]`.
    async fn server(sessions: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        tokio::spawn(async move {
            for session in sessions {
                let Ok((socket, _)) = listener.accept().await else {
                    return;
                };
                tokio::spawn(answer(socket, session));
            }
        });
        format!("postgres://u@{address}/d?sslmode=disable")
    }

    /// Logs in whoever comes and answers each message with one row.
    async fn answer(mut socket: TcpStream, session: &str) -> std::io::Result<()> {
        let mut ignored = [0; 4096];
        let ready = b"Z\0\0\0\x05I";
        let _ = socket.read(&mut ignored).await?;
        socket.write_all(b"R\0\0\0\x08\0\0\0\0").await?;
        socket.write_all(ready).await?;
        while socket.read(&mut ignored).await? > 0 {
            let column = b"T\0\0\0\x1c\0\x01pid\0\0\0\0\0\0\0\0\0\0\x17\0\x04\xff\xff\xff\xff\0\0";
            socket.write_all(column).await?;
            let length = u8::try_from(session.len()).expect("short");
            let head = [b'D', 0, 0, 0, 10 + length, 0, 1, 0, 0, 0, length];
            socket.write_all(&head).await?;
            socket.write_all(session.as_bytes()).await?;
            socket.write_all(b"C\0\0\0\x0dSELECT 1\0").await?;
            socket.write_all(ready).await?;
        }
        Ok(())
    }

    #[tokio::test]
    async fn two_connections_are_two_sessions_or_one() {
        for (sessions, shared) in [(&["41", "42"], false), (&["41", "41"], true)] {
            let url = server(sessions).await;
            assert_eq!(
                shares_sessions(&url).await.ok(),
                Some(shared),
                "{sessions:?}"
            );
        }
    }
}
