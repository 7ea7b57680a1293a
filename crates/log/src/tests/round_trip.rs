//! What was appended is read, now and after the log is opened again.

use walcast_change::Cursor;
use walcast_pgoutput::Lsn;

use super::stream::{Op, Stream};
use super::*;
use crate::{NewEpoch, ReadError};

const EVERY_OP: [(u32, Op); 10] = [
    (1, Op::Insert(10)),
    (2, Op::Insert(0)),
    (1, Op::Update(4)),
    (1, Op::Update(5)),
    (2, Op::UpdateKey(6)),
    (1, Op::Describe),
    (1, Op::UpdateFull(7)),
    (1, Op::DeleteKey),
    (2, Op::DeleteFull(9)),
    (1, Op::Truncate),
];

#[tokio::test]
async fn every_kind_of_change_comes_back() {
    let directory = directory();
    let config = config(directory.path());
    let mut stream = Stream::new();
    let transactions = [stream.transaction(&EVERY_OP), stream.transaction(&EVERY_OP)];
    assert_eq!(transactions[0].changes.len(), 10, "truncate makes two");
    let expected = printed(&transactions);

    let (mut log, fresh) = open(&config);
    assert_eq!(fresh.new_epoch, Some(NewEpoch::Fresh));
    assert_eq!(
        (fresh.durable, fresh.last, fresh.oldest),
        (None, None, None)
    );
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    assert_eq!(read_all(&log.history()), expected);
    assert_eq!(*log.history().durable().borrow(), transactions[1].end_lsn);
    close(log).await;

    let (log, opened) = open(&config);
    assert_eq!((opened.epoch, opened.new_epoch), (fresh.epoch, None));
    assert_eq!(opened.durable, Some(transactions[1].end_lsn));
    assert_eq!(
        opened.last,
        transactions[1].changes.last().map(|last| last.cursor)
    );
    assert_eq!((opened.damaged, opened.cut_bytes), (false, 0));
    assert_eq!(read_all(&log.history()), expected);
}

#[tokio::test]
async fn reading_begins_anywhere() {
    let directory = directory();
    let mut config = config(directory.path());
    config.segment_bytes = 100_000;
    let mut stream = Stream::new();
    let transactions = stream.inserts(30, 20, 1000);
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    let history = log.history();
    let all: Vec<_> = transactions.iter().flat_map(|each| &each.changes).collect();
    for (nth, change) in all.iter().enumerate() {
        let read = read_after(&history, change.cursor);
        assert_eq!(read.len(), all.len() - nth - 1);
        let first = read.first().map(|change| change.cursor);
        assert_eq!(first, all.get(nth + 1).map(|change| change.cursor));
    }
    let between = Cursor {
        commit_lsn: Lsn(transactions[3].end_lsn.0 + 1),
        ordinal: 7,
    };
    assert_eq!(read_after(&history, between).len(), 26 * 20);
    assert_eq!(
        read_after(
            &history,
            Cursor {
                commit_lsn: Lsn(u64::MAX),
                ordinal: 0
            }
        )
        .len(),
        0
    );
}

#[tokio::test]
async fn what_comes_again_is_skipped() {
    let directory = directory();
    let config = config(directory.path());
    let mut stream = Stream::new();
    let transactions = stream.inserts(5, 3, 10);
    let (mut log, _) = open(&config);
    append(&mut log, &transactions[..4]).await;
    assert!(!log.append(&transactions[3].changes[2]));
    // Half of the next one, then the connection breaks and all of it comes again.
    assert!(log.append(&transactions[4].changes[0]));
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    assert_eq!(read_all(&log.history()), printed(&transactions));
}

#[tokio::test]
async fn half_a_transaction_is_cut_when_opened() {
    let directory = directory();
    let mut config = config(directory.path());
    // It spans several segments.
    config.segment_bytes = 40_000;
    let mut stream = Stream::new();
    let transactions = stream.inserts(3, 200, 1000);
    let (mut log, _) = open(&config);
    append(&mut log, &transactions[..2]).await;
    for change in &transactions[2].changes[..150] {
        log.append(change);
    }
    close(log).await;

    let (mut log, opened) = open(&config);
    assert_eq!(opened.durable, Some(transactions[1].end_lsn));
    assert!(opened.cut_bytes > 150_000 && !opened.damaged);
    assert_eq!(read_all(&log.history()), printed(&transactions[..2]));
    append(&mut log, &transactions).await;
    close(log).await;

    let (log, opened) = open(&config);
    assert_eq!((opened.cut_bytes, opened.damaged), (0, false));
    assert_eq!(read_all(&log.history()), printed(&transactions));
}

#[tokio::test]
async fn a_slot_ahead_of_the_log_ends_the_epoch() {
    let directory = directory();
    let config = config(directory.path());
    let mut stream = Stream::new();
    let transactions = stream.inserts(2, 1, 10);
    let (mut log, first) = open(&config);
    let history = log.history();
    assert_eq!(log.continue_from(Lsn(900)).await.expect("a disk"), None);
    wait_durable(&history, Lsn(900)).await;
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    let position = *history.written().borrow();
    assert_eq!(position.cursor, transactions[1].changes[0].cursor);
    let mut reader = history.reader_after(position).expect("it is kept");

    let end = transactions[1].end_lsn;
    assert_eq!(log.continue_from(end).await.expect("a disk"), None);
    let ahead = Lsn(end.0 + 1);
    let epoch = log
        .continue_from(ahead)
        .await
        .expect("a disk")
        .expect("a gap");
    assert_ne!(epoch, first.epoch);
    assert_eq!(log.last(), Cursor::default());
    wait_durable(&history, ahead).await;
    let read = reader.next_batch(100, 100, |_| true);
    assert!(matches!(read, Err(ReadError::EpochChanged { epoch: now }) if now == epoch));
    let read = history.reader_after(position);
    assert!(matches!(read, Err(ReadError::EpochChanged { epoch: now }) if now == epoch));
    assert_eq!(read_all(&history), [""; 0]);
    let next = stream.inserts(1, 3, 5);
    append(&mut log, &next).await;
    close(log).await;

    let (log, opened) = open(&config);
    assert_eq!((opened.epoch, opened.new_epoch), (epoch, None));
    assert_eq!(opened.durable, Some(next[0].end_lsn));
    assert_eq!(read_all(&log.history()), printed(&next));
}

#[tokio::test]
async fn another_identity_is_another_epoch() {
    let directory = directory();
    let config = config(directory.path());
    let (mut log, first) = open(&config);
    append(&mut log, &Stream::new().inserts(2, 2, 10)).await;
    close(log).await;
    let mut epoch = first.epoch;
    for change in [
        |identity: &mut Identity| identity.timeline = 2,
        |identity: &mut Identity| identity.system.push('0'),
        |identity: &mut Identity| identity.slot.push('0'),
        |identity: &mut Identity| identity.publication.push('0'),
    ] {
        let mut identity = identity();
        change(&mut identity);
        let (log, opened) = open_as(&config, identity);
        assert_eq!(opened.new_epoch, Some(NewEpoch::OtherIdentity));
        assert_ne!(opened.epoch, epoch);
        assert_eq!((opened.durable, opened.last), (None, None));
        assert_eq!(read_all(&log.history()), [""; 0]);
        epoch = opened.epoch;
        close(log).await;
    }
}
