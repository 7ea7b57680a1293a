//! One topic: its members and who is present, under one lock.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;

use crate::channel_limits::within;
use crate::presence::{Diff, Dot, KeyDiff, Meta, Roster};
use crate::{ChannelError, ChannelLimits, Class, Message, Outbox, Pushed, Voice};

/// One connection in one topic. A connection that joins a topic twice is two members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct MemberId(pub u64);

/// What a member is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hears {
    pub broadcast: bool,
    /// Presence diffs, its own too.
    pub presence: bool,
    /// Its own broadcasts.
    pub own: bool,
}

/// Who joins, and how frames for it are written.
#[derive(Clone, Debug)]
pub struct Joining {
    pub outbox: Arc<Outbox>,
    /// [`Class::format`].
    pub format: u8,
    /// [`Class::label`].
    pub label: Arc<str>,
    pub hears: Hears,
    /// Present from the beginning, under this key with this meta. The others are told; the member
    /// itself finds it in the roster of its acknowledgement.
    pub present: Option<(Arc<str>, Bytes)>,
}

/// What a member finds when it joins, itself included.
#[derive(Debug)]
pub struct Arrival<'a> {
    pub member: MemberId,
    pub members: usize,
    pub roster: &'a Roster,
    /// Where it stands in the roster, if it is present from the beginning.
    pub dot: Option<Dot>,
}

/// Whom a broadcast reached.
#[derive(Debug, Default)]
pub struct Published {
    /// In whose outboxes it is.
    pub members: usize,
    /// Whose dialect can't carry it.
    pub skipped: usize,
    /// Whose connections are ending, some of them because this did not fit.
    pub closed: usize,
    /// The outboxes that are more than half full.
    pub crowded: Vec<Arc<Outbox>>,
}

/// A meta's place after [`crate::Membership::track`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    pub dot: Dot,
    /// The members were told; not if key and payload were the same as before.
    pub changed: bool,
}

#[derive(Default)]
pub(crate) struct Topic {
    /// Its last member has left; who wants to join makes a new one.
    ended: bool,
    /// By class, so that a frame is written once for all of one.
    groups: Vec<Group>,
    places: HashMap<MemberId, Place>,
    roster: Roster,
    present: HashMap<MemberId, Present>,
}

/// The members of one class.
struct Group {
    format: u8,
    label: Arc<str>,
    members: Vec<Member>,
}

struct Member {
    id: MemberId,
    outbox: Arc<Outbox>,
    hears: Hears,
}

#[derive(Clone, Copy)]
struct Place {
    group: u32,
    at: u32,
}

struct Present {
    key: Arc<str>,
    dot: Dot,
}

/// Who gets a frame.
#[derive(Clone, Copy)]
enum Receivers {
    /// Those who hear broadcasts; the sender if it hears itself.
    Broadcast(Option<MemberId>),
    /// Those who hear of presence, but for one.
    Presence(Option<MemberId>),
}

/// Groups that shrank to a quarter of this or more give memory back.
const MEMBERS_KEPT: usize = 64;

impl Topic {
    pub(crate) fn has_ended(&self) -> bool {
        self.ended
    }

    pub(crate) fn members(&self) -> usize {
        self.places.len()
    }

