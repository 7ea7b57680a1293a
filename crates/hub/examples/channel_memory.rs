//! What a joined channel costs: `cargo run -p walcast-hub --example channel_memory`.
//! Prints the growth of the resident memory per membership; the sessions' own sockets and outboxes
//! are not counted, their handles are.

use std::sync::Arc;

use bytes::Bytes;
use walcast_hub::{
    ChannelLimits, Channels, Class, Diff, Hears, Joining, Membership, Message, Namespace, Outbox,
    Roster, Voice,
};

struct Silent;

impl Voice for Silent {
    fn broadcast(&self, _: Class<'_>, _: &Message) -> Option<Bytes> {
        None
    }

    fn presence(&self, _: Class<'_>, _: &Diff, _: &Roster) -> Option<Bytes> {
        None
    }
}

const MEMBERS: usize = 200_000;

fn main() -> anyhow::Result<()> {
    // Nothing is freed in between: freed memory would hide what the next one takes.
    let mut kept = Vec::new();
    for (what, topics, meta) in [
        ("200 topics of 1,000 members", 200, None),
        ("20,000 topics of 10 members", 20_000, None),
        ("200,000 topics of 1 member", MEMBERS, None),
        (
            "200 topics of 1,000, each present with 100 bytes",
            200,
            Some(100),
        ),
    ] {
        let bytes = measure(topics, meta, &mut kept)?;
        println!("{what}: {bytes} bytes per joined channel");
    }
    Ok(())
}

fn measure(
    topics: usize,
    meta: Option<usize>,
    kept: &mut Vec<Membership>,
) -> anyhow::Result<usize> {
    let channels = Channels::new(ChannelLimits::default(), Arc::new(Silent));
    let outbox = Arc::new(Outbox::new(1 << 20));
    let payload = vec![b'x'; meta.unwrap_or_default()];
    let hears = Hears {
        broadcast: true,
        presence: true,
        own: false,
    };
    let before = resident()?;
    for nth in 0..MEMBERS {
        let joining = Joining {
            outbox: outbox.clone(),
            format: 0,
            label: format!("broadcast:room-{}", nth % topics).into(),
            hears,
            present: None,
        };
        let topic = format!("room-{}", nth % topics);
        let member = channels.join(Namespace::Public, &topic, joining, |_| Bytes::new())?;
        if meta.is_some() {
            member.track(&format!("user-{nth}"), &payload)?;
        }
        kept.push(member);
        if nth % 1_000 == 0 {
            drain(&outbox);
        }
    }
    drain(&outbox);
    Ok((resident()? - before) / MEMBERS)
}

/// The acknowledgements are empty, but they stand in the outbox.
fn drain(outbox: &Outbox) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let runtime = runtime.expect("a runtime without drivers");
    runtime.block_on(outbox.take(&mut Vec::new(), usize::MAX));
}

/// Bytes in memory, from `/proc/self/statm` in pages of 4 KiB.
fn resident() -> anyhow::Result<usize> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(1).unwrap_or_default();
    Ok(pages.parse::<usize>()? * 4096)
}
