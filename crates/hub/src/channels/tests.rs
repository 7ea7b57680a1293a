//! Order, races, ghosts and bounds, with real threads where it matters.

use std::sync::atomic::AtomicBool;
use std::thread;
use std::time::{Duration, Instant};

use crate::{Body, Class, Diff, Meta, Outbox, Pending};

use super::*;

/// Writes lines that a test can read: `format label own event payload`.
struct Plain;

/// A format without binary payloads.
const TEXT_ONLY: u8 = 9;

impl Voice for Plain {
    fn broadcast(&self, class: Class<'_>, message: &Message) -> Option<Bytes> {
        if matches!(message.body, Body::Binary(_)) && class.format == TEXT_ONLY {
            return None;
        }
        let Class { format, label, own } = class;
        let own = if own { "own" } else { "-" };
        let payload = String::from_utf8_lossy(message.body.bytes());
        Some(format!("{format} {label} {own} {} {payload}", message.event).into())
    }

    fn presence(&self, _: Class<'_>, diff: &Diff, roster: &Roster) -> Option<Bytes> {
        let said = |metas: &[Meta]| -> Vec<String> {
            let mut said: Vec<_> = metas
                .iter()
                .map(|meta| String::from_utf8_lossy(&meta.payload).into_owned())
                .collect();
            said.sort();
            said
        };
        let mut text = String::new();
        for (key, metas) in diff.leaves() {
            text += &format!("-{key}{:?}", said(metas));
        }
        for (key, metas) in diff.joins() {
            let update = metas.iter().any(|meta| meta.previous.is_some());
            text += &format!("{}{key}{:?}", if update { "~" } else { "+" }, said(metas));
        }
        Some(format!("{text} of {}", roster.len()).into())
    }
}

fn channels(limits: ChannelLimits) -> Arc<Channels> {
    Channels::new(limits, Arc::new(Plain))
}

const ALL: Hears = Hears {
    broadcast: true,
    presence: true,
    own: false,
};

fn outbox() -> Arc<Outbox> {
    Arc::new(Outbox::new(64 << 20))
}

fn joining(outbox: &Arc<Outbox>, hears: Hears) -> Joining {
    Joining {
        outbox: outbox.clone(),
        format: 1,
        label: "c".into(),
        hears,
        present: None,
    }
}

fn join(channels: &Arc<Channels>, topic: &str, outbox: &Arc<Outbox>, hears: Hears) -> Membership {
    let joining = joining(outbox, hears);
    let public = Namespace::Public;
    let joined = channels.join(public, topic, joining, |_| Bytes::from_static(b"ack"));
    joined.expect("there is room")
}

fn message(event: &str) -> Message {
    Message::json(event, Bytes::from_static(b"1"))
}

/// The frames that wait, in their order.
async fn read(outbox: &Outbox) -> Vec<String> {
    let mut frames = Vec::new();
    while outbox.bytes() > 0 {
        assert_eq!(outbox.take(&mut frames, 1 << 20).await, Pending::Frames);
    }
    frames
        .iter()
        .map(|frame| String::from_utf8_lossy(frame).into_owned())
        .collect()
}

/// Waits until `done`, without sleeping for a fixed time, and not for ever.
fn until(what: &str, done: impl Fn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(60);
    while !done() {
        assert!(Instant::now() < deadline, "{what} did not happen");
        thread::yield_now();
    }
}

