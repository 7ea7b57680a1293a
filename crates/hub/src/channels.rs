//! Broadcast and presence: topics that connections join.
//!
//! All dialects share one set of topics, so that clients of any of them hear each other. Who may
//! join is decided before; a topic of the private namespace is another topic than the public one
//! of the same name.
//!
//! Order: a topic's lock is held while a frame goes into the outboxes of its members, so all of
//! them see one order, in which every sender's messages keep theirs. A member's acknowledgement is
//! pushed under the same lock that makes it a member: it comes first, and nothing after it is missed.
//! Two locks are never held at once, and none is held while anybody waits.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use parking_lot::Mutex;

use crate::presence::{Dot, Roster};
use crate::topic::{Arrival, Hears, Joining, MemberId, Published, Topic, Tracked};
use crate::{ChannelError, ChannelLimits, Message, Voice};

/// Topics of equal names in different namespaces have nothing to do with each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Namespace {
    /// Whoever may connect may join.
    Public,
    /// Joining and sending were decided by row-level security.
    Private,
}

/// All topics of this process. A topic exists while it has members.
pub struct Channels {
    limits: ChannelLimits,
    voice: Arc<dyn Voice>,
    node: u64,
    shards: Box<[Mutex<Shard>]>,
    hasher: RandomState,
    topics: AtomicUsize,
    members: AtomicUsize,
    member_next: AtomicU64,
    dot_next: AtomicU64,
}

#[derive(Default)]
struct Shard {
    public: HashMap<Arc<str>, Arc<Place>>,
    private: HashMap<Arc<str>, Arc<Place>>,
}

/// A topic where it is found.
struct Place {
    namespace: Namespace,
    name: Arc<str>,
    topic: Mutex<Topic>,
}

/// Being in a topic. It ends, with the presence that belongs to it, when this is dropped, however
/// that happens.
pub struct Membership {
    id: MemberId,
    place: Arc<Place>,
    channels: Arc<Channels>,
}

const SHARDS: usize = 64;

impl Channels {
    /// Of the only node. `voice` writes the frames of all dialects.
    pub fn new(limits: ChannelLimits, voice: Arc<dyn Voice>) -> Arc<Channels> {
        Channels::on_node(0, limits, voice)
    }

