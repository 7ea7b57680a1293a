//! Many readers beside a writer, and what a batch holds.

use walcast_pgoutput::Xid;

use super::stream::{Op, Stream, Transaction, print};
use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn readers_follow_the_writer() {
    let directory = directory();
    let mut config = config(directory.path());
    config.segment_bytes = 200_000;
    config.queue_bytes_max = 1 << 16;
    let transactions = Stream::new().inserts(400, 10, 300);
    let expected = printed(&transactions);
    let (mut log, opened) = open(&config);
    let last = transactions[399].changes[9].cursor;
    let readers: Vec<_> = (0..4)
        .map(|nth| {
            let history = log.history();
            let epoch = opened.epoch;
            tokio::spawn(async move { follow(&history, epoch, last, nth).await })
        })
        .collect();
    append(&mut log, &transactions).await;
    for reader in readers {
        let read = tokio::time::timeout(Duration::from_secs(90), reader).await;
        assert_eq!(read.expect("in time").expect("no panic"), expected);
    }
    close(log).await;
}

async fn follow(
    history: &History,
    epoch: walcast_change::Epoch,
    last: Cursor,
    nth: usize,
) -> Vec<String> {
    let cursor = Cursor::default();
    let mut reader = history
        .reader_after(Position { cursor, epoch })
        .expect("fresh");
    let mut written = history.written();
    let mut read = Vec::new();
    while reader.position().cursor < last {
        written.borrow_and_update();
        let batch = reader
            .next_batch(1000 << nth, 7 << nth, |_| true)
            .expect("whole");
        read.extend(batch.changes.iter().map(print));
        if batch.at_end && reader.position().cursor < last {
            written.changed().await.expect("a log");
        }
    }
    read
}

#[tokio::test]
async fn batches_keep_their_bounds() {
    let directory = directory();
    let config = config(directory.path());
    let mut stream = Stream::new();
    let ops: Vec<_> = (0..300)
        .map(|nth| (1 + nth % 3 / 2, Op::Insert(500)))
        .collect();
    let transactions = [stream.transaction(&ops)];
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    let history = log.history();
    for (bytes_max, changes_max, expected) in [
        (1 << 20, 7, 7),
        (0, 100, 1),
        (1 << 20, 0, 1),
        // A row is its values with their sizes: 5 + 3 digits at most, 5 + 500, 1.
        (514 * 20, 1000, 20),
        (1 << 20, 1000, 300),
    ] {
        let mut reader = history.reader_after(history.oldest()).expect("kept");
        let batch = reader
            .next_batch(bytes_max, changes_max, |_| true)
            .expect("whole");
        assert_eq!(batch.changes.len(), expected, "{bytes_max} {changes_max}");
        let last = batch.changes.last().map(|change| change.cursor);
        assert_eq!(Some(batch.position.cursor), last);
    }
}

#[tokio::test]
async fn unwanted_tables_are_passed_over() {
    let directory = directory();
    let config = config(directory.path());
    let mut stream = Stream::new();
    let mut transactions = stream.inserts(100, 100, 1000);
    transactions.push(stream.transaction(&[(2, Op::Insert(1))]));
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    let history = log.history();
    let mut reader = history.reader_after(history.oldest()).expect("kept");
    let mut found = Vec::new();
    let mut calls = 0;
    loop {
        let batch = reader
            .next_batch(1 << 20, 100, |shape| shape.id.0 == 2)
            .expect("whole");
        calls += 1;
        found.extend(batch.changes.iter().map(print));
        if batch.at_end {
            break;
        }
    }
    assert_eq!(found, printed(&transactions[100..]));
    // 10 MB of nothing, 4 MiB at a time.
    assert_eq!(calls, 3);
}

#[tokio::test]
async fn one_change_may_be_larger_than_everything() {
    let directory = directory();
    let mut config = config(directory.path());
    config.queue_bytes_max = 1 << 16;
    config.segment_bytes = 1 << 16;
    let mut stream = Stream::new();
    let transactions: Vec<Transaction> = [3_000_000, 10, 2_000_000]
        .map(|size| stream.transaction(&[(1, Op::UpdateFull(size)), (2, Op::Insert(1))]))
        .into();
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    close(log).await;
    let (log, _) = open(&config);
    assert_eq!(read_all(&log.history()), printed(&transactions));
}

/// Numbers wrap around, and who began early may commit late.
#[tokio::test]
async fn transactions_since_one_are_told_without_most_of_those_before() {
    let directory = directory();
    let mut config = config(directory.path());
    config.segment_bytes = 20_000;
    let number = |nth: u32| Xid((u32::MAX - 100).wrapping_add(nth));
    let mut transactions = Stream::new().inserts(200, 5, 300);
    let mut began = Vec::new();
    for (nth, transaction) in (0..).zip(&mut transactions) {
        let late = nth % 10 == 9;
        began.push(if late { nth - nth.min(50) } else { nth });
        let changes = transaction.changes.iter_mut();
        changes.for_each(|change| change.xid = number(began[nth as usize]));
    }
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    for life in ["as it was written", "as it was found"] {
        let history = log.history();
        for (since, told_max) in [(0, 200), (60, 160), (120, 100), (198, 20), (300, 0)] {
            let mut reader = history.reader_since(number(since));
            let mut told = Vec::new();
            while !reader
                .next_transactions(|xid| told.push(xid))
                .expect("whole")
            {}
            let wanted = began.iter().filter(|nth| **nth >= since);
            for nth in wanted {
                assert!(told.contains(&number(*nth)), "{life}: {nth} of {since}");
            }
            told.dedup();
            assert!(told.len() <= told_max, "{life}: {} of {since}", told.len());
        }
        close(log).await;
        log = open(&config).0;
    }
}
