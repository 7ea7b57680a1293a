//! Whatever happens to the files: a run of the changes that were appended, or nothing.

use std::fs;
use std::path::PathBuf;

use proptest::prelude::*;
use walcast_pgoutput::Lsn;

use super::stream::{Op, Stream, Transaction};
use super::*;
use crate::ReadError;

/// Segment files, oldest first, and the head.
fn files(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).expect("the directory");
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.retain(|path| path.file_name().is_some_and(|name| name != "lock"));
    files.sort();
    files
}

/// Opens what is left after damage. What is read must be a run of `transactions` that ends with a
/// complete one, the epoch must end if something acknowledged is missing, and all must go on.
async fn check(config: &LogConfig, transactions: &[Transaction], what: &str) {
    let all = printed(transactions);
    let (mut log, opened) = open(config);
    let history = log.history();
    let read = read_all(&history);
    let durable = opened.durable.unwrap_or(Lsn::ZERO);
    let complete = transactions
        .iter()
        .filter(|each| each.end_lsn <= durable)
        .count();
    let expected = printed(&transactions[..complete]);
    assert!(
        expected.ends_with(&read),
        "{what}: {} of {}",
        read.len(),
        all.len()
    );
    if opened.oldest.is_none() && opened.new_epoch.is_none() {
        assert_eq!(
            read.len(),
            expected.len(),
            "{what}: nothing at the front is missing"
        );
    }

    let acknowledged = transactions.last().map_or(Lsn::ZERO, |last| last.end_lsn);
    let gap = log
        .continue_from(acknowledged)
        .await
        .expect("a disk that works");
    let ended = gap.is_some() || opened.new_epoch.is_some();
    assert_eq!(
        ended,
        complete < transactions.len(),
        "{what}: a gap ends the epoch"
    );
    let mut more = Stream::new();
    let skipped = transactions.len();
    more.inserts(skipped, 1, 1);
    let more = more.inserts(2, 2, 20);
    append(&mut log, &more).await;
    log.sync().await.expect("a disk that works");
    let mut expected = if ended { Vec::new() } else { read };
    expected.extend(printed(&more));
    assert_eq!(read_all(&history), expected, "{what}: it goes on");
    close(log).await;
}

async fn written(config: &LogConfig, transactions: &[Transaction]) {
    let (mut log, _) = open(config);
    append(&mut log, transactions).await;
    close(log).await;
}

fn copy(from: &Path, to: &Path) {
    for file in files(from) {
        let name = file.file_name().expect("a file");
        fs::copy(&file, to.join(name)).expect("a copy");
    }
}

#[tokio::test]
async fn cut_at_every_byte_and_every_byte_changed() {
    let original = directory();
    let mut stream = Stream::new();
    let transactions = [
        stream.transaction(&[(1, Op::Insert(3)), (2, Op::UpdateFull(4))]),
        stream.transaction(&[(1, Op::DeleteKey)]),
        stream.transaction(&[(1, Op::Update(2)), (1, Op::Truncate)]),
    ];
    written(&config(original.path()), &transactions).await;
    for (nth, file) in files(original.path()).iter().enumerate() {
        let size = fs::metadata(file).expect("a file").len() as usize;
        for at in 0..size {
            for change in [None, Some(1), Some(0x80), Some(0xff)] {
                let copied = directory();
                copy(original.path(), copied.path());
                let path = &files(copied.path())[nth];
                let mut bytes = fs::read(path).expect("a file");
                match change {
                    None => bytes.truncate(at),
                    Some(bits) => bytes[at] ^= bits,
                }
                fs::write(path, bytes).expect("a file");
                let what = format!("file {nth} byte {at} of {size}: {change:?}");
                check(&config(copied.path()), &transactions, &what).await;
            }
        }
    }
}

#[tokio::test]
async fn damage_while_it_is_read() {
    let directory = directory();
    let mut config = config(directory.path());
    config.segment_bytes = 50_000;
    let transactions = Stream::new().inserts(40, 10, 1000);
    let all = printed(&transactions);
    let (mut log, _) = open(&config);
    append(&mut log, &transactions).await;
    log.sync().await.expect("a disk that works");
    let history = log.history();
    let start = history.oldest();
    let mut reader = history.reader_after(start).expect("kept");
    let path = &files(directory.path())[3];
    let mut bytes = fs::read(path).expect("a file");
    bytes[30_000] ^= 4;
    fs::write(path, bytes).expect("a file");
    let mut read = Vec::new();
    let error = loop {
        match reader.next_batch(20_000, 100, |_| true) {
            Ok(batch) if batch.at_end => panic!("the damage was not noticed"),
            Ok(batch) => read.extend(batch.changes.iter().map(stream::print)),
            Err(error) => break error,
        }
    };
    assert!(
        matches!(error, ReadError::Damaged { segment: 4, .. }),
        "{error}"
    );
    assert!(!read.is_empty() && all.starts_with(&read));
    assert!(matches!(
        history.reader_after(start),
        Err(ReadError::TooOld { .. })
    ));
    let rest = read_all(&history);
    assert!(!rest.is_empty() && all.ends_with(&rest));
}

fn op() -> impl Strategy<Value = (u32, Op)> {
    let size = prop_oneof![8 => 0..300_usize, 1 => 0..60_000_usize];
    let op = (0..8, size).prop_map(|(kind, size)| match kind {
        0 | 1 => Op::Insert(size),
        2 => Op::Update(size),
        3 => Op::UpdateKey(size),
        4 => Op::UpdateFull(size),
        5 => Op::DeleteFull(size),
        6 => Op::Truncate,
        _ => Op::Describe,
    });
    (1..=2_u32, op)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn any_log_damaged_anywhere(
        ops in proptest::collection::vec(proptest::collection::vec(op(), 1..12), 1..25),
        segment_bytes in prop_oneof![Just(1_000_u64), Just(20_000), Just(1 << 20)],
        file in any::<prop::sample::Index>(),
        place in any::<prop::sample::Index>(),
        change in prop_oneof![
            2 => Just(None),
            3 => (1..=255_u8).prop_map(Some),
        ],
        lost in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime").block_on(async {
            let directory = directory();
            let mut config = config(directory.path());
            config.segment_bytes = segment_bytes;
            let mut stream = Stream::new();
            let transactions: Vec<_> = ops.iter().map(|ops| stream.transaction(ops)).collect();
            written(&config, &transactions).await;
            let files = files(directory.path());
            let path = file.get(&files);
            let mut bytes = fs::read(path).expect("a file");
            let at = place.index(bytes.len());
            match (change, lost) {
                (_, true) if at % 5 == 0 => fs::remove_file(path).expect("a file"),
                (None, _) => {
                    bytes.truncate(at);
                    fs::write(path, bytes).expect("a file");
                }
                (Some(bits), _) => {
                    bytes[at] ^= bits;
                    fs::write(path, bytes).expect("a file");
                }
            }
            check(&config, &transactions, &format!("{path:?} {at} {change:?}")).await;
        });
    }
}
