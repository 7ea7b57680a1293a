//! A conversation in Supabase's protocol: one socket, many channels, each with an identity of its
//! own. Documented in `proto-docs/supabase.md`.

mod api_key;
mod binding;
mod changes;
mod channel;
mod credential;
mod ending;
mod greeting;
mod join;
mod readiness;
mod replay;
mod rights;
mod settings;
mod speech;
mod waiting;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use tracing::debug;
use walcast_hub::{Closing, ConnId, Outbox, RateLimit, Ticket};
use walcast_protocol::phoenix::{
    Event, Incoming, Phoenix, Reason, Shutdown, Version, decode_binary, decode_text, write_ok,
    write_refused,
};
use walcast_protocol::{Code, Codec};
use walcast_websocket::{CloseCode, OpCode, frame};

use super::{Message, text_frame};
use crate::shared::Shared;

pub(crate) use api_key::ApiKeys;
pub(crate) use credential::{TokenError, identify};
pub(crate) use greeting::{Greeting, Refused, greet, parameter, policy_headers};
pub(crate) use settings::PhoenixSettings;

use channel::Channel;
use waiting::Waiting;

pub(crate) struct Session {
    shared: Arc<Shared>,
    version: Version,
    id: ConnId,
    outbox: Arc<Outbox>,
    /// What came with the handshake; in force for channels that bring no token.
    key: String,
    /// The `x-…` headers of the handshake, a JSON object, which policies may read.
    headers: Arc<str>,
    ticket: Option<Ticket>,
    /// By topic. Bounded by the limit on channels per connection.
    channels: HashMap<String, Channel>,
    /// Those that are not joined yet.
    waiting: HashMap<String, Waiting>,
    joins: RateLimit,
    messages: RateLimit,
    /// Outboxes that the last broadcast has more than half filled.
    crowded: Vec<Arc<Outbox>>,
    heard: Instant,
    pinged: Instant,
}

impl Session {
    pub(super) fn begin(shared: Arc<Shared>, greeting: Greeting) -> Session {
        let now = Instant::now();
        let settings = &shared.settings.phoenix;
        Session {
            version: greeting.version,
            id: ConnId(shared.next_id()),
            outbox: Arc::new(Outbox::new(settings.outbox_bytes_max)),
            key: greeting.key,
            headers: greeting.headers,
            ticket: Some(greeting.ticket),
            channels: HashMap::new(),
            waiting: HashMap::new(),
            joins: settings.joins(now),
            messages: settings.messages(now),
            crowded: Vec::new(),
            heard: now,
            pinged: now,
            shared,
        }
    }

    pub(super) fn outbox(&self) -> &Arc<Outbox> {
        &self.outbox
    }

    pub(super) fn id(&self) -> ConnId {
        self.id
    }

    pub(super) fn closing(&self, closing: Closing) -> (CloseCode, &'static str) {
        self.shared.metrics.closed(closing);
        let (code, reason) = Phoenix(self.version).closing(closing);
        (CloseCode(code), reason)
    }

    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    pub(super) async fn receive(&mut self, message: &Message) -> Option<Closing> {
        self.shared.metrics.messages.inc();
        let decoded = match message {
            Message::Text(bytes) => decode_text(self.version, bytes),
            Message::Binary(bytes) => decode_binary(self.version, bytes),
        };
        match decoded {
            Ok(incoming) => self.carry_out(incoming).await,
            // As theirs: dropped, and the connection stays.
            Err(error) => {
                debug!(connection = self.id.0, %error, "MalformedWebSocketMessage");
                let _ = self.messages.count(Instant::now());
            }
        }
        self.give_way().await;
        None
    }

    async fn carry_out(&mut self, incoming: Incoming) {
        match incoming.event {
            // Limited by their own rate.
            Event::Join(_) => return self.join(incoming).await,
            Event::Heartbeat => {}
            _ if self.messages.count(Instant::now()).is_err() => {
                return self.too_many(&incoming.topic).await;
            }
            Event::Leave => self.give_up(&incoming.topic).await,
            _ => self.settle(&incoming.topic).await,
        }
        match incoming.event {
            Event::Heartbeat => self.say(|version, out| write_ok(incoming.address(version), out)),
            Event::Leave => self.leave(&incoming).await,
            _ if !self.channels.contains_key(&incoming.topic) => {
                self.refuse(&incoming, &Reason::UnmatchedTopic);
            }
            Event::AccessToken(token) => self.refresh(&incoming.topic, token).await,
            _ => self.speak(incoming).await,
        }
    }

