//! One channel of a socket: joined by its client, with an identity, rights and changes of its own.

use std::sync::Arc;
use std::time::Instant;

use walcast_auth::Identity;
use walcast_hub::{ChannelError, Hears, Membership, Outbox, RateLimit};
use walcast_protocol::phoenix::{
    Address, Ending, Event, Incoming, Reason, Ref, Sent, Shutdown, System, Version, write_close,
    write_error, write_ok, write_refused, write_system,
};
use walcast_rls::{ChannelFailure, ChannelViewer};

use super::changes::Changes;
use super::readiness::Telling;
use super::rights::{Kind, Rights};
use super::speech::{message, write_reason};
use crate::session::{client, text_frame};
use crate::shared::Shared;

pub(super) struct Channel {
    /// With `realtime:`.
    pub(super) topic: Arc<str>,
    pub(super) join_ref: Option<Ref>,
    pub(super) identity: Identity,
    /// As the client showed it: the same again is no news.
    pub(super) token: String,
    pub(super) membership: Membership,
    pub(super) rights: Rights,
    /// Broadcasts are answered.
    pub(super) ack: bool,
    /// It hears its own broadcasts.
    pub(super) own: bool,
    /// Under which it is present.
    pub(super) key: String,
    pub(super) presence_calls: RateLimit,
    pub(super) changes: Option<Changes>,
    pub(super) _readiness: Option<Telling>,
}

impl Channel {
    pub(super) fn join_ref(&self) -> Option<&Ref> {
        self.join_ref.as_ref()
    }

    pub(super) fn subtopic(&self) -> &str {
        subtopic(&self.topic)
    }

    pub(super) fn hears(&self) -> Hears {
        hears(&self.rights, self.own)
    }

    /// A broadcast or a presence message. Gives the outboxes that it has crowded.
    pub(super) async fn hear(
        &mut self,
        shared: &Shared,
        headers: &Arc<str>,
        version: Version,
        outbox: &Outbox,
        incoming: &Incoming,
    ) -> Result<Vec<Arc<Outbox>>, Shutdown> {
        let join_ref = self.join_ref.clone();
        let visitor = Visitor {
            shared,
            headers,
            outbox,
            answer: Address {
                join_ref: join_ref.as_ref(),
                ..incoming.address(version)
            },
        };
        match &incoming.event {
            Event::Broadcast(sent) => return Ok(self.broadcast(&visitor, sent).await),
            Event::Track { payload } => self.track(&visitor, payload).await?,
            Event::Untrack => {
                self.count_call()?;
                self.membership.untrack();
                visitor.ok();
            }
            Event::TrackNotMap => visitor.refuse(&Reason::TrackNotMap),
            Event::UnknownPresence => visitor.refuse(&Reason::Unexplained),
            Event::EmptyPresence => visitor.ok(),
            // Not answered, as theirs.
            _ => {}
        }
        Ok(Vec::new())
    }

    async fn broadcast(&mut self, visitor: &Visitor<'_>, sent: &Sent) -> Vec<Arc<Outbox>> {
        match self.may_write(visitor, Kind::Broadcast).await {
            Ok(true) => {}
            // As theirs: not even an answer.
            Ok(false) => return Vec::new(),
            Err(_) => {
                if self.ack {
                    visitor.refuse(&Reason::UnableToSetPolicies);
                }
                return Vec::new();
            }
        }
        match self.membership.broadcast(&message(sent)) {
            Ok(published) => {
                if self.ack {
                    visitor.ok();
                }
                published.crowded
            }
            Err(error) => {
                if self.ack {
                    visitor.refuse_limit(&error);
                }
                Vec::new()
            }
        }
    }

    async fn track(&mut self, visitor: &Visitor<'_>, payload: &[u8]) -> Result<(), Shutdown> {
        self.count_call()?;
        match self.may_write(visitor, Kind::Presence).await {
            Ok(true) => {}
            Ok(false) => {
                visitor.refuse(&Reason::Unexplained);
                return Ok(());
            }
            Err(failure) => return Err(unable(&failure)),
        }
        self.membership.set_hears(self.hears());
        match self.membership.track(&self.key, payload) {
            Ok(_) => visitor.ok(),
            Err(ChannelError::Limit {
                name: "presence_meta_bytes_max",
                ..
            }) => return Err(Shutdown::TrackTooLarge),
            Err(error) => visitor.refuse_limit(&error),
        }
        Ok(())
    }

