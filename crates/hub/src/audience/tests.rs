//! Who is in which group, and what a row's candidates are.

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
fn members(audience: &Audience, schema: &'static str, table: &'static str) -> Vec<(String, usize)> {
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
    let values = cells.map(|cell| cell.map_or(Value::Null, |text| Value::Text(text.as_bytes())));
    let shape = Arc::new(Shape::new(&relation, None, &Types::default()));
    match walcast_change::Operation::insert(&shape, encode::tuple(values)) {
        walcast_change::Operation::Insert { new } => new,
        other => panic!("{other:?}"),
    }
}
