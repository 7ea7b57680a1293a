//! How far back a reader may go.

use std::time::Instant;

use super::stream::Stream;
use super::*;
use crate::ReadError;

#[tokio::test]
async fn by_bytes() {
    let directory = directory();
    let mut config = config(directory.path());
    config.segment_bytes = 50_000;
    config.bytes_max = 300_000;
    let transactions = Stream::new().inserts(100, 10, 1000);
    let (mut log, _) = open(&config);
    let history = log.history();
    append(&mut log, &transactions[..10]).await;
    log.sync().await.expect("a disk that works");
    let mut slow = history.reader_after(history.oldest()).expect("kept");
    let batch = slow.next_batch(10, 10, |_| true).expect("whole");
    assert_eq!(batch.changes.len(), 1);

    append(&mut log, &transactions[10..]).await;
    log.sync().await.expect("a disk that works");
    let size = history.size_bytes();
    assert!((200_000..=config.bytes_max).contains(&size), "{size}");
    let on_disk: u64 = std::fs::read_dir(directory.path())
        .expect("the directory")
        .map(|entry| entry.expect("an entry").metadata().expect("a file").len())
        .sum();
    assert!(on_disk < size + 1000, "{on_disk} {size}");

    let oldest = history.oldest();
    let expected = printed(&transactions);
    let read = read_all(&history);
    assert!(!read.is_empty() && expected.ends_with(&read));
    let left_out = &transactions
        .iter()
        .flat_map(|each| &each.changes)
        .collect::<Vec<_>>()[..expected.len() - read.len()];
    let (last, rest) = left_out.split_last().expect("something was dropped");
    assert_eq!(last.cursor, oldest.cursor, "the last one that is gone");
    let before = Position {
        cursor: rest.last().expect("more was dropped").cursor,
        ..oldest
    };
    for result in [
        history.reader_after(before).map(drop),
        slow.next_batch(10, 10, |_| true).map(drop),
    ] {
        let Err(ReadError::TooOld { oldest: said }) = result else {
            panic!("{result:?}")
        };
        assert_eq!(said, oldest.cursor);
    }
    close(log).await;

    let (log, opened) = open(&config);
    assert_eq!(opened.oldest, Some(oldest.cursor));
    assert_eq!(read_all(&log.history()), read);
}

#[tokio::test]
async fn by_age() {
    let directory = directory();
    let mut config = config(directory.path());
    config.age_max = Duration::from_millis(40);
    let mut stream = Stream::new();
    let (mut log, _) = open(&config);
    let history = log.history();
    let first = history.oldest();
    let begun = Instant::now();
    while history.oldest() == first {
        assert!(
            begun.elapsed() < Duration::from_secs(90),
            "nothing was dropped"
        );
        append(&mut log, &stream.inserts(1, 1, 10)).await;
        log.sync().await.expect("a disk that works");
    }
    assert!(begun.elapsed() >= config.age_max);
    // What is the oldest now may be dropped before it is asked for.
    assert!((0..100).any(|_| history.reader_after(history.oldest()).is_ok()));
    assert!(matches!(
        history.reader_after(first),
        Err(ReadError::TooOld { .. })
    ));
}