    fn count_call(&mut self) -> Result<(), Shutdown> {
        let counted = self.presence_calls.count(Instant::now());
        counted.map_err(|_| Shutdown::ClientPresenceRate)
    }

    async fn may_write(
        &mut self,
        visitor: &Visitor<'_>,
        kind: Kind,
    ) -> Result<bool, ChannelFailure> {
        let viewer = channel_viewer(&self.identity, visitor.headers);
        let topic = subtopic(&self.topic);
        let access = &visitor.shared.channel_access;
        self.rights.may_write(access, &viewer, topic, kind).await
    }

    /// Nothing of it is sent any more, and the client takes it away.
    pub(super) async fn close(self, version: Version, outbox: &Outbox) {
        let (topic, join_ref) = (self.topic.clone(), self.join_ref.clone());
        self.end().await;
        outbox.push(text_frame(|out| {
            write_close(version, join_ref.as_ref(), &topic, out);
        }));
    }

    /// The same, told why; whether the client is to join again is `ending`.
    pub(super) async fn shut(
        self,
        version: Version,
        outbox: &Outbox,
        shutdown: Shutdown,
        ending: Ending,
    ) {
        let (topic, join_ref) = (self.topic.clone(), self.join_ref.clone());
        self.end().await;
        let join_ref = join_ref.as_ref();
        let system = System::Shutdown(shutdown);
        outbox.push(text_frame(|out| {
            write_system(version, join_ref, &topic, &system, out);
        }));
        outbox.push(text_frame(|out| match ending {
            Ending::Close => write_close(version, join_ref, &topic, out),
            Ending::Error => write_error(version, join_ref, &topic, out),
        }));
    }

    /// Its presence and its changes end.
    pub(super) async fn end(self) {
        let Channel {
            membership,
            changes,
            ..
        } = self;
        drop(membership);
        if let Some(changes) = changes {
            changes.end().await;
        }
    }
}

/// Who speaks in a channel, and where the answer goes.
struct Visitor<'a> {
    shared: &'a Shared,
    headers: &'a Arc<str>,
    outbox: &'a Outbox,
    answer: Address<'a>,
}

impl Visitor<'_> {
    fn ok(&self) {
        self.outbox
            .push(text_frame(|out| write_ok(self.answer, out)));
    }

    fn refuse(&self, reason: &Reason) {
        self.outbox.push(text_frame(|out| {
            write_refused(self.answer, reason, out);
        }));
    }

    fn refuse_limit(&self, error: &ChannelError) {
        match error {
            ChannelError::Limit {
                name: "broadcast_bytes_max",
                ..
            } => self.refuse(&Reason::PayloadSizeExceeded),
            error => {
                let text = error.to_string();
                self.outbox.push(text_frame(|out| {
                    write_reason(self.answer, &text, out);
                }));
            }
        }
    }
}

/// What follows `realtime:`.
pub(super) fn subtopic(topic: &str) -> &str {
    topic.strip_prefix("realtime:").unwrap_or(topic)
}

pub(super) fn hears(rights: &Rights, own: bool) -> Hears {
    Hears {
        broadcast: rights.may_hear(Kind::Broadcast),
        presence: rights.may_hear(Kind::Presence),
        own,
    }
}

pub(super) fn channel_viewer(identity: &Identity, headers: &Arc<str>) -> ChannelViewer {
    ChannelViewer::new(client::viewer(identity)).with_headers(headers.clone())
}

/// What a channel ends with if its rights can't be found out.
pub(super) fn unable(failure: &ChannelFailure) -> Shutdown {
    match failure {
        ChannelFailure::Timeout => Shutdown::QueryCanceled,
        _ => Shutdown::DatabaseUnavailable,
    }
}
