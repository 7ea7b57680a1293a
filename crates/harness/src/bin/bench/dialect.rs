//! The few words of each dialect that the benches say, written by hand: no client library is measured.

use anyhow::{Result, bail};
use memchr::memmem;

use crate::frames::{BINARY, TEXT, client_frame};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    Native,
    /// Supabase's, version 2.0.0, with binary frames for broadcasts as its JavaScript client sends them.
    Phoenix,
}

/// What a client asks for once it is connected.
#[derive(Clone, Debug)]
pub(crate) enum Wish {
    /// The changes of a table in `public`.
    Table(&'static str),
    /// The messages of a topic.
    Topic(String),
}

impl Dialect {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Dialect::Native => "native",
            Dialect::Phoenix => "Phoenix 2.0.0",
        }
    }

    /// Where to connect, and the header that says who it is.
    pub(crate) fn request(self, token: &str) -> String {
        match self {
            Dialect::Native => format!("GET /realtime HTTP/1.1\r\nAuthorization: Bearer {token}"),
            Dialect::Phoenix => {
                format!("GET /realtime/v1/websocket?vsn=2.0.0&apikey={token} HTTP/1.1")
            }
        }
    }

    pub(crate) fn ask(self, wish: &Wish) -> String {
        match (self, wish) {
            (Dialect::Native, Wish::Table(table)) => {
                format!(r#"{{"type":"subscribe","channel":"table:{table}"}}"#)
            }
            (Dialect::Native, Wish::Topic(topic)) => {
                format!(r#"{{"type":"subscribe","channel":"broadcast:{topic}","config":{{}}}}"#)
            }
            (Dialect::Phoenix, Wish::Table(table)) => format!(
                r#"["1","1","realtime:{table}","phx_join",{{"config":{{"postgres_changes":[
                    {{"event":"*","schema":"public","table":"{table}"}}]}}}}]"#
            ),
            (Dialect::Phoenix, Wish::Topic(topic)) => format!(
                r#"["1","1","realtime:{topic}","phx_join",{{"config":{{"broadcast":{{"ack":false,"self":false}}}}}}]"#
            ),
        }
    }

    /// Whether a message says that the wish is granted. Errors: it is refused.
    pub(crate) fn grants(self, wish: &Wish, message: &[u8]) -> Result<bool> {
        let has = |part: &str| memmem::find(message, part.as_bytes()).is_some();
        let refused = match self {
            Dialect::Native => has(r#""type":"error""#),
            Dialect::Phoenix => has(r#""status":"error""#) || has("phx_error") || has("phx_close"),
        };
        if refused {
            bail!("refused: {}", String::from_utf8_lossy(message));
        }
        Ok(match (self, wish) {
            (Dialect::Native, _) => has(r#""type":"ack""#),
            (Dialect::Phoenix, Wish::Table(_)) => has("Subscribed to PostgreSQL"),
            (Dialect::Phoenix, Wish::Topic(_)) => has(r#""phx_reply""#),
        })
    }

    /// The frame of a message to a topic; `payload` is JSON.
    pub(crate) fn broadcast(self, topic: &str, payload: &str) -> Vec<u8> {
        const EVENT: &str = "said";
        match self {
            Dialect::Native => {
                let text = format!(
                    r#"{{"type":"broadcast","channel":"broadcast:{topic}","event":"{EVENT}","payload":{payload}}}"#
                );
                client_frame(TEXT, text.as_bytes())
            }
            Dialect::Phoenix => {
                let topic = format!("realtime:{topic}");
                let length = |text: &str| u8::try_from(text.len()).unwrap_or(u8::MAX);
                // kind, lengths of join_ref, ref, topic, event and metadata; 1: the payload is JSON
                let mut frame = vec![3, 1, 1, length(&topic), length(EVENT), 0, 1];
                for part in ["1", "2", &topic, EVENT, payload] {
                    frame.extend_from_slice(part.as_bytes());
                }
                client_frame(BINARY, &frame)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grants_a_wish() -> Result<()> {
        let (table, topic) = (Wish::Table("t"), Wish::Topic("t".into()));
        let cases = [
            (Dialect::Native, &table, r#"{"type":"ack"}"#, true),
            (Dialect::Native, &table, r#"{"type":"system"}"#, false),
            (
                Dialect::Phoenix,
                &topic,
                r#"["1","1","realtime:t","phx_reply",{"status":"ok"}]"#,
                true,
            ),
            (
                Dialect::Phoenix,
                &table,
                r#"["1","1","realtime:t","phx_reply",{"status":"ok"}]"#,
                false,
            ),
            (
                Dialect::Phoenix,
                &table,
                r#"["1",null,"realtime:t","system",{"message":"Subscribed to PostgreSQL"}]"#,
                true,
            ),
        ];
        for (dialect, wish, message, expected) in cases {
            assert_eq!(
                dialect.grants(wish, message.as_bytes())?,
                expected,
                "{message}"
            );
        }
        assert!(
            Dialect::Phoenix
                .grants(&topic, br#"{"status":"error"}"#)
                .is_err()
        );
        Ok(())
    }

    #[test]
    fn a_phoenix_broadcast_is_a_frame_of_kind_3() {
        let frame = Dialect::Phoenix.broadcast("t", r#"{"id":1}"#);
        let payload = &frame[6..]; // two bytes of header, four of mask
        assert_eq!(
            payload,
            b"\x03\x01\x01\x0a\x04\x00\x0112realtime:tsaid{\"id\":1}"
        );
    }
}
