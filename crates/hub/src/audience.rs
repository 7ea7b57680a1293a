//! The table subscriptions, ordered by what they ask for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, Row, Shape};
use walcast_rls::Viewer;

use crate::listing::Listing;
use crate::viewers::Viewers;
use crate::{ConnId, Events, Filter, Gate, Outbox, Pushed, Standing, SubscriptionId, Target};

/// What a subscription asks for. Subscriptions of one viewer with equal specs get the same frames.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Spec {
    pub target: Target,
    pub events: Events,
    pub filter: Option<Filter>,
    /// The channel's name as the client wrote it; it stands in every frame.
    pub channel: Arc<str>,
    /// Which dialect, and which of its styles, frames are written in. Means nothing here.
    pub format: u8,
    /// A number that the dialect writes into frames. Means nothing here.
    pub tag: u32,
    /// The columns asked for, beside those of the key; `None` is all.
    pub columns: Option<Arc<[Arc<str>]>>,
}

/// Subscriptions that get the same frames: one viewer, one spec.
#[derive(Debug)]
pub struct Group {
    pub viewer: u32,
    pub spec: Arc<Spec>,
    members: HashMap<SubscriptionId, Member>,
}

/// Where a subscription's frames go.
#[derive(Clone, Debug)]
pub struct Member {
    pub outbox: Arc<Outbox>,
    /// What they have to pass first.
    pub gate: Option<Arc<Gate>>,
    pub standing: Arc<Standing>,
}

/// A subscription that was taken out of the audience, to be caught up elsewhere.
#[derive(Clone, Debug)]
pub struct Withdrawn {
    pub id: SubscriptionId,
    pub connection: ConnId,
    pub spec: Arc<Spec>,
    pub member: Member,
}

impl Member {
    /// Queues the frame of a change, or has the gate hold it. Of a subscription that has ended nothing is
    /// sent, wherever it still is.
    pub fn push(&self, change: &Change, frame: Bytes) -> Pushed {
        if self.standing.has_ended() {
            return Pushed::Closed;
        }
        match &self.gate {
            None => self.outbox.push(frame),
            Some(gate) => gate.push(change.cursor, change.xid, frame, &self.outbox),
        }
    }
}

impl Group {
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.members.values()
    }

    pub fn len(&self) -> usize {
        self.members.len()
    }

    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }
}

/// Why a subscription can't be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AudienceError {
    #[error("the subscription exists already")]
    Exists,
    #[error("there is no such subscription")]
    Unknown,
}

/// All table subscriptions of this process. Bounded by the limits on connections and on
/// subscriptions per connection.
#[derive(Debug, Default)]
pub struct Audience {
    viewers: Viewers,
    groups: HashMap<u32, Group>,
    by_key: HashMap<(u32, Arc<Spec>), u32>,
    schemas: HashMap<Arc<str>, Schema>,
    subscriptions: HashMap<SubscriptionId, Place>,
    connections: HashMap<ConnId, HashSet<SubscriptionId>>,
    /// The groups of each viewer.
    by_viewer: HashMap<u32, Vec<u32>>,
    /// Since they were last taken.
    movements: Vec<Movement>,
    group_next: u32,
}

/// A viewer begins or ceases to want a target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Movement {
    Came { viewer: u32, target: Target },
    Went { viewer: u32, target: Target },
}

#[derive(Debug, Default)]
struct Schema {
    /// Groups that want every table.
    all: Listing,
    tables: HashMap<Arc<str>, Listing>,
}

#[derive(Debug)]
struct Place {
    group: u32,
    connection: ConnId,
}

impl Audience {
    pub fn new() -> Audience {
        Audience::default()
    }

    /// The number of subscriptions.
    pub fn len(&self) -> usize {
        self.subscriptions.len()
    }

    pub fn is_empty(&self) -> bool {
        self.subscriptions.is_empty()
    }

    pub fn subscribe(
        &mut self,
        id: SubscriptionId,
        connection: ConnId,
        viewer: &Viewer,
        spec: Arc<Spec>,
        member: Member,
    ) -> Result<(), AudienceError> {
        if self.subscriptions.contains_key(&id) {
            return Err(AudienceError::Exists);
        }
        let group = self.join(id, viewer, spec, member);
        self.subscriptions.insert(id, Place { group, connection });
        self.connections.entry(connection).or_default().insert(id);
        Ok(())
    }

