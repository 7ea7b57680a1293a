//! Which transactions other sessions can see.

use walcast_pgoutput::Xid;

/// What `pg_current_snapshot()` prints: `xmin:xmax:xip,…`, with 64-bit transaction numbers.
///
/// A change can come out of the WAL before its transaction is visible (the commit record is
/// written first; a synchronous standby is waited for in between). What a policy reads from other
/// tables then lacks what the same transaction wrote there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgSnapshot {
    /// Everything before this has ended.
    xmin: u64,
    /// Nothing from here on has ended.
    xmax: u64,
    /// Still going on, between the two.
    running: Vec<u64>,
}

impl PgSnapshot {
    /// Reads `xmin:xmax:xip,…`; `None`, where it is something else.
    pub fn parse(text: &str) -> Option<PgSnapshot> {
        let mut parts = text.split(':');
        let (xmin, xmax, running) = (parts.next()?, parts.next()?, parts.next()?);
        let running = match running {
            "" => Vec::new(),
            list => list
                .split(',')
                .map(|xid| xid.parse().ok())
                .collect::<Option<_>>()?,
        };
        Some(PgSnapshot {
            xmin: xmin.parse().ok()?,
            xmax: xmax.parse().ok()?,
            running,
        })
    }

    /// Every transaction before this one has ended.
    pub fn oldest(&self) -> Xid {
        Xid(self.xmin as u32)
    }

    /// Whether a transaction that has committed is visible. The stream's numbers have 32 bits: the
    /// one meant is the one nearest to the snapshot's end, half the circle at most.
    pub fn sees(&self, xid: Xid) -> bool {
        let distance = xid.0.wrapping_sub(self.xmax as u32).cast_signed();
        let Some(full) = self.xmax.checked_add_signed(i64::from(distance)) else {
            return true; // before the first transaction there ever was
        };
        full < self.xmin || full < self.xmax && !self.running.contains(&full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn visible_transactions() {
        let check = |text: &str, xid: u32, expected: bool| {
            let snapshot = PgSnapshot::parse(text).expect(text);
            assert_eq!(snapshot.sees(Xid(xid)), expected, "{text} {xid}");
        };
        for (xid, expected) in [
            (3, true),
            (9, true),
            (10, false),
            (11, true),
            (12, false),
            (13, false),
            (99, false),
        ] {
            check("10:13:10,12", xid, expected);
        }
        let epoch = 1u64 << 32;
        let near = format!("{}:{}:", epoch + 5, epoch + 5);
        check(&near, u32::MAX, true);
        check(&near, 4, true);
        check(&near, 5, false);
        check(
            &format!("{}:{}:{}", epoch - 2, epoch + 1, epoch - 2),
            u32::MAX - 1,
            false,
        );
        check(
            &format!("{}:{}:{}", epoch - 2, epoch + 1, epoch - 2),
            u32::MAX,
            true,
        );
    }

    #[test]
    fn other_texts_are_nothing() {
        for text in ["", "1", "1:2", "1:2:x", "a:2:", "1:2:3,"] {
            assert_eq!(PgSnapshot::parse(text), None, "{text}");
        }
    }
}
