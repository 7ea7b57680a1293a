//! A client that writes its frames itself, in either version.

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use walcast_harness::{Message, Socket};

use crate::stage::{DEADLINE, Stage, token};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Version {
    V1,
    V2,
}

pub(crate) const BOTH: [Version; 2] = [Version::V1, Version::V2];

/// What is told when the changes of a channel are not live for a while.
pub(crate) const PATIENCE: &str = "Unable to subscribe to changes at the moment; trying again";

/// A message of the server, the same in both versions.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Heard {
    /// Null in version 1, which has no place for it.
    pub(crate) join_ref: Value,
    pub(crate) reference: Value,
    pub(crate) topic: String,
    pub(crate) event: String,
    pub(crate) payload: Value,
}

pub(crate) struct Phone {
    pub(crate) version: Version,
    socket: Socket,
    refs: u32,
}

impl Phone {
    /// With an anonymous JWT as key, as an application has it.
    pub(crate) async fn connect(stage: &Stage, version: Version) -> Result<Phone> {
        let key = token("", "anon", 3600);
        let vsn = match version {
            Version::V1 => "",
            Version::V2 => "&vsn=2.0.0",
        };
        let path = format!("/realtime/v1/websocket?apikey={key}{vsn}");
        Phone::on(&stage.walcast.websocket(&path), version).await
    }

    pub(crate) async fn on(url: &str, version: Version) -> Result<Phone> {
        Ok(Phone {
            version,
            socket: Socket::connect(url).await?,
            refs: 0,
        })
    }

    /// Sends a message and gives its ref, which is a join's join_ref, too.
    pub(crate) async fn send(
        &mut self,
        topic: &str,
        event: &str,
        payload: Value,
    ) -> Result<String> {
        self.refs += 1;
        let reference = self.refs.to_string();
        let frame = match self.version {
            Version::V1 => json!({
                "topic": topic, "event": event, "payload": payload, "ref": reference,
            }),
            Version::V2 => json!([
                if event == "phx_join" {
                    json!(reference)
                } else {
                    Value::Null
                },
                reference,
                topic,
                event,
                payload,
            ]),
        };
        self.socket.send_json(&frame).await?;
        Ok(reference)
    }

    pub(crate) async fn send_raw(&mut self, message: Message) -> Result<()> {
        self.socket.send(message).await
    }

    /// The next message, a binary broadcast too.
    pub(crate) async fn next(&mut self) -> Result<Heard> {
        match self.socket.next(DEADLINE).await? {
            Message::Text(text) => heard(self.version, serde_json::from_str(&text)?),
            Message::Binary(frame) => user_broadcast(&frame).context("a frame of kind 4"),
            other => anyhow::bail!("not a message: {other:?}"),
        }
    }

    pub(crate) async fn next_frame(&mut self) -> Result<Message> {
        self.socket.next(DEADLINE).await
    }

    pub(crate) async fn expect(&mut self, topic: &str, event: &str) -> Result<Value> {
        let heard = self.next().await?;
        ensure!(
            (&*heard.topic, &*heard.event) == (topic, event),
            "not {event} of {topic}: {heard:?}"
        );
        Ok(heard.payload)
    }

    /// Sends and takes the answer, which must be the next message.
    pub(crate) async fn ask(&mut self, topic: &str, event: &str, payload: Value) -> Result<Value> {
        let reference = self.send(topic, event, payload).await?;
        let heard = self.next().await?;
        ensure!(
            heard.event == "phx_reply" && heard.topic == topic && heard.reference == reference,
            "not the answer to {reference}: {heard:?}"
        );
        Ok(heard.payload)
    }

    /// Joins; the response, which must be ok.
    pub(crate) async fn join(&mut self, topic: &str, payload: Value) -> Result<Value> {
        let answer = self.ask(topic, "phx_join", payload).await?;
        ensure!(answer["status"] == "ok", "not joined: {answer}");
        Ok(answer["response"].clone())
    }

