//! The table subscriptions, ordered by what they ask for.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use walcast_change::{Change, Row, Shape};
use walcast_rls::Viewer;

use crate::listing::Listing;
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
    /// Queues the frame of a change, or has the gate hold it.
    pub fn push(&self, change: &Change, frame: Bytes) -> Pushed {
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

/// Each distinct viewer once, under a number.
#[derive(Debug, Default)]
struct Viewers {
    by_number: HashMap<u32, (Viewer, usize)>,
    numbers: HashMap<Viewer, u32>,
    next: u32,
}

impl Viewers {
    fn enter(&mut self, viewer: &Viewer) -> u32 {
        if let Some(&number) = self.numbers.get(viewer) {
            if let Some((_, uses)) = self.by_number.get_mut(&number) {
                *uses += 1;
            }
            return number;
        }
        let number = self.next;
        self.next = self.next.wrapping_add(1);
        self.numbers.insert(viewer.clone(), number);
        self.by_number.insert(number, (viewer.clone(), 1));
        number
    }

    fn leave(&mut self, number: u32) {
        let Some((_, uses)) = self.by_number.get_mut(&number) else {
            return;
        };
        *uses -= 1;
        if *uses == 0
            && let Some((viewer, _)) = self.by_number.remove(&number)
        {
            self.numbers.remove(&viewer);
        }
    }

    fn get(&self, number: u32) -> Option<&Viewer> {
        self.by_number.get(&number).map(|(viewer, _)| viewer)
    }
}

#[cfg(test)]
mod tests {
    use walcast_change::Types;
    use walcast_pgoutput::{Column, Relation, RelationId, ReplicaIdentity};

    use super::*;

    fn shape(schema: &'static str, table: &'static str) -> Shape {
        let relation = Relation {
            id: RelationId(1),
            schema: schema.into(),
            name: table.into(),
            identity: ReplicaIdentity::Full,
            columns: Vec::new(),
        };
        Shape::new(&relation, None, &Types::default())
    }

    fn viewer(claims: &str) -> Viewer {
        Viewer {
            role: "authenticated".into(),
            claims: claims.into(),
        }
    }

    fn spec(schema: &str, table: Option<&str>) -> Arc<Spec> {
        Arc::new(Spec {
            target: Target {
                schema: schema.into(),
                table: table.map(Into::into),
            },
            events: Events::ALL,
            filter: None,
            channel: "c".into(),
            format: 0,
            tag: 0,
            columns: None,
        })
    }

    fn add(audience: &mut Audience, id: u64, connection: u64, claims: &str, spec: Arc<Spec>) {
        let outbox = Arc::new(Outbox::new(1000));
        audience
            .subscribe(
                SubscriptionId(id),
                ConnId(connection),
                &viewer(claims),
                spec,
                Member {
                    outbox,
                    gate: None,
                    standing: Arc::new(Standing::new(viewer(claims))),
                },
            )
            .expect("a new subscription");
    }

    /// The claims and the number of members of every group of a table.
    fn members(
        audience: &Audience,
        schema: &'static str,
        table: &'static str,
    ) -> Vec<(String, usize)> {
        let shape = shape(schema, table);
        let mut found: Vec<_> = audience
            .groups(&shape)
            .map(|(_, group)| {
                let viewer = audience.viewer(group.viewer).expect("a group has a viewer");
                (viewer.claims.to_string(), group.len())
            })
            .collect();
        found.sort();
        found
    }

    #[test]
    fn equal_subscriptions_share_a_group_and_find_their_tables() {
        let mut audience = Audience::new();
        add(&mut audience, 1, 1, "a", spec("public", Some("t")));
        add(&mut audience, 2, 2, "a", spec("public", Some("t")));
        add(&mut audience, 3, 3, "b", spec("public", Some("t")));
        add(&mut audience, 4, 3, "b", spec("public", None));
        add(&mut audience, 5, 3, "b", spec("other", Some("t")));
        let expected = [("a".into(), 2), ("b".into(), 1), ("b".into(), 1)];
        assert_eq!(members(&audience, "public", "t"), expected);
        assert_eq!(members(&audience, "public", "u"), [("b".into(), 1)]);
        assert_eq!(members(&audience, "other", "t"), [("b".into(), 1)]);
        assert_eq!(members(&audience, "nowhere", "t"), []);
    }

    #[test]
    fn a_new_viewer_takes_all_subscriptions_of_its_connection_along() {
        let mut audience = Audience::new();
        add(&mut audience, 1, 1, "a", spec("public", Some("t")));
        add(&mut audience, 2, 1, "a", spec("public", None));
        add(&mut audience, 3, 2, "a", spec("public", Some("t")));
        audience.set_viewer(ConnId(1), &viewer("c"));
        let expected = [("a".into(), 1), ("c".into(), 1), ("c".into(), 1)];
        assert_eq!(members(&audience, "public", "t"), expected);
    }

    #[test]
    fn each_connection_has_one_outbox() {
        let mut audience = Audience::new();
        for (id, connection) in [(1, 1), (2, 1), (3, 1), (4, 2)] {
            let schema = id.to_string();
            add(&mut audience, id, connection, "a", spec(&schema, None));
        }
        assert_eq!(audience.outboxes().count(), 2);
        audience.disconnect(ConnId(1));
        assert_eq!(audience.outboxes().count(), 1);
    }

    #[test]
    fn nothing_stays_behind() {
        let mut audience = Audience::new();
        for id in 0..10 {
            add(
                &mut audience,
                id,
                id % 3,
                &(id % 2).to_string(),
                spec("public", Some("t")),
            );
        }
        audience
            .unsubscribe(SubscriptionId(4))
            .expect("it is there");
        assert_eq!(
            audience.unsubscribe(SubscriptionId(4)),
            Err(AudienceError::Unknown)
        );
        for connection in 0..3 {
            audience.disconnect(ConnId(connection));
        }
        assert!(audience.is_empty());
        assert_eq!(members(&audience, "public", "t"), []);
        assert!(
            audience.groups.is_empty() && audience.by_key.is_empty() && audience.schemas.is_empty()
        );
        assert!(audience.viewers.numbers.is_empty() && audience.viewers.by_number.is_empty());
        assert!(audience.connections.is_empty() && audience.by_viewer.is_empty());
        let came = |movement: &&Movement| matches!(movement, Movement::Came { .. });
        let movements = audience.take_movements();
        assert_eq!(movements.iter().filter(came).count() * 2, movements.len());
        assert!(audience.take_movements().is_empty());
    }

    #[test]
    fn a_viewers_own_groups() {
        let mut audience = Audience::new();
        add(&mut audience, 1, 1, "a", spec("public", Some("t")));
        add(&mut audience, 2, 1, "a", spec("public", None));
        add(&mut audience, 3, 2, "b", spec("public", Some("u")));
        let a = audience.viewers.numbers[&viewer("a")];
        let b = audience.viewers.numbers[&viewer("b")];
        let count = |number, table| audience.groups_of(number, &shape("public", table)).count();
        assert_eq!(
            (count(a, "t"), count(a, "u"), count(b, "t"), count(b, "u")),
            (2, 1, 0, 1)
        );
        assert!(audience.wants(&shape("public", "x")) && !audience.wants(&shape("other", "t")));
    }

    /// Nobody whose filter may select a row is left out, whatever it looks like.
    #[test]
    fn candidates_are_found_by_value() {
        let filters = [
            "id=eq.1",
            "id=eq. 01",
            "id=in.(1,2,x)",
            "name=eq.a,id=gt.0",
            "or=(id.eq.3,name.eq.b)",
            "name=eq.A",
            "flag=eq.true",
            "n=eq.1.0",
            "gone=eq.1",
        ];
        let mut audience = Audience::new();
        for (nth, filter) in filters.iter().enumerate() {
            let spec = filtered(filter);
            add(&mut audience, nth as u64, nth as u64, filters[nth], spec);
        }
        for nth in 100..150 {
            let spec = filtered(&format!("id=eq.{nth}"));
            add(&mut audience, nth, nth, "many", spec);
        }
        let unknown = ["n=eq.1.0", "gone=eq.1"];
        for (cells, expected) in [
            (
                [Some("1"), Some("x"), Some("f")],
                &["id=eq.1", "id=eq. 01", "id=in.(1,2,x)"][..],
            ),
            (
                [Some("3"), Some("a"), None],
                &["name=eq.a,id=gt.0", "or=(id.eq.3,name.eq.b)"],
            ),
            (
                [None, Some("b"), Some("t")],
                &["or=(id.eq.3,name.eq.b)", "flag=eq.true"],
            ),
            ([Some("120"), Some("A"), None], &["name=eq.A", "many"]),
        ] {
            let row = row(cells);
            let found = audience.candidates(&row).expect("fewer than all");
            let claims = found.iter().filter_map(|number| audience.viewer(*number));
            let mut claims: Vec<_> = claims.map(|viewer| viewer.claims.to_string()).collect();
            claims.sort();
            let mut expected: Vec<_> = expected
                .iter()
                .chain(&unknown)
                .map(|one| one.to_string())
                .collect();
            expected.sort();
            assert_eq!(claims, expected, "{cells:?}");
        }
        add(&mut audience, 200, 200, "all", spec("public", None));
        let all = audience.candidates(&row([Some("9"), None, None]));
        assert_eq!(all.map(|all| all.len()), Some(3));
        for nth in 300..400 {
            add(
                &mut audience,
                nth,
                nth,
                &nth.to_string(),
                spec("public", Some("t")),
            );
        }
        assert_eq!(audience.candidates(&row([Some("9"), None, None])), None);
        for connection in 0..400 {
            audience.disconnect(ConnId(connection));
        }
        assert!(audience.schemas.is_empty());
    }

    fn filtered(filter: &str) -> Arc<Spec> {
        let spec = spec("public", Some("t"));
        let filter = Some(Filter::parse(filter).expect("a filter"));
        Arc::new(Spec {
            filter,
            ..(*spec).clone()
        })
    }

    /// A row of `t (id int, name text, flag bool, n numeric)`.
    fn row(cells: [Option<&str>; 3]) -> Row {
        use walcast_pgoutput::{Value, encode};
        let column = |(name, oid): (&'static str, u32)| Column {
            key: false,
            name: Bytes::from_static(name.as_bytes()),
            type_oid: oid,
            type_modifier: -1,
        };
        let columns = [("id", 23), ("name", 25), ("flag", 16), ("n", 1700)];
        let relation = Relation {
            id: RelationId(1),
            schema: Bytes::from_static(b"public"),
            name: Bytes::from_static(b"t"),
            identity: ReplicaIdentity::Full,
            columns: columns.into_iter().map(column).collect(),
        };
        let cells = cells.into_iter().chain([Some("1")]);
        let values =
            cells.map(|cell| cell.map_or(Value::Null, |text| Value::Text(text.as_bytes())));
        let shape = Arc::new(Shape::new(&relation, None, &Types::default()));
        match walcast_change::Operation::insert(&shape, encode::tuple(values)) {
            walcast_change::Operation::Insert { new } => new,
            other => panic!("{other:?}"),
        }
    }
}