    /// Who sends more than it may loses the channel that it sends to, and is told why.
    async fn too_many(&mut self, topic: &str) {
        self.shut(topic, Shutdown::TooManyMessages).await;
    }

    async fn leave(&mut self, incoming: &Incoming) {
        let Some(channel) = self.channels.remove(&incoming.topic) else {
            return self.say(|version, out| write_ok(incoming.address(version), out));
        };
        let join_ref = channel.join_ref().cloned();
        self.say(|version, out| {
            let mut address = incoming.address(version);
            address.join_ref = join_ref.as_ref();
            write_ok(address, out);
        });
        channel.close(self.version, &self.outbox).await;
    }

    /// A broadcast or a presence message of a channel that is joined.
    async fn speak(&mut self, incoming: Incoming) {
        let Some(channel) = self.channels.get_mut(&incoming.topic) else {
            return;
        };
        let heard = channel
            .hear(
                &self.shared,
                &self.headers,
                self.version,
                &self.outbox,
                &incoming,
            )
            .await;
        match heard {
            Ok(crowded) => self.crowded = crowded,
            Err(shutdown) => self.shut(&incoming.topic, shutdown).await,
        }
    }

    /// Who sends more than others take in is read more slowly.
    async fn give_way(&mut self) {
        for outbox in self.crowded.drain(..) {
            outbox.relieved(super::memberships::MOMENT).await;
        }
    }

    /// What concerns a channel waits until it is joined.
    async fn settle(&mut self, topic: &str) {
        if let Some(waiting) = self.waiting.remove(topic)
            && let Some(channel) = waiting.outcome().await
        {
            self.channels.insert(topic.to_owned(), channel);
        }
    }

    /// A join that is not wanted any more.
    async fn give_up(&mut self, topic: &str) {
        if let Some(waiting) = self.waiting.remove(topic)
            && let Some(channel) = waiting.give_up().await
        {
            self.channels.insert(topic.to_owned(), channel);
        }
    }

    /// Takes in those that have been joined meanwhile.
    async fn settle_finished(&mut self) {
        let finished = self.waiting.iter();
        let finished = finished.filter(|(_, waiting)| waiting.is_finished());
        let finished: Vec<String> = finished.map(|(topic, _)| topic.clone()).collect();
        for topic in finished {
            self.settle(&topic).await;
        }
    }

    pub(super) async fn end(&mut self) {
        for (_, waiting) in self.waiting.drain() {
            if let Some(channel) = waiting.give_up().await {
                channel.end().await;
            }
        }
        for (_, channel) in self.channels.drain() {
            channel.end().await;
        }
        self.ticket = None;
    }

    fn refuse(&self, incoming: &Incoming, reason: &Reason) {
        debug!(connection = self.id.0, code = reason.code(), "refused");
        self.shared.metrics.refused(label(reason));
        self.say(|version, out| write_refused(incoming.address(version), reason, out));
    }

    fn say(&self, write: impl FnOnce(Version, &mut Vec<u8>)) {
        self.outbox.push(text_frame(|out| write(self.version, out)));
    }

    fn ping(&mut self, now: Instant) {
        self.pinged = now;
        self.outbox.push(frame(OpCode::Ping, b""));
    }
}

/// Under what a refusal is counted: the codes of all dialects together are few.
fn label(reason: &Reason) -> Code {
    match reason {
        Reason::MissingClaims
        | Reason::TokenExpired { .. }
        | Reason::TokenExpirationInvalid
        | Reason::TokenMalformed
        | Reason::TokenSignature
        | Reason::TokenSigner
        | Reason::TokenSignerOf { .. } => Code::Unauthorized,
        Reason::Unauthorized { .. } | Reason::PrivateOnly => Code::Forbidden,
        Reason::TopicNameRequired | Reason::UnmatchedTopic => Code::InvalidChannel,
        Reason::TooManyChannels | Reason::TooManyConnections | Reason::TooManyJoins => {
            Code::RateLimited
        }
        _ => Code::SubscriptionFailed,
    }
}
