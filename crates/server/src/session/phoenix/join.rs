//! How a channel is joined: everything is asked in the order in which Supabase's server asks it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tracing::debug;
use walcast_auth::Identity;
use walcast_hub::{ChannelError, Joining, Membership, Namespace};
use walcast_protocol::phoenix::{
    Incoming, Join, Reason, Ref, Style, System, write_joined, write_presence_state, write_system,
};
use walcast_rls::ChannelFailure;

use super::changes::{Changes, Missing, Work};
use super::channel::{Channel, channel_viewer, hears};
use super::replay::replayed;
use super::rights::{Kind, Rights};
use super::speech::write_reason;
use super::{Event, Session, identify, readiness};
use crate::session::client::viewer;
use crate::session::memberships::unique_key;
use crate::session::text_frame;
use crate::voice::phoenix_metas;

/// Why a join is refused.
enum Refused {
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
type Entrance = Box<dyn FnOnce() -> Result<Membership, ChannelError> + Send>;

/// How long a join with `wait` waits for its changes, unless it says otherwise, and at most.
const WAIT: Duration = Duration::from_secs(15);
const WAIT_MAX: Duration = Duration::from_secs(20);

impl Session {
    pub(super) async fn join(&mut self, incoming: Incoming) {
        let Event::Join(join) = &incoming.event else {
            return;
        };
        for malformed in &join.malformed {
            debug!(connection = self.id.0, %malformed, "InvalidJoinPayload");
        }
        // As theirs: a second join ends the first, whatever becomes of it.
        if let Some(before) = self.channels.remove(&incoming.topic) {
            before.close(self.version, &self.outbox).await;
        }
        // Clients that send no join_ref know the channel by the join's own ref.
        let join_ref = incoming.join_ref.clone();
        let join_ref = join_ref.or_else(|| incoming.reference.clone());
        match self.joined(&incoming, join, join_ref.as_ref()).await {
            Ok(channel) => {
                self.channels.insert(incoming.topic.clone(), channel);
            }
            Err(Refused::Reason(reason)) => self.refuse(&incoming, &reason),
            Err(Refused::Limit(error)) => {
                let text = error.to_string();
                self.shared
                    .metrics
                    .refused(walcast_protocol::Code::RateLimited);
                self.say(|version, out| write_reason(incoming.address(version), &text, out));
            }
        }
    }

    async fn joined(
        &mut self,
        incoming: &Incoming,
        join: &Join,
        join_ref: Option<&Ref>,
    ) -> Result<Channel, Refused> {
        let subtopic = match incoming.subtopic() {
            None => return Err(Reason::UnmatchedTopic.into()),
            Some("") => return Err(Reason::TopicNameRequired.into()),
            Some(subtopic) => subtopic,
        };
        self.may_join(join)?;
        let admitted = self.admit(subtopic, join, &incoming.topic).await?;
        let key = join.presence.key.clone().unwrap_or_else(unique_key);
        let entrance = self.entrance(incoming, join, join_ref, &admitted);
        let viewer = viewer(&admitted.identity);
        let work = self.work(incoming, join);
        let (membership, changes) = match work {
            None => (entrance()?, None),
            Some(work) if join.changes.wait => {
                let patience = patience(join);
                let (membership, work, begun) = wait(work, &viewer, entrance, patience).await?;
                (membership, Some(work.start(viewer, begun)))
            }
            Some(work) => (entrance()?, Some(work.start(viewer, false))),
        };
        Ok(Channel {
            topic: incoming.topic.as_str().into(),
            join_ref: join_ref.cloned(),
            identity: admitted.identity,
            token: admitted.token,
            membership,
            rights: admitted.rights,
            ack: join.broadcast.ack,
            own: join.broadcast.own,
            key,
            presence_calls: self.shared.settings.phoenix.presence_calls(Instant::now()),
            changes,
            _readiness: self.readiness(incoming, join, join_ref),
        })
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
        let another = limits.another_channel(self.channels.len());
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
        let held: usize = held.map(Changes::bindings).sum();
        let max = self.shared.settings.phoenix.bindings_max;
        if max == 0 || held + work.bindings() <= max {
            return Some(work);
        }
        let reason = format!("supabase_bindings_per_connection_max reached: {max}");
        let system = System::Retrying { reason };
        self.say(|version, out| write_system(version, None, &incoming.topic, &system, out));
        None
    }

    fn readiness(
        &self,
        incoming: &Incoming,
        join: &Join,
        join_ref: Option<&Ref>,
    ) -> Option<readiness::Telling> {
        join.broadcast.replication_ready.then(|| {
            let stream = self.shared.stream.clone();
            let (topic, join_ref) = (incoming.topic.clone(), join_ref.cloned());
            readiness::tell(self.version, self.outbox.clone(), topic, join_ref, stream)
        })
    }
}

/// Makes the changes live, and the channel with them, at one place in the stream.
async fn wait(
    mut work: Work,
    viewer: &walcast_rls::Viewer,
    entrance: Entrance,
    patience: Duration,
) -> Result<(Membership, Work, bool), Refused> {
    // Whoever comes first decides: the pipeline that it is live, or the clock that it is too late.
    let decided = Arc::new(AtomicBool::new(false));
    let decides = decided.clone();
    let (entered, membership) = oneshot::channel();
    let attempt = work.attempt(viewer, |refused| {
        let all = refused.is_empty();
        Box::new(move || {
            if all && !decides.swap(true, Ordering::AcqRel) {
                let _ = entered.send(entrance());
            }
            None
        })
    });
    let outcome = timeout(patience, attempt).await;
    let refused = match &outcome {
        Ok(Err(Missing::Never(refused))) => Some(Reason::ChangesRefused {
            message: refused.first().map(System::to_string).unwrap_or_default(),
        }),
        Ok(Ok(())) => None,
        Ok(Err(Missing::Later)) | Err(_) => match decided.swap(true, Ordering::AcqRel) {
            true => None,
            false => Some(Reason::ChangesTimeout),
        },
    };
    if let Some(reason) = refused {
        work.end().await;
        return Err(reason.into());
    }
    let begun = matches!(outcome, Ok(Ok(())));
    match membership.await {
        Ok(Ok(membership)) => Ok((membership, work, begun)),
        Ok(Err(error)) => {
            work.end().await;
            Err(error.into())
        }
        Err(_) => {
            work.end().await;
            Err(Reason::Unknown.into())
        }
    }
}

fn patience(join: &Join) -> Duration {
    let asked = join.changes.timeout_ms.map(Duration::from_millis);
    asked.unwrap_or(WAIT).min(WAIT_MAX)
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