    pub fn unsubscribe(&mut self, id: SubscriptionId) -> Result<(), AudienceError> {
        let place = self
            .subscriptions
            .remove(&id)
            .ok_or(AudienceError::Unknown)?;
        if let Some(own) = self.connections.get_mut(&place.connection) {
            own.remove(&id);
            if own.is_empty() {
                self.connections.remove(&place.connection);
            }
        }
        self.leave(id, place.group);
        Ok(())
    }

    /// Takes out the subscriptions of a viewer that want the table of `shape`.
    pub fn withdraw(&mut self, viewer: u32, shape: &Shape) -> Vec<Withdrawn> {
        let groups = self.groups_of(viewer, shape);
        let ids: Vec<_> = groups
            .flat_map(|group| group.members.keys().copied())
            .collect();
        let mut withdrawn = Vec::with_capacity(ids.len());
        for id in ids {
            let Some(place) = self.subscriptions.get(&id) else {
                continue;
            };
            let (group, connection) = (place.group, place.connection);
            let Some((spec, member)) = self.groups.get(&group).and_then(|group| {
                let member = group.members.get(&id)?;
                Some((group.spec.clone(), member.clone()))
            }) else {
                continue;
            };
            if self.unsubscribe(id).is_ok() {
                withdrawn.push(Withdrawn {
                    id,
                    connection,
                    spec,
                    member,
                });
            }
        }
        withdrawn
    }

    /// Ends all subscriptions of a connection.
    pub fn disconnect(&mut self, connection: ConnId) {
        for id in self.connections.remove(&connection).unwrap_or_default() {
            if let Some(place) = self.subscriptions.remove(&id) {
                self.leave(id, place.group);
            }
        }
    }

    /// From now on all subscriptions of a connection are judged as `viewer`.
    pub fn set_viewer(&mut self, connection: ConnId, viewer: &Viewer) {
        let ids: Vec<_> = self
            .connections
            .get(&connection)
            .into_iter()
            .flatten()
            .copied()
            .collect();
        for id in ids {
            let Some(before) = self.subscriptions.get(&id).map(|place| place.group) else {
                continue;
            };
            if let Some((spec, member)) = self.leave(id, before) {
                let group = self.join(id, viewer, spec, member);
                if let Some(place) = self.subscriptions.get_mut(&id) {
                    place.group = group;
                }
            }
        }
    }

