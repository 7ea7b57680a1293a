//! Several nodes come, update, go and tell each other, in every order.

use std::collections::BTreeMap;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Track {
        node: usize,
        key: u8,
    },
    /// Of what the node itself made: the n-th that is left.
    Update {
        node: usize,
        nth: usize,
    },
    Untrack {
        node: usize,
        nth: usize,
    },
    Merge {
        into: usize,
        from: usize,
    },
}

const NODES: usize = 3;

fn step() -> impl Strategy<Value = Step> {
    let node = 0..NODES;
    prop_oneof![
        (node.clone(), 0..4_u8).prop_map(|(node, key)| Step::Track { node, key }),
        (node.clone(), 0..9_usize).prop_map(|(node, nth)| Step::Update { node, nth }),
        (node.clone(), 0..9_usize).prop_map(|(node, nth)| Step::Untrack { node, nth }),
        (node.clone(), node).prop_map(|(into, from)| Step::Merge { into, from }),
    ]
}

fn key(number: u8) -> Arc<str> {
    format!("k{number}").into()
}

fn meta(dot: Dot, previous: Option<Dot>) -> Meta {
    let payload = Bytes::from(format!("{{\"at\":\"{dot}\"}}"));
    Meta {
        dot,
        previous,
        payload,
    }
}

/// What a node made itself and has not ended: only that does it change.
fn own(roster: &Roster, node: usize, nth: usize) -> Option<(Arc<str>, Dot)> {
    let mut own: Vec<_> = roster
        .iter()
        .flat_map(|(key, metas)| metas.iter().map(move |meta| (Arc::from(key), meta.dot)))
        .filter(|(_, dot)| dot.node == node as u64)
        .collect();
    own.sort();
    (!own.is_empty()).then(|| own.swap_remove(nth % own.len()))
}

/// The rosters of all nodes after `steps`, and what is truly there.
fn run(steps: &[Step]) -> (Vec<Roster>, Vec<Dot>) {
    let mut rosters = vec![Roster::default(); NODES];
    let mut truth = Vec::new();
    for (counter, step) in steps.iter().enumerate() {
        let dot = |node: usize| Dot {
            node: node as u64,
            counter: counter as u64 + 1,
        };
        match *step {
            Step::Track { node, key: number } => {
                rosters[node].insert(&key(number), meta(dot(node), None));
                truth.push(dot(node));
            }
            Step::Update { node, nth } => {
                if let Some((key, old)) = own(&rosters[node], node, nth) {
                    rosters[node].remove(&key, old).expect("it is there");
                    rosters[node].insert(&key, meta(dot(node), Some(old)));
                    truth.retain(|dot| *dot != old);
                    truth.push(dot(node));
                }
            }
            Step::Untrack { node, nth } => {
                if let Some((key, old)) = own(&rosters[node], node, nth) {
                    rosters[node].remove(&key, old).expect("it is there");
                    truth.retain(|dot| *dot != old);
                }
            }
            Step::Merge { into, from } => {
                let from = rosters[from].clone();
                merge_and_check(&mut rosters[into], &from);
            }
        }
    }
    truth.sort();
    (rosters, truth)
}

/// Merges, and checks that the answer is exactly the difference.
fn merge_and_check(into: &mut Roster, from: &Roster) {
    let before = into.clone();
    let diff = into.merge(from);
    let mut patched: BTreeMap<String, Vec<Dot>> = listed(&before);
    for change in &diff.keys {
        let dots = patched.entry(change.key.to_string()).or_default();
        assert_eq!(dots.len(), change.before, "before");
        dots.retain(|dot| !change.leaves.iter().any(|left| left.dot == *dot));
        dots.extend(change.joins.iter().map(|joined| joined.dot));
        dots.sort();
        assert_eq!(dots.len(), change.after, "after");
        assert!(!change.joins.is_empty() || !change.leaves.is_empty());
    }
    patched.retain(|_, dots| !dots.is_empty());
    assert_eq!(patched, listed(into));
    let count: usize = into.iter().map(|(_, metas)| metas.len()).sum();
    assert_eq!(count, into.len());
    let bytes = |(key, metas): (&str, &[Meta])| -> usize {
        metas
            .iter()
            .map(|meta| key.len() + meta.payload.len())
            .sum()
    };
    assert_eq!(into.iter().map(bytes).sum::<usize>(), into.bytes());
}

fn listed(roster: &Roster) -> BTreeMap<String, Vec<Dot>> {
    let dots = |metas: &[Meta]| metas.iter().map(|meta| meta.dot).collect();
    roster
        .iter()
        .map(|(key, metas)| (key.to_owned(), dots(metas)))
        .collect()
}

fn merged(one: &Roster, other: &Roster) -> Roster {
    let mut merged = one.clone();
    merge_and_check(&mut merged, other);
    merged
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn merging_is_commutative_associative_and_idempotent(steps in vec(step(), 0..60)) {
        let (rosters, truth) = run(&steps);
        let [a, b, c] = &rosters[..] else { unreachable!("there are three nodes") };
        prop_assert_eq!(merged(a, b), merged(b, a));
        prop_assert_eq!(merged(&merged(a, b), c), merged(a, &merged(b, c)));
        prop_assert_eq!(merged(a, a), a.clone());
        prop_assert_eq!(merged(&merged(a, b), b), merged(a, b));
        // Everybody who heard of everything agrees, and it is what is truly there: what a node
        // made and not ended, no ghost and nobody missing.
        let all = merged(&merged(a, b), c);
        let mut dots: Vec<Dot> = listed(&all).into_values().flatten().collect();
        dots.sort();
        prop_assert_eq!(dots, truth);
    }
}

#[test]
fn what_has_ended_does_not_come_back() {
    let (k, dot) = (
        key(1),
        Dot {
            node: 1,
            counter: 1,
        },
    );
    let mut one = Roster::default();
    one.insert(&k, meta(dot, None));
    let mut two = Roster::default();
    assert!(two.merge(&one).keys[0].is_arrival());
    let late = one.clone();
    one.remove(&k, dot).expect("it is there");
    assert!(one.merge(&late).is_empty(), "an old state is no news");
    assert!(two.merge(&one).keys[0].is_departure());
    assert!(two.merge(&late).is_empty());
    assert_eq!(two, one);
    assert_eq!((two.len(), two.keys(), two.bytes()), (0, 0, 0));
}