#[tokio::test]
async fn who_hears_what() {
    let channels = channels(ChannelLimits::default());
    let boxes: Vec<_> = (0..4).map(|_| outbox()).collect();
    let sender = join(&channels, "t", &boxes[0], ALL);
    let echoed = join(&channels, "t", &boxes[1], Hears { own: true, ..ALL });
    let deaf = Hears {
        broadcast: false,
        ..ALL
    };
    let withheld = join(&channels, "t", &boxes[2], deaf);
    let elsewhere = channels.join(Namespace::Private, "t", joining(&boxes[3], ALL), |_| {
        Bytes::from_static(b"ack")
    });
    let sent = sender.broadcast(&message("one")).expect("within limits");
    assert_eq!((sent.members, sent.skipped, sent.closed), (1, 0, 0));
    let sent = echoed.broadcast(&message("two")).expect("within limits");
    assert_eq!(sent.members, 2);
    withheld
        .broadcast(&message("three"))
        .expect("within limits");
    withheld.set_hears(ALL);
    let public = Namespace::Public;
    let sent = channels.broadcast(public, "t", &message("four"));
    assert_eq!(sent.expect("within limits").members, 3);
    let nobody = channels.broadcast(public, "nowhere", &message("five"));
    assert_eq!(nobody.expect("within limits").members, 0);
    assert_eq!(
        read(&boxes[0]).await,
        ["ack", "1 c - two 1", "1 c - three 1", "1 c - four 1"]
    );
    let heard = [
        "ack",
        "1 c - one 1",
        "1 c own two 1",
        "1 c - three 1",
        "1 c - four 1",
    ];
    assert_eq!(read(&boxes[1]).await, heard);
    assert_eq!(read(&boxes[2]).await, ["ack", "1 c - four 1"]);
    assert_eq!(read(&boxes[3]).await, ["ack"], "another namespace");
    assert_eq!((channels.topics(), channels.members()), (2, 4));
    assert_eq!(channels.members_of(public, "t"), 3);
    drop((sender, echoed, withheld, elsewhere));
    assert_eq!((channels.topics(), channels.members()), (0, 0));
}

#[tokio::test]
async fn each_class_gets_its_own_bytes_and_one_copy_of_them() {
    let channels = channels(ChannelLimits::default());
    let in_format = |format, label: &str, outbox: &Arc<Outbox>| {
        let joining = Joining {
            format,
            label: label.into(),
            ..joining(outbox, ALL)
        };
        let joined = channels.join(Namespace::Public, "t", joining, |_| "ack".into());
        joined.expect("there is room")
    };
    let boxes: Vec<_> = (0..4).map(|_| outbox()).collect();
    let one = in_format(1, "a", &boxes[0]);
    let two = in_format(1, "a", &boxes[1]);
    let three = in_format(1, "b", &boxes[2]);
    let four = in_format(TEXT_ONLY, "a", &boxes[3]);
    let binary = Message::binary("e", vec![b'x', b'y']);
    let sent = channels.broadcast(Namespace::Public, "t", &binary);
    let sent = sent.expect("within limits");
    assert_eq!((sent.members, sent.skipped), (3, 1));
    let mut frames: [Vec<Bytes>; 2] = Default::default();
    for (outbox, frames) in boxes.iter().zip(&mut frames) {
        outbox.take(frames, 9).await;
    }
    assert_eq!(frames[0][1], "1 a - e xy");
    assert_eq!(frames[0][1].as_ptr(), frames[1][1].as_ptr(), "shared");
    assert_eq!(read(&boxes[2]).await, ["ack", "1 b - e xy"]);
    assert_eq!(read(&boxes[3]).await, ["ack"]);
    // The place of a class whose members are gone is taken by the next.
    drop(three);
    let five = in_format(2, "c", &boxes[2]);
    one.broadcast(&message("e")).expect("within limits");
    assert_eq!(read(&boxes[2]).await, ["ack", "2 c - e 1"]);
    drop((one, two, four, five));
    assert_eq!(channels.topics(), 0);
}

