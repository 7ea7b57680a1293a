//! The broadcast and presence channels of one connection in the native protocol.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use walcast_hub::{Class, Hears, Joining, Membership, Namespace, Outbox, Roster};
use walcast_protocol::{
    Broadcast, Channel, ChannelAcknowledgement, ChannelCommand, ChannelKind, Code, Join, Native,
    Reference, Refusal,
};

use super::client::Client;
use super::text_frame;

/// Bounded by the limit on channels per connection. They end when this is dropped.
pub(super) struct Memberships {
    joined: HashMap<String, Joined>,
    /// Outboxes that its last broadcast has more than half filled.
    crowded: Vec<Arc<Outbox>>,
}

struct Joined {
    membership: Membership,
    format: u8,
    /// Its broadcasts are answered, even without a reference.
    acknowledged: bool,
    /// Under which it is present unless it says otherwise.
    key: String,
}

pub(crate) const MOMENT: Duration = Duration::from_secs(1);

impl Memberships {
    pub(super) fn new() -> Memberships {
        Memberships {
            joined: HashMap::new(),
            crowded: Vec::new(),
        }
    }

    /// Who sends more than others take in is read more slowly, and nobody else is. Whoever is
    /// waited for must have emptied its outbox a moment ago, so a member that does not read holds
    /// a sender up once, and one that reads slowly on purpose lets it send half an outbox in
    /// every such moment.
    pub(super) async fn give_way(&mut self) {
        for outbox in self.crowded.drain(..) {
            outbox.relieved(MOMENT).await;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.joined.is_empty()
    }

    /// Leaves the channel of this name, or all.
    pub(super) fn leave(&mut self, channel: Option<&str>) {
        match channel {
            Some(name) => drop(self.joined.remove(name)),
            None => self.joined.clear(),
        }
    }

    pub(super) fn carry_out(
        &mut self,
        client: &Client,
        command: ChannelCommand,
    ) -> Result<(), Refusal> {
        let (channel, reference) = match &command {
            ChannelCommand::Join(join) => (&join.channel, &join.reference),
            ChannelCommand::Broadcast(broadcast) => (&broadcast.channel, &broadcast.reference),
            ChannelCommand::Track {
                channel, reference, ..
            }
            | ChannelCommand::Untrack { channel, reference } => (channel, reference),
        };
        let (name, reference) = (channel.name.clone(), reference.clone());
        let done = client.viewer().and_then(|_| match command {
            ChannelCommand::Join(join) => self.join(client, join),
            ChannelCommand::Broadcast(broadcast) => self.broadcast(client, &broadcast),
            ChannelCommand::Track {
                channel,
                key,
                state,
                reference,
            } => self.track(client, &channel, key.as_deref(), &state, reference.as_ref()),
            ChannelCommand::Untrack { channel, reference } => {
                self.untrack(client, &channel, reference.as_ref())
            }
        });
        done.map_err(|refusal| refusal.on(name).about(reference))
    }

    /// The same channel twice is one membership, which is acknowledged again.
    fn join(&mut self, client: &Client, join: Join) -> Result<(), Refusal> {
        if join.private {
            let text = "private channels can't be joined in this protocol yet; leave out private";
            return Err(Refusal::new(Code::Forbidden, text));
        }
        if let Some(joined) = self.joined.get_mut(&join.channel.name)
            && joined.format == join.format
        {
            joined.again(client, &join);
            return Ok(());
        }
        self.joined.remove(&join.channel.name);
        let channels = &client.shared.channels;
        channels.limits().another_channel(self.joined.len())?;
        let key = join.key.clone().unwrap_or_else(unique_key);
        let joining = Joining {
            outbox: client.outbox.clone(),
            format: join.format,
            label: join.channel.name.as_str().into(),
            hears: hears(&join),
            present: None,
        };
        let topic = join.channel.topic();
        let membership = channels.join(Namespace::Public, topic, joining, |arrival| {
            acknowledgement(&join, &key, arrival.roster)
        })?;
        let joined = Joined {
            membership,
            format: join.format,
            acknowledged: join.acknowledged,
            key,
        };
        self.joined.insert(join.channel.name, joined);
        Ok(())
    }

    /// Also to a topic that was not joined: whoever may join may send.
    fn broadcast(&mut self, client: &Client, broadcast: &Broadcast) -> Result<(), Refusal> {
        let Broadcast {
            channel,
            message,
            reference,
        } = broadcast;
        let joined = self.joined.get(&channel.name);
        let published = match joined {
            Some(joined) => joined.membership.broadcast(message)?,
            None => {
                let channels = &client.shared.channels;
                channels.broadcast(Namespace::Public, channel.topic(), message)?
            }
        };
        if reference.is_some() || joined.is_some_and(|joined| joined.acknowledged) {
            let sent = ChannelAcknowledgement::Sent(channel);
            answer(client, &sent, reference.as_ref());
        }
        self.crowded = published.crowded;
        Ok(())
    }

    fn track(
        &self,
        client: &Client,
        channel: &Channel,
        key: Option<&str>,
        state: &Bytes,
        reference: Option<&Reference>,
    ) -> Result<(), Refusal> {
        let joined = self.joined(channel)?;
        let key = key.unwrap_or(&joined.key);
        joined.membership.track(key, state)?;
        if reference.is_some() {
            let tracked = ChannelAcknowledgement::Tracked(channel, key);
            answer(client, &tracked, reference);
        }
        Ok(())
    }

    fn untrack(
        &self,
        client: &Client,
        channel: &Channel,
        reference: Option<&Reference>,
    ) -> Result<(), Refusal> {
        self.joined(channel)?.membership.untrack();
        if reference.is_some() {
            let untracked = ChannelAcknowledgement::Untracked(channel);
            answer(client, &untracked, reference);
        }
        Ok(())
    }

    fn joined(&self, channel: &Channel) -> Result<&Joined, Refusal> {
        self.joined.get(&channel.name).ok_or_else(|| {
            let text = "subscribe to the channel first";
            Refusal::new(Code::SubscriptionFailed, text)
        })
    }
}

impl Joined {
    fn again(&mut self, client: &Client, join: &Join) {
        self.acknowledged = join.acknowledged;
        if let Some(key) = &join.key {
            self.key.clone_from(key);
        }
        self.membership.set_hears(hears(join));
        self.membership.roster(|roster| {
            client.outbox.push(acknowledgement(join, &self.key, roster));
        });
    }
}

/// Each kind of channel tells one side of its topic.
fn hears(join: &Join) -> Hears {
    Hears {
        broadcast: join.channel.kind == ChannelKind::Broadcast,
        presence: join.channel.kind == ChannelKind::Presence,
        own: join.own,
    }
}

/// What a member gets first: that it is one, and who is present.
fn acknowledgement(join: &Join, key: &str, roster: &Roster) -> Bytes {
    let is_presence = join.channel.kind == ChannelKind::Presence;
    let joined = ChannelAcknowledgement::Joined {
        channel: &join.channel,
        key: is_presence.then_some(key),
    };
    let reference = join.reference.as_ref();
    let acknowledged = text_frame(|out| Native.channel_acknowledgement(&joined, reference, out));
    if !is_presence {
        return acknowledged;
    }
    let class = Class {
        format: join.format,
        label: &join.channel.name,
        own: false,
    };
    let state = text_frame(|out| Native.presence_state(class, roster, out));
    [acknowledged, state].concat().into()
}

fn answer(
    client: &Client,
    acknowledgement: &ChannelAcknowledgement<'_>,
    reference: Option<&Reference>,
) {
    let frame = text_frame(|out| Native.channel_acknowledgement(acknowledgement, reference, out));
    client.outbox.push(frame);
}

/// Nobody else has it, in this process or another. Not a secret: everybody in the room is told.
pub(super) fn unique_key() -> String {
    let random = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", random(), random())
}
