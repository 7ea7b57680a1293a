//! How a channel is joined: everything is asked in the order in which Supabase's server asks it.

use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use tracing::debug;
use walcast_auth::Identity;
use walcast_hub::{ChannelError, Joining, Membership, Namespace};
use walcast_protocol::Code;
use walcast_protocol::phoenix::{
    Address, Incoming, Join, Reason, Ref, Style, System, write_joined, write_presence_state,
    write_refused, write_system,
};
use walcast_rls::ChannelFailure;

use super::changes::{Changes, Work};
use super::channel::{Channel, channel_viewer, hears};
use super::replay::replayed;
use super::rights::{Kind, Rights};
use super::speech::write_reason;
use super::waiting::{Ends, Waiting, patience};
use super::{Event, Session, identify, label, readiness};
use crate::session::client::viewer;
use crate::session::memberships::unique_key;
use crate::session::text_frame;
use crate::voice::phoenix_metas;

/// Why a join is refused.
pub(super) enum Refused {
    Reason(Reason),
    /// A limit of ours, by its name.
    Limit(ChannelError),
}

/// Who joins, and what it may.
struct Admitted {
    identity: Identity,
    token: String,
    rights: Rights,
    /// The frames of messages that were sent before.
    replayed: Bytes,
}

/// Makes the membership; the answer and what follows it are the first that the client hears.
pub(super) type Entrance = Box<dyn FnOnce() -> Result<Membership, ChannelError> + Send>;

impl Session {
    pub(super) async fn join(&mut self, incoming: Incoming) {
        let Event::Join(join) = &incoming.event else {
            return;
        };
        for malformed in &join.malformed {
            debug!(connection = self.id.0, %malformed, "InvalidJoinPayload");
        }
        // As theirs: a second join ends the first, whatever becomes of it.
        let before = match self.waiting.remove(&incoming.topic) {
            Some(waiting) => waiting.give_up().await,
            None => self.channels.remove(&incoming.topic),
        };
        if let Some(before) = before {
            before.close(self.version, &self.outbox).await;
        }
        // Clients that send no join_ref know the channel by the join's own ref.
        let join_ref = incoming.join_ref.clone();
        let join_ref = join_ref.or_else(|| incoming.reference.clone());
        if let Err(refused) = self.begin_join(&incoming, join, join_ref.as_ref()).await {
            self.refusal(&incoming)(refused);
        }
    }

    async fn begin_join(
        &mut self,
        incoming: &Incoming,
        join: &Join,
        join_ref: Option<&Ref>,
    ) -> Result<(), Refused> {
        let subtopic = match incoming.subtopic() {
            None => return Err(Reason::UnmatchedTopic.into()),
            Some("") => return Err(Reason::TopicNameRequired.into()),
            Some(subtopic) => subtopic,
        };
        self.may_join(join)?;
        let admitted = self.admit(subtopic, join, &incoming.topic).await?;
        let entrance = self.entrance(incoming, join, join_ref, &admitted);
        let viewer = viewer(&admitted.identity);
        let seat = self.seat(incoming, join, join_ref, admitted);
        let topic = incoming.topic.clone();
        let changes = match self.work(incoming, join) {
            Some(work) if join.changes.wait => {
                let ends = Ends {
                    entrance,
                    seat: Box::new(seat),
                    refuse: Box::new(self.refusal(incoming)),
                };
                let waiting = Waiting::begin(work, viewer, ends, patience(join));
                self.waiting.insert(topic, waiting);
                return Ok(());
            }
            work => work,
        };
        // First the answer, then the changes.
        let membership = entrance()?;
        let changes = changes.map(|work| work.start(viewer, false));
        self.channels.insert(topic, seat(membership, changes));
        Ok(())
    }

    /// Tells the client of a refusal.
    fn refusal(&self, incoming: &Incoming) -> impl FnOnce(Refused) + Send + use<> {
        let (version, outbox, shared) = (self.version, self.outbox.clone(), self.shared.clone());
        let (join_ref, reference) = (incoming.join_ref.clone(), incoming.reference.clone());
        let (topic, connection) = (incoming.topic.clone(), self.id.0);
        move |refused| {
            let address = Address {
                version,
                join_ref: join_ref.as_ref(),
                reference: reference.as_ref(),
                topic: &topic,
            };
            outbox.push(text_frame(|out| match refused {
                Refused::Reason(reason) => {
                    debug!(connection, code = reason.code(), "join refused");
                    shared.metrics.refused(label(&reason));
                    write_refused(address, &reason, out);
                }
                Refused::Limit(error) => {
                    debug!(connection, %error, "join refused");
                    shared.metrics.refused(Code::RateLimited);
                    write_reason(address, &error.to_string(), out);
                }
            }));
        }
    }

    /// Makes the channel of its membership.
    fn seat(
        &self,
        incoming: &Incoming,
        join: &Join,
        join_ref: Option<&Ref>,
        admitted: Admitted,
    ) -> impl FnOnce(Membership, Option<Changes>) -> Channel + Send + use<> {
        let topic: Arc<str> = incoming.topic.as_str().into();
        let key = join.presence.key.clone().unwrap_or_else(unique_key);
        let (ack, own) = (join.broadcast.ack, join.broadcast.own);
        let join_ref = join_ref.cloned();
        let presence_calls = self.shared.settings.phoenix.presence_calls(Instant::now());
        let ready = join.broadcast.replication_ready;
        let (version, outbox) = (self.version, self.outbox.clone());
        let stream = self.shared.stream.clone();
        move |membership, changes| Channel {
            _readiness: ready
                .then(|| readiness::tell(version, outbox, topic.clone(), join_ref.clone(), stream)),
            topic,
            join_ref,
            identity: admitted.identity,
            token: admitted.token,
            membership,
            rights: admitted.rights,
            ack,
            own,
            key,
            presence_calls,
            changes,
        }
    }