#[tokio::test]
async fn presence_comes_changes_and_goes() {
    let channels = channels(ChannelLimits::default());
    let (one_box, two_box) = (outbox(), outbox());
    let one = join(&channels, "t", &one_box, ALL);
    let two = join(&channels, "t", &two_box, ALL);
    let first = one.track("a", b"{}").expect("there is room");
    let same = one.track("a", b"{}").expect("there is room");
    assert_eq!((same.dot, same.changed), (first.dot, false));
    two.track("a", b"2").expect("there is room");
    let second = one.track("a", b"1").expect("there is room");
    assert!(second.changed && second.dot > first.dot);
    one.roster(|roster| {
        let metas = roster.get("a");
        assert_eq!(metas.len(), 2, "two connections under one key");
        assert_eq!(metas[1].previous, Some(first.dot));
        assert_eq!((roster.keys(), roster.len(), roster.bytes()), (1, 2, 4));
    });
    one.track("b", b"1").expect("there is room");
    assert_eq!(one.key().as_deref(), Some("b"));
    assert!(one.untrack());
    assert!(!one.untrack(), "twice is once");
    drop(two);
    let told = [
        "ack",
        r#"+a["{}"] of 1"#,
        r#"+a["2"] of 2"#,
        r#"-a["{}"]~a["1"] of 2"#,
        r#"-a["1"]+b["1"] of 2"#,
        r#"-b["1"] of 1"#,
    ];
    assert_eq!(read(&two_box).await, told);
    let told_one = [&told[..], &[r#"-a["2"] of 0"#]].concat();
    assert_eq!(read(&one_box).await, told_one);
}

#[tokio::test]
async fn who_is_present_when_it_joins_finds_itself_in_the_acknowledgement() {
    let channels = channels(ChannelLimits::default());
    let (one_box, two_box) = (outbox(), outbox());
    let one = join(&channels, "t", &one_box, ALL);
    let mut joining = joining(&two_box, ALL);
    joining.present = Some(("me".into(), "{}".into()));
    let two = channels.join(Namespace::Public, "t", joining.clone(), |arrival| {
        assert_eq!(arrival.members, 2);
        assert_eq!(Some(arrival.roster.get("me")[0].dot), arrival.dot);
        format!("ack {}", arrival.roster.len()).into()
    });
    assert_eq!(read(&two_box).await, ["ack 1"], "no diff about itself");
    drop(two.expect("there is room"));
    assert_eq!(
        read(&one_box).await,
        ["ack", r#"+me["{}"] of 1"#, r#"-me["{}"] of 0"#]
    );
    // A connection that is ending joins nothing, and nobody hears of it.
    two_box.close(crate::Closing::Shutdown);
    let late = channels.join(Namespace::Public, "t", joining, |_| "ack".into());
    assert_eq!(late.err(), Some(ChannelError::Ending));
    assert_eq!(read(&one_box).await, [""; 0]);
    assert_eq!(one.roster(Roster::len), 0);
    assert_eq!(channels.members(), 1);
}

#[tokio::test]
async fn a_session_that_panics_or_is_aborted_leaves_no_ghost() {
    let channels = channels(ChannelLimits::default());
    let watcher_box = outbox();
    let watcher = join(&channels, "t", &watcher_box, ALL);
    let session = |panics: bool| {
        let member = join(&channels, "t", &outbox(), ALL);
        async move {
            member.track("ghost", b"{}").expect("there is room");
            assert!(!panics, "on purpose");
            std::future::pending::<()>().await;
        }
    };
    let panicked = tokio::spawn(session(true)).await;
    assert!(panicked.is_err_and(|error| error.is_panic()));
    let aborted = tokio::spawn(session(false));
    while watcher.roster(Roster::is_empty) {
        tokio::task::yield_now().await;
    }
    aborted.abort();
    assert!(aborted.await.is_err_and(|error| error.is_cancelled()));
    let (came, went) = (r#"+ghost["{}"] of 1"#, r#"-ghost["{}"] of 0"#);
    assert_eq!(read(&watcher_box).await, ["ack", came, went, came, went]);
    assert_eq!(channels.members(), 1);
}

#[test]
fn every_limit_says_which_it_is() {
    let channels = channels(ChannelLimits {
        topics_max: 2,
        topic_bytes_max: 5,
        channels_per_connection_max: 3,
        members_per_topic_max: 3,
        broadcast_bytes_max: 8,
        event_bytes_max: 4,
        presence_key_bytes_max: 4,
        presence_meta_bytes_max: 6,
        presence_keys_per_topic_max: 2,
        presence_metas_per_topic_max: 3,
        presence_bytes_per_topic_max: 16,
    });
    let limit = |name, max| Some(ChannelError::Limit { name, max });
    let attempt = |topic: &str, present: Option<(&str, &'static [u8])>| {
        let mut joining = joining(&outbox(), ALL);
        joining.present = present.map(|(key, meta)| (key.into(), Bytes::from_static(meta)));
        channels.join(Namespace::Public, topic, joining, |_| "ack".into())
    };
    assert_eq!(attempt("", None).err(), Some(ChannelError::Name));
    assert_eq!(attempt("a\0", None).err(), Some(ChannelError::Name));
    assert_eq!(attempt("abcdef", None).err(), limit("topic_bytes_max", 5));
    let members: Vec<_> = (0..3).map(|_| attempt("t", None).expect("room")).collect();
    assert_eq!(attempt("t", None).err(), limit("members_per_topic_max", 3));
    let other = attempt("u", None).expect("room");
    assert_eq!(attempt("v", None).err(), limit("topics_max", 2));
    drop(other);
    assert!(
        attempt("v", Some(("keys5", b"{}"))).is_err(),
        "and nothing is left"
    );
    assert_eq!(channels.topics(), 1);

    let sent = |event: &str, payload: &'static [u8]| {
        let message = Message::json(event, Bytes::from_static(payload));
        let outside = channels.broadcast(Namespace::Public, "t", &message).err();
        assert_eq!(members[0].broadcast(&message).err(), outside);
        outside
    };
    assert_eq!(sent("even", b"12345678"), None);
    assert_eq!(sent("event", b"1"), limit("event_bytes_max", 4));
    assert_eq!(sent("e", b"123456789"), limit("broadcast_bytes_max", 8));

    let track = |nth: usize, key: &str, meta: &[u8]| members[nth].track(key, meta).err();
    assert_eq!(track(0, "keys5", b"{}"), limit("presence_key_bytes_max", 4));
    assert_eq!(
        track(0, "a", b"1234567"),
        limit("presence_meta_bytes_max", 6)
    );
    assert_eq!(track(0, "a", b"{}"), None);
    assert_eq!(track(1, "b", b"{}"), None);
    assert_eq!(
        track(2, "c", b"{}"),
        limit("presence_keys_per_topic_max", 2)
    );
    assert_eq!(
        track(0, "c", b"{}"),
        None,
        "it takes the place of its own key"
    );
    assert_eq!(track(2, "c", b"123456"), None);
    assert_eq!(
        track(1, "b", b"123456"),
        limit("presence_bytes_per_topic_max", 16)
    );
    members[0].roster(|roster| assert_eq!((roster.len(), roster.bytes()), (3, 13)));
    let error = limit("broadcast_bytes_max", 8).expect("just made");
    assert_eq!(error.to_string(), "broadcast_bytes_max reached: 8");
    assert!(channels.limits().another_channel(2).is_ok());
    let fourth = channels.limits().another_channel(3).err();
    assert_eq!(fourth, limit("channels_per_connection_max", 3));
}

#[tokio::test]
async fn a_slow_member_is_cut_and_delays_nobody() {
    let channels = channels(ChannelLimits::default());
    let (slow, quick) = (Arc::new(Outbox::new(40)), outbox());
    let members = (
        join(&channels, "t", &slow, ALL),
        join(&channels, "t", &quick, ALL),
    );
    let mut closed = 0;
    let mut crowded = 0;
    for _ in 0..10 {
        let sent = channels.broadcast(Namespace::Public, "t", &message("e"));
        let sent = sent.expect("within limits");
        closed += sent.closed;
        crowded += sent.crowded.len();
        assert_eq!(sent.members + sent.closed, 2);
    }
    assert!(closed >= 6 && crowded >= 1, "{closed} {crowded}");
    assert_eq!(slow.closing(), Some(crate::Closing::Slow));
    assert_eq!(read(&quick).await.len(), 11);
    drop(members);
}

#[tokio::test]
async fn all_members_see_one_order_and_every_sender_its_own() {
    const SENDERS: usize = 8;
    const EACH: usize = 500;
    let channels = channels(ChannelLimits::default());
    let boxes: Vec<_> = (0..16).map(|_| outbox()).collect();
    let members: Vec<_> = boxes
        .iter()
        .map(|own| join(&channels, "t", own, ALL))
        .collect();
    thread::scope(|scope| {
        for sender in 0..SENDERS {
            let channels = &channels;
            scope.spawn(move || {
                for nth in 0..EACH {
                    let message = message(&format!("{sender}.{nth}"));
                    let sent = channels.broadcast(Namespace::Public, "t", &message);
                    assert_eq!(sent.expect("within limits").members, 16);
                }
            });
        }
    });
    let seen = read(&boxes[0]).await;
    assert_eq!(seen.len(), 1 + SENDERS * EACH);
    for outbox in &boxes[1..] {
        assert!(read(outbox).await == seen, "another order");
    }
    for sender in 0..SENDERS {
        let prefix = format!("1 c - {sender}.");
        let own = seen.iter().filter_map(|line| line.strip_prefix(&prefix));
        let expected = (0..EACH).map(|nth| format!("{nth} 1"));
        assert!(own.eq(expected), "sender {sender}");
    }
    drop(members);
}

#[tokio::test]
async fn a_thousand_joins_amid_messages_miss_nothing_and_repeat_nothing() {
    const JOINS: usize = 1_000;
    let channels = channels(ChannelLimits::default());
    let stay = join(&channels, "t", &Arc::new(Outbox::new(1)), ALL);
    let (begun, done) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let over = AtomicBool::new(false);
    let mut seen = Vec::new();
    thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                let nth = begun.fetch_add(1, Ordering::SeqCst);
                let sent = channels.broadcast(Namespace::Public, "t", &message(&nth.to_string()));
                sent.expect("within limits");
                done.fetch_add(1, Ordering::SeqCst);
            }
        });
        for _ in 0..JOINS {
            let own = outbox();
            let before = done.load(Ordering::SeqCst);
            let member = join(&channels, "t", &own, ALL);
            let after = begun.load(Ordering::SeqCst);
            until("three messages", || done.load(Ordering::SeqCst) > after + 3);
            let last_sure = done.load(Ordering::SeqCst);
            drop(member);
            let left = own.bytes();
            let leaving = begun.load(Ordering::SeqCst);
            until("another message", || done.load(Ordering::SeqCst) > leaving);
            assert_eq!(own.bytes(), left, "something came after it left");
            seen.push((own, before, after, last_sure));
        }
        over.store(true, Ordering::SeqCst);
    });
    for (own, before, after, last_sure) in seen {
        let lines = read(&own).await;
        assert_eq!(lines[0], "ack");
        let numbers: Vec<usize> = lines[1..]
            .iter()
            .map(|line| {
                line.split(' ')
                    .nth(3)
                    .and_then(|nth| nth.parse().ok())
                    .expect("a number")
            })
            .collect();
        let first = numbers[0];
        assert!(
            before <= first && first <= after,
            "{before} {first} {after}"
        );
        assert!(
            numbers.iter().copied().eq(first..first + numbers.len()),
            "{numbers:?}"
        );
        assert!(first + numbers.len() >= last_sure, "the end is missing");
    }
    drop(stay);
}