    /// Joins, and is refused for this reason.
    pub(crate) async fn refused(&mut self, topic: &str, payload: Value) -> Result<String> {
        let answer = self.ask(topic, "phx_join", payload).await?;
        ensure!(answer["status"] == "error", "joined: {answer}");
        let reason = answer["response"]["reason"].as_str();
        Ok(reason.context("a reason")?.to_owned())
    }

    /// Waits for the word that the changes of a channel are live. On a busy machine there is one before
    /// it, that it takes a while.
    pub(crate) async fn live(&mut self, topic: &str) -> Result<()> {
        let mut system = self.expect(topic, "system").await?;
        if system["message"] == PATIENCE {
            system = self.expect(topic, "system").await?;
        }
        ensure!(
            system["message"] == "Subscribed to PostgreSQL" && system["status"] == "ok",
            "not live: {system}"
        );
        Ok(())
    }

    /// Nothing else waits: the next message is the answer to this.
    pub(crate) async fn silent(&mut self) -> Result<()> {
        let answer = self.ask("phoenix", "heartbeat", json!({})).await?;
        ensure!(
            answer == json!({ "status": "ok", "response": {} }),
            "{answer}"
        );
        Ok(())
    }

    pub(crate) async fn closed(&mut self) -> Result<(u16, String)> {
        self.socket.closed(DEADLINE).await
    }
}

/// A join of `user`.
pub(crate) fn as_user(user: &str, config: Value) -> Value {
    json!({ "config": config, "access_token": token(user, "authenticated", 3600) })
}

fn heard(version: Version, frame: Value) -> Result<Heard> {
    let [join_ref, reference, topic, event, payload] = match version {
        Version::V1 => {
            let keys = frame.as_object().context("an object")?.len();
            ensure!(keys == 4, "not the four keys: {frame}");
            ["join_ref", "ref", "topic", "event", "payload"].map(|key| frame[key].clone())
        }
        Version::V2 => {
            let elements = frame.as_array().context("an array")?.clone();
            elements.try_into().ok().context("five elements")?
        }
    };
    Ok(Heard {
        join_ref,
        reference,
        topic: topic.as_str().context("a topic")?.to_owned(),
        event: event.as_str().context("an event")?.to_owned(),
        payload,
    })
}

/// As the JavaScript client reads it; bytes become a list of numbers.
fn user_broadcast(frame: &[u8]) -> Option<Heard> {
    let (header, mut rest) = frame.split_at_checked(5)?;
    let mut take = |length: u8| {
        let (part, after) = rest.split_at_checked(length.into())?;
        rest = after;
        std::str::from_utf8(part).ok().map(str::to_owned)
    };
    let [4, topic, event, meta, encoding] = *header else {
        return None;
    };
    let (topic, event, meta) = (take(topic)?, take(event)?, take(meta)?);
    let payload = match encoding {
        0 => json!(rest),
        _ => serde_json::from_slice(rest).ok()?,
    };
    let mut whole = json!({ "type": "broadcast", "event": event, "payload": payload });
    if !meta.is_empty() {
        whole["meta"] = serde_json::from_str(&meta).ok()?;
    }
    Some(Heard {
        join_ref: Value::Null,
        reference: Value::Null,
        topic,
        event: "broadcast".to_owned(),
        payload: whole,
    })
}

/// A frame of kind 3; JSON if `encoding` is 1.
pub(crate) fn push(
    join_ref: &str,
    reference: &str,
    topic: &str,
    event: &str,
    encoding: u8,
    payload: &[u8],
) -> Message {
    let fields = [join_ref, reference, topic, event, ""];
    let mut frame = vec![3];
    frame.extend(fields.iter().map(|field| field.len() as u8));
    frame.push(encoding);
    for field in fields {
        frame.extend_from_slice(field.as_bytes());
    }
    frame.extend_from_slice(payload);
    Message::binary(frame)
}