    pub(crate) fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Makes a member. What it is told begins with what `acknowledge` writes.
    pub(crate) fn join(
        &mut self,
        id: MemberId,
        joining: Joining,
        dot: Dot,
        limits: &ChannelLimits,
        voice: &dyn Voice,
        acknowledge: impl FnOnce(&Arrival<'_>) -> Bytes,
    ) -> Result<(), ChannelError> {
        let max = limits.members_per_topic_max;
        within("members_per_topic_max", self.places.len() + 1, max)?;
        let outbox = joining.outbox.clone();
        let present = joining.present.clone();
        self.enter(id, joining);
        let diff = match &present {
            Some((key, meta)) => self.place(id, key, meta, dot, limits)?,
            None => Diff::default(),
        };
        let arrival = Arrival {
            member: id,
            members: self.places.len(),
            roster: &self.roster,
            dot: present.is_some().then_some(dot),
        };
        if outbox.push(acknowledge(&arrival)) == Pushed::Closed {
            // Nobody has heard of its presence, so nobody is to hear that it ended.
            self.take_out(id);
            return Err(ChannelError::Ending);
        }
        self.tell(&diff, Some(id), voice);
        Ok(())
    }

    /// Ends a member, and its presence. `false` if it was the last one: the topic is over.
    pub(crate) fn leave(&mut self, id: MemberId, voice: &dyn Voice) -> bool {
        self.exit(id);
        self.untrack(id, voice);
        self.ended = self.places.is_empty();
        !self.ended
    }

    pub(crate) fn broadcast(
        &self,
        from: Option<MemberId>,
        message: &Message,
        voice: &dyn Voice,
    ) -> Published {
        self.deliver(Receivers::Broadcast(from), |class| {
            voice.broadcast(class, message)
        })
    }

    /// Makes a member present, or changes its key or meta; everybody is told, itself too.
    pub(crate) fn track(
        &mut self,
        id: MemberId,
        key: &str,
        payload: &[u8],
        dot: Dot,
        limits: &ChannelLimits,
        voice: &dyn Voice,
    ) -> Result<Tracked, ChannelError> {
        if let Some(own) = self.present.get(&id)
            && *own.key == *key
            && self.meta(own).is_some_and(|meta| meta.payload == payload)
        {
            return Ok(Tracked {
                dot: own.dot,
                changed: false,
            });
        }
        let key = match self.present.get(&id) {
            Some(own) if *own.key == *key => own.key.clone(),
            _ => key.into(),
        };
        let diff = self.place(id, &key, payload, dot, limits)?;
        self.tell(&diff, None, voice);
        Ok(Tracked { dot, changed: true })
    }

    /// Ends a member's presence; whether there was one.
    pub(crate) fn untrack(&mut self, id: MemberId, voice: &dyn Voice) -> bool {
        let Some(change) = self.take_out(id) else {
            return false;
        };
        let diff = Diff { keys: vec![change] };
        self.tell(&diff, None, voice);
        true
    }

    /// The key under which a member is present.
    pub(crate) fn key_of(&self, id: MemberId) -> Option<Arc<str>> {
        self.present.get(&id).map(|own| own.key.clone())
    }

    pub(crate) fn set_hears(&mut self, id: MemberId, hears: Hears) {
        if let Some(member) = self.member_mut(id) {
            member.hears = hears;
        }
    }

    fn meta(&self, own: &Present) -> Option<&Meta> {
        let metas = self.roster.get(&own.key);
        metas.iter().find(|meta| meta.dot == own.dot)
    }

    /// Puts a member's meta into the roster, in the place of its old one.
    fn place(
        &mut self,
        id: MemberId,
        key: &Arc<str>,
        payload: &[u8],
        dot: Dot,
        limits: &ChannelLimits,
    ) -> Result<Diff, ChannelError> {
        let old = self
            .present
            .get(&id)
            .and_then(|own| self.meta(own).map(|meta| (own.key.clone(), meta.clone())));
        self.room_for(old.as_ref(), key, payload, limits)?;
        let mut diff = Diff::default();
        let mut change = KeyDiff::new(key.clone(), self.roster.get(key).len());
        let mut previous = None;
        if let Some((old_key, old)) = old {
            let before = self.roster.get(&old_key).len();
            self.roster.remove(&old_key, old.dot);
            if old_key == *key {
                previous = Some(old.dot);
                change.leaves.push(old);
            } else {
                let mut left = KeyDiff::new(old_key, before);
                left.leaves.push(old);
                left.after = before - 1;
                diff.keys.push(left);
            }
        }
        let meta = Meta {
            dot,
            previous,
            // A copy: a slice would keep the whole message that it came in.
            payload: Bytes::copy_from_slice(payload),
        };
        self.roster.insert(key, meta.clone());
        change.joins.push(meta);
        change.after = self.roster.get(key).len();
        diff.keys.push(change);
        let key = key.clone();
        self.present.insert(id, Present { key, dot });
        Ok(diff)
    }

    fn take_out(&mut self, id: MemberId) -> Option<KeyDiff> {
        let own = self.present.remove(&id)?;
        let mut change = KeyDiff::new(own.key.clone(), self.roster.get(&own.key).len());
        change.leaves.extend(self.roster.remove(&own.key, own.dot));
        change.after = self.roster.get(&own.key).len();
        Some(change)
    }

    fn room_for(
        &self,
        old: Option<&(Arc<str>, Meta)>,
        key: &str,
        payload: &[u8],
        limits: &ChannelLimits,
    ) -> Result<(), ChannelError> {
        limits.meta(key, payload)?;
        let (mut keys, mut metas) = (self.roster.keys(), self.roster.len() + 1);
        let mut bytes = self.roster.bytes() + key.len() + payload.len();
        if let Some((old_key, old)) = old {
            metas -= 1;
            bytes -= old_key.len() + old.payload.len();
            if **old_key != *key && self.roster.get(old_key).len() == 1 {
                keys -= 1;
            }
        }
        if self.roster.get(key).is_empty() {
            keys += 1;
        }
        limits.roster(keys, metas, bytes)
    }

    fn tell(&self, diff: &Diff, but: Option<MemberId>, voice: &dyn Voice) {
        if !diff.is_empty() {
            self.deliver(Receivers::Presence(but), |class| {
                voice.presence(class, diff, &self.roster)
            });
        }
    }

    fn deliver(
        &self,
        receivers: Receivers,
        write: impl Fn(Class<'_>) -> Option<Bytes>,
    ) -> Published {
        let mut published = Published::default();
        for group in &self.groups {
            let frame = |own| {
                let class = Class {
                    format: group.format,
                    label: &group.label,
                    own,
                };
                write(class).filter(|frame| !frame.is_empty())
            };
            let mut shared = None;
            for member in &group.members {
                match receivers.include(member) {
                    None => {}
                    Some(true) => published.push(member, frame(true)),
                    Some(false) => {
                        let frame = shared.get_or_insert_with(|| frame(false));
                        published.push(member, frame.clone());
                    }
                }
            }
        }
        published
    }

    fn enter(&mut self, id: MemberId, joining: Joining) {
        let Joining {
            outbox,
            format,
            label,
            hears,
            ..
        } = joining;
        let fits = |group: &Group| group.format == format && group.label == label;
        // A class whose members are all gone makes place for a new one, so that places stay right.
        let group = self.groups.iter().position(fits).or_else(|| {
            let at = self
                .groups
                .iter()
                .position(|group| group.members.is_empty())?;
            self.groups[at] = Group::new(format, label.clone());
            Some(at)
        });
        let group = group.unwrap_or_else(|| {
            self.groups.push(Group::new(format, label.clone()));
            self.groups.len() - 1
        });
        let members = &mut self.groups[group].members;
        let place = Place {
            group: group as u32,
            at: members.len() as u32,
        };
        members.push(Member { id, outbox, hears });
        self.places.insert(id, place);
    }

    fn exit(&mut self, id: MemberId) {
        let Some(place) = self.places.remove(&id) else {
            return;
        };
        let members = &mut self.groups[place.group as usize].members;
        members.swap_remove(place.at as usize);
        let moved = members.get(place.at as usize).map(|member| member.id);
        if members.capacity() > MEMBERS_KEPT && members.len() < members.capacity() / 4 {
            members.shrink_to(members.len() * 2);
            self.places.shrink_to(self.places.len() * 2);
        }
        if let Some(moved) = moved {
            self.places.insert(moved, place);
        }
    }

    fn member_mut(&mut self, id: MemberId) -> Option<&mut Member> {
        let place = self.places.get(&id)?;
        let group = self.groups.get_mut(place.group as usize)?;
        group.members.get_mut(place.at as usize)
    }
}

impl Group {
    fn new(format: u8, label: Arc<str>) -> Group {
        let members = Vec::new();
        Group {
            format,
            label,
            members,
        }
    }
}

impl Receivers {
    /// Whether a member gets the frame, and if so whether as the sender's own.
    fn include(self, member: &Member) -> Option<bool> {
        match self {
            Receivers::Broadcast(from) => {
                let own = from == Some(member.id);
                (member.hears.broadcast && (!own || member.hears.own)).then_some(own)
            }
            Receivers::Presence(but) => {
                (member.hears.presence && but != Some(member.id)).then_some(false)
            }
        }
    }
}

impl Published {
    fn push(&mut self, member: &Member, frame: Option<Bytes>) {
        let Some(frame) = frame else {
            self.skipped += 1;
            return;
        };
        match member.outbox.push(frame) {
            Pushed::Queued => self.members += 1,
            Pushed::Crowded => {
                self.members += 1;
                self.crowded.push(member.outbox.clone());
            }
            Pushed::Closed => self.closed += 1,
        }
    }
}