    /// Of the node with this number, under which no other process makes presences.
    pub fn on_node(node: u64, limits: ChannelLimits, voice: Arc<dyn Voice>) -> Arc<Channels> {
        // A client compares references across a restart of the server: none may come twice.
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH);
        let dot_first = since_1970.map_or(1, |since| since.as_micros() as u64);
        Arc::new(Channels {
            limits,
            voice,
            node,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            topics: AtomicUsize::new(0),
            members: AtomicUsize::new(0),
            member_next: AtomicU64::new(1),
            dot_next: AtomicU64::new(dot_first),
        })
    }

    pub fn limits(&self) -> &ChannelLimits {
        &self.limits
    }

    /// The number of topics with members.
    pub fn topics(&self) -> usize {
        self.topics.load(Ordering::Relaxed)
    }

    /// The number of memberships, in all topics.
    pub fn members(&self) -> usize {
        self.members.load(Ordering::Relaxed)
    }

    /// Joins a topic. `acknowledge` writes the first frames that the member gets; it is called
    /// under the topic's lock. Errors leave nothing behind.
    pub fn join(
        self: &Arc<Channels>,
        namespace: Namespace,
        name: &str,
        joining: Joining,
        acknowledge: impl FnOnce(&Arrival<'_>) -> Bytes,
    ) -> Result<Membership, ChannelError> {
        self.limits.topic(name)?;
        loop {
            let place = self.place(namespace, name)?;
            // Dropped on every way out but the last, after the lock: so a failed join leaves.
            let membership = self.membership(place.clone());
            let mut topic = place.topic.lock();
            if topic.has_ended() {
                continue;
            }
            let dot = self.dot();
            let id = membership.id;
            topic.join(id, joining, dot, &self.limits, &*self.voice, acknowledge)?;
            return Ok(membership);
        }
    }

    /// Publishes from outside: to all who hear broadcasts.
    pub fn broadcast(
        &self,
        namespace: Namespace,
        name: &str,
        message: &Message,
    ) -> Result<Published, ChannelError> {
        self.limits.message(message.event.len(), message.len())?;
        let published = self.find(namespace, name).map(|place| {
            let topic = place.topic.lock();
            topic.broadcast(None, message, &*self.voice)
        });
        Ok(published.unwrap_or_default())
    }

    /// Looks at who is present in a topic; `None` if it has no members.
    pub fn roster<R>(
        &self,
        namespace: Namespace,
        name: &str,
        look: impl FnOnce(&Roster) -> R,
    ) -> Option<R> {
        let place = self.find(namespace, name)?;
        let topic = place.topic.lock();
        Some(look(topic.roster()))
    }

    /// The number of members of a topic.
    pub fn members_of(&self, namespace: Namespace, name: &str) -> usize {
        let place = self.find(namespace, name);
        place.map_or(0, |place| place.topic.lock().members())
    }

    fn membership(self: &Arc<Channels>, place: Arc<Place>) -> Membership {
        self.members.fetch_add(1, Ordering::Relaxed);
        Membership {
            id: MemberId(self.member_next.fetch_add(1, Ordering::Relaxed)),
            place,
            channels: self.clone(),
        }
    }

    /// To be taken under the lock of the topic it is for, so that they grow within it.
    fn dot(&self) -> Dot {
        Dot {
            node: self.node,
            counter: self.dot_next.fetch_add(1, Ordering::Relaxed),
        }
    }

    fn find(&self, namespace: Namespace, name: &str) -> Option<Arc<Place>> {
        let shard = self.shard(name).lock();
        shard.topics(namespace).get(name).cloned()
    }

    /// The place of a topic, which is made if there is none. Who makes it joins it.
    fn place(&self, namespace: Namespace, name: &str) -> Result<Arc<Place>, ChannelError> {
        let mut shard = self.shard(name).lock();
        let topics = shard.topics_mut(namespace);
        if let Some(place) = topics.get(name) {
            return Ok(place.clone());
        }
        let max = self.limits.topics_max;
        let another = |topics: usize| (max == 0 || topics < max).then_some(topics + 1);
        let counted = self
            .topics
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, another);
        counted.map_err(|_| ChannelError::Limit {
            name: "topics_max",
            max,
        })?;
        let name: Arc<str> = name.into();
        let place = Arc::new(Place {
            namespace,
            name: name.clone(),
            topic: Mutex::default(),
        });
        topics.insert(name, place.clone());
        Ok(place)
    }

    /// Drops a topic that has ended, unless another has taken its name.
    fn forget(&self, ended: &Arc<Place>) {
        let mut shard = self.shard(&ended.name).lock();
        let topics = shard.topics_mut(ended.namespace);
        let found = topics.get(&ended.name);
        if found.is_some_and(|place| Arc::ptr_eq(place, ended)) {
            topics.remove(&ended.name);
            self.topics.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn shard(&self, name: &str) -> &Mutex<Shard> {
        &self.shards[self.hasher.hash_one(name) as usize % SHARDS]
    }
}

impl Shard {
    fn topics(&self, namespace: Namespace) -> &HashMap<Arc<str>, Arc<Place>> {
        match namespace {
            Namespace::Public => &self.public,
            Namespace::Private => &self.private,
        }
    }

    fn topics_mut(&mut self, namespace: Namespace) -> &mut HashMap<Arc<str>, Arc<Place>> {
        match namespace {
            Namespace::Public => &mut self.public,
            Namespace::Private => &mut self.private,
        }
    }
}

impl Membership {
    pub fn id(&self) -> MemberId {
        self.id
    }

    pub fn namespace(&self) -> Namespace {
        self.place.namespace
    }

    pub fn topic(&self) -> &str {
        &self.place.name
    }

    /// Sends to all members who hear broadcasts, and to itself if it hears its own.
    pub fn broadcast(&self, message: &Message) -> Result<Published, ChannelError> {
        let limits = &self.channels.limits;
        limits.message(message.event.len(), message.len())?;
        let topic = self.place.topic.lock();
        Ok(topic.broadcast(Some(self.id), message, &*self.channels.voice))
    }

    /// Makes this member present under `key`, or changes what it says. `payload` is a JSON object;
    /// the same one again changes nothing. Another key than before ends the presence under that.
    pub fn track(&self, key: &str, payload: &[u8]) -> Result<Tracked, ChannelError> {
        let (limits, voice) = (&self.channels.limits, &*self.channels.voice);
        let mut topic = self.place.topic.lock();
        let dot = self.channels.dot();
        topic.track(self.id, key, payload, dot, limits, voice)
    }

    /// Ends this member's presence; `false` if there was none.
    pub fn untrack(&self) -> bool {
        let mut topic = self.place.topic.lock();
        topic.untrack(self.id, &*self.channels.voice)
    }

    /// The key under which it is present.
    pub fn key(&self) -> Option<Arc<str>> {
        self.place.topic.lock().key_of(self.id)
    }

    /// From now on it is told this, such as after its rights were judged anew.
    pub fn set_hears(&self, hears: Hears) {
        self.place.topic.lock().set_hears(self.id, hears);
    }

    /// Looks at who is present, under the topic's lock: a frame that `look` pushes into the member's
    /// outbox stands before every later diff. It must not call back into the channels.
    pub fn roster<R>(&self, look: impl FnOnce(&Roster) -> R) -> R {
        look(self.place.topic.lock().roster())
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        let goes_on = {
            let mut topic = self.place.topic.lock();
            topic.leave(self.id, &*self.channels.voice)
        };
        if !goes_on {
            self.channels.forget(&self.place);
        }
        self.channels.members.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Membership {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Membership");
        debug.field("id", &self.id).field("topic", &self.place.name);
        debug.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