    /// Those who subscribed to the table of `shape`, each with a number that stays the same
    /// while it has members.
    pub fn groups<'a>(&'a self, shape: &Shape) -> impl Iterator<Item = (u32, &'a Group)> + 'a {
        let ids = self.listings(shape).flat_map(Listing::groups);
        ids.filter_map(|id| self.groups.get(id).map(|group| (*id, group)))
    }

    /// The viewers with a filter that may select the row, or with none, in their order; `None`:
    /// about all who subscribed to its table.
    pub fn candidates(&self, row: &Row) -> Option<Arc<[u32]>> {
        let shape = row.shape();
        let (mut all, mut avoidable) = (0, 0);
        for listing in self.listings(shape) {
            all += listing.groups().len();
            avoidable += listing.avoidable();
        }
        // Who has to be looked at anyway is found faster by whoever judges.
        if avoidable * 2 <= all {
            return None;
        }
        let groups = self
            .listings(shape)
            .flat_map(|listing| listing.candidates(row));
        let groups = groups.filter_map(|number| self.groups.get(&number));
        let mut viewers: Vec<u32> = groups.map(|group| group.viewer).collect();
        if viewers.len() * 2 > all {
            return None;
        }
        viewers.sort_unstable();
        viewers.dedup();
        Some(viewers.into())
    }

    fn listings<'a>(&'a self, shape: &Shape) -> impl Iterator<Item = &'a Listing> + use<'a> {
        let schema = self.schemas.get(&shape.schema);
        let table = schema.and_then(|schema| schema.tables.get(&shape.table));
        schema.map(|schema| &schema.all).into_iter().chain(table)
    }

    /// Whether anybody subscribed to the table of `shape`.
    pub fn wants(&self, shape: &Shape) -> bool {
        self.groups(shape).next().is_some()
    }

    /// The groups of a viewer that want the table of `shape`.
    pub fn groups_of<'a>(
        &'a self,
        viewer: u32,
        shape: &'a Shape,
    ) -> impl Iterator<Item = &'a Group> + 'a {
        let ids = self.by_viewer.get(&viewer).into_iter().flatten();
        let groups = ids.filter_map(|id| self.groups.get(id));
        groups.filter(|group| group.spec.target.includes(shape))
    }

    /// Who came and went since the last call. To be taken after every change of subscriptions.
    pub fn take_movements(&mut self) -> Vec<Movement> {
        std::mem::take(&mut self.movements)
    }

    /// The outbox of every connection that has subscriptions, with the spec of one of them.
    pub fn outboxes(&self) -> impl Iterator<Item = (&Spec, &Arc<Outbox>)> {
        self.connections.values().filter_map(|own| {
            let id = own.iter().next()?;
            let place = self.subscriptions.get(id)?;
            let group = self.groups.get(&place.group)?;
            Some((&*group.spec, &group.members.get(id)?.outbox))
        })
    }

    pub fn gates(&self) -> impl Iterator<Item = &Arc<Gate>> {
        let members = self.groups.values().flat_map(Group::members);
        members.filter_map(|member| member.gate.as_ref())
    }

    pub fn group(&self, id: u32) -> Option<&Group> {
        self.groups.get(&id)
    }

    /// The viewer that [`Group::viewer`] names.
    pub fn viewer(&self, number: u32) -> Option<&Viewer> {
        self.viewers.get(number)
    }

    fn join(
        &mut self,
        id: SubscriptionId,
        viewer: &Viewer,
        spec: Arc<Spec>,
        member: Member,
    ) -> u32 {
        let viewer = self.viewers.enter(viewer);
        let key = (viewer, spec);
        if let Some(&number) = self.by_key.get(&key)
            && let Some(group) = self.groups.get_mut(&number)
        {
            // The group holds its viewer once, however many its members are.
            self.viewers.leave(viewer);
            group.members.insert(id, member);
            return number;
        }
        let number = self.group_next;
        self.group_next = self.group_next.wrapping_add(1);
        let spec = key.1.clone();
        self.by_key.insert(key, number);
        self.by_viewer.entry(viewer).or_default().push(number);
        self.movements.push(Movement::Came {
            viewer,
            target: spec.target.clone(),
        });
        self.listing(&spec.target)
            .insert(number, spec.filter.as_ref());
        let members = HashMap::from([(id, member)]);
        self.groups.insert(
            number,
            Group {
                viewer,
                spec,
                members,
            },
        );
        number
    }

    fn leave(&mut self, id: SubscriptionId, number: u32) -> Option<(Arc<Spec>, Member)> {
        let group = self.groups.get_mut(&number)?;
        let member = group.members.remove(&id)?;
        let spec = group.spec.clone();
        if group.members.is_empty() {
            let viewer = group.viewer;
            self.groups.remove(&number);
            self.by_key.remove(&(viewer, spec.clone()));
            self.viewers.leave(viewer);
            self.movements.push(Movement::Went {
                viewer,
                target: spec.target.clone(),
            });
            if let Some(groups) = self.by_viewer.get_mut(&viewer) {
                groups.retain(|group| *group != number);
                if groups.is_empty() {
                    self.by_viewer.remove(&viewer);
                }
            }
            self.unlist(&spec, number);
        }
        Some((spec, member))
    }

    fn listing(&mut self, target: &Target) -> &mut Listing {
        let schema = self.schemas.entry(target.schema.clone()).or_default();
        match &target.table {
            None => &mut schema.all,
            Some(table) => schema.tables.entry(table.clone()).or_default(),
        }
    }

    fn unlist(&mut self, spec: &Spec, number: u32) {
        let target = &spec.target;
        self.listing(target).remove(number, spec.filter.as_ref());
        let Some(schema) = self.schemas.get_mut(&target.schema) else {
            return;
        };
        if let Some(table) = &target.table
            && schema.tables.get(table).is_some_and(Listing::is_empty)
        {
            schema.tables.remove(table);
        }
        if schema.all.is_empty() && schema.tables.is_empty() {
            self.schemas.remove(&target.schema);
        }
    }
}

#[cfg(test)]
mod tests;