#[tokio::test]
async fn a_topic_that_ends_while_others_join_it_loses_nobody() {
    let channels = channels(ChannelLimits::default());
    thread::scope(|scope| {
        for sender in 0..4 {
            let channels = &channels;
            scope.spawn(move || {
                for nth in 0..2_000 {
                    let own = outbox();
                    let member = join(channels, "t", &own, Hears { own: true, ..ALL });
                    let acknowledged = own.bytes();
                    member.track("k", b"{}").expect("there is room");
                    let tracked = own.bytes();
                    assert!(tracked > acknowledged, "{sender}.{nth} hears of itself");
                    // By name: it must be the same topic that a message from outside finds.
                    let sent = channels.broadcast(Namespace::Public, "t", &message("e"));
                    assert!(sent.expect("within limits").members >= 1);
                    assert!(own.bytes() > tracked, "{sender}.{nth} is in another topic");
                }
            });
        }
    });
    assert_eq!((channels.topics(), channels.members()), (0, 0));
}

#[tokio::test]
async fn a_thousand_members_stay_findable_while_they_come_and_go() {
    let channels = channels(ChannelLimits::default());
    let boxes: Vec<_> = (0..1_000).map(|_| outbox()).collect();
    let mut members: Vec<_> = boxes
        .iter()
        .map(|own| Some(join(&channels, "t", own, ALL)))
        .collect();
    // Every third leaves, in an order that moves others about.
    for nth in (0..1_000).rev().step_by(3).chain((1..1_000).step_by(6)) {
        members[nth] = None;
    }
    for (own, member) in boxes.iter().zip(&members) {
        read(own).await;
        if let Some(member) = member {
            member.set_hears(Hears { own: true, ..ALL });
        }
    }
    let left = members.iter().flatten().count();
    assert_eq!(channels.members_of(Namespace::Public, "t"), left);
    for member in members.iter().flatten() {
        let sent = member.broadcast(&message("e")).expect("within limits");
        assert_eq!(sent.members, left, "its own flag was found");
    }
    members.clear();
    assert_eq!(channels.topics(), 0);
}