    /// What costs nothing to know.
    fn may_join(&mut self, join: &Join) -> Result<(), Refused> {
        if self.shared.settings.phoenix.private_only && !join.private {
            return Err(Reason::PrivateOnly.into());
        }
        if self.joins.count(Instant::now()).is_err() {
            return Err(Reason::TooManyJoins.into());
        }
        let limits = self.shared.channels.limits();
        let another = limits.another_channel(self.channels.len() + self.waiting.len());
        another.map_err(|_| Reason::TooManyChannels.into())
    }

    async fn admit(
        &mut self,
        subtopic: &str,
        join: &Join,
        topic: &str,
    ) -> Result<Admitted, Refused> {
        let own = join.token.as_ref().map(|token| token.as_str());
        let token = own.unwrap_or(&self.key).to_owned();
        let identity = identify(&self.shared, &token).await;
        let identity = identity.map_err(|error| error.at_join())?;
        if let (Some(ticket), Some(user)) = (&mut self.ticket, &identity.subject) {
            let placed = ticket.set_user(Some(user.clone()));
            placed.map_err(|_| Reason::TooManyConnections)?;
        }
        let asking = channel_viewer(&identity, &self.headers);
        let access = &self.shared.channel_access;
        let rights = match join.private {
            false => Rights::public(),
            true => {
                let presence = join.presence.enabled;
                let rights = Rights::of_reader(access, &asking, subtopic, presence).await;
                rights.map_err(|failure| unable(&failure))?
            }
        };
        if !rights.may_join() {
            let topic = subtopic.to_owned();
            return Err(Reason::Unauthorized { topic }.into());
        }
        let replayed = match &join.broadcast.replay {
            None => Bytes::new(),
            Some(_) if !join.private => return Err(Reason::ReplayOnPublic.into()),
            Some(Err(())) => return Err(Reason::ReplayParams.into()),
            Some(Ok(replay)) => {
                let found = access.replay(&asking, subtopic, replay.since_ms, replay.limit.into());
                let found = found.await.map_err(|_| Reason::Replay)?;
                replayed(self.version, topic, &found)
            }
        };
        Ok(Admitted {
            identity,
            token,
            rights,
            replayed,
        })
    }

    /// Everything that the membership and its first frames are made of, to be used at the moment
    /// when all is live.
    fn entrance(
        &self,
        incoming: &Incoming,
        join: &Join,
        join_ref: Option<&Ref>,
        admitted: &Admitted,
    ) -> Entrance {
        let version = self.version;
        let reply = text_frame(|out| {
            let mut address = incoming.address(version);
            address.join_ref = join_ref;
            write_joined(address, &join.changes.bindings, out);
        });
        let tells_state = join.presence.enabled && admitted.rights.may_hear(Kind::Presence);
        let namespace = match join.private {
            true => Namespace::Private,
            false => Namespace::Public,
        };
        let style = Style {
            version,
            legacy: false,
        };
        let joining = Joining {
            outbox: self.outbox.clone(),
            format: style.format(),
            label: incoming.topic.as_str().into(),
            hears: hears(&admitted.rights, join.broadcast.own),
            present: None,
        };
        let (topic, join_ref) = (incoming.topic.clone(), join_ref.cloned());
        let replayed = admitted.replayed.clone();
        let channels = self.shared.channels.clone();
        Box::new(move || {
            let subtopic = topic.strip_prefix("realtime:").unwrap_or(&topic);
            channels.join(namespace, subtopic, joining, |arrival| {
                let mut frames = BytesMut::from(&reply[..]);
                if tells_state {
                    let present = arrival.roster.iter();
                    let present = present.map(|(key, metas)| (key, phoenix_metas(metas)));
                    frames.extend_from_slice(&text_frame(|out| {
                        write_presence_state(version, join_ref.as_ref(), &topic, present, out);
                    }));
                }
                frames.extend_from_slice(&replayed);
                frames.freeze()
            })
        })
    }

    /// The changes that it wants, if any and if there is room for them.
    fn work(&self, incoming: &Incoming, join: &Join) -> Option<Work> {
        if join.changes.bindings.is_empty() {
            return None;
        }
        let style = Style {
            version: self.version,
            legacy: join.legacy,
        };
        let work = Work::new(
            self.shared.clone(),
            self.outbox.clone(),
            incoming.topic.as_str().into(),
            style,
            &join.changes.bindings,
        );
        let held = self
            .channels
            .values()
            .filter_map(|one| one.changes.as_ref());
        let waiting = self.waiting.values().map(Waiting::bindings);
        let held: usize = held.map(Changes::bindings).chain(waiting).sum();
        let max = self.shared.settings.phoenix.bindings_max;
        if max == 0 || held + work.bindings() <= max {
            return Some(work);
        }
        let reason = format!("supabase_bindings_per_connection_max reached: {max}");
        let system = System::Retrying { reason };
        self.say(|version, out| write_system(version, None, &incoming.topic, &system, out));
        None
    }
}

fn unable(failure: &ChannelFailure) -> Reason {
    match failure {
        ChannelFailure::Busy => Reason::PoolExhausted,
        ChannelFailure::Timeout => Reason::QueryCanceled,
        ChannelFailure::Unavailable => Reason::DatabaseUnavailable,
        _ => Reason::UnableToSetPolicies,
    }
}

impl From<Reason> for Refused {
    fn from(reason: Reason) -> Refused {
        Refused::Reason(reason)
    }
}

impl From<ChannelError> for Refused {
    fn from(error: ChannelError) -> Refused {
        Refused::Limit(error)
    }
}
