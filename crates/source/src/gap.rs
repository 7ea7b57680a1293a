//! When the stream can't go on exactly where it stopped.

use walcast_pgoutput::Lsn;

/// Which server, and which life of it. LSNs are comparable only within one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerIdentity {
    /// `system_identifier`, made by `initdb`.
    pub system: String,
    /// Grows with every promotion of a standby.
    pub timeline: u32,
}

/// Changes may be missing between `after` and `resumes_at`: a new epoch. Whoever kept state made of
/// the stream has to fetch it anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Gap {
    pub reason: GapReason,
    /// What had been acknowledged, or [`Lsn::ZERO`].
    pub after: Lsn,
    /// Where the stream goes on.
    pub resumes_at: Lsn,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum GapReason {
    /// The slot was dropped by somebody; a new one was created.
    SlotMissing,
    /// Postgres had invalidated the slot; a new one was created.
    SlotLost,
    /// Another consumer moved the slot past what we had acknowledged.
    SlotAdvanced,
    /// A temporary slot ends with its connection.
    TemporarySlot,
    /// The publication was dropped and made again.
    PublicationRecreated,
    /// Another server, or an older copy of it, answers under this address.
    OtherServer,
    /// A standby was promoted. What the old server had sent last may not have reached it, and its
    /// LSNs from there on mean other changes.
    Promoted,
}

impl GapReason {
    /// A stable name for clients and metrics.
    pub fn name(self) -> &'static str {
        match self {
            GapReason::SlotMissing => "slot_missing",
            GapReason::SlotLost => "slot_lost",
            GapReason::SlotAdvanced => "slot_advanced",
            GapReason::TemporarySlot => "temporary_slot",
            GapReason::PublicationRecreated => "publication_recreated",
            GapReason::OtherServer => "other_server",
            GapReason::Promoted => "promoted",
        }
    }
}

/// What an existing slot is compared with.
#[derive(Clone, Debug, Default)]
pub(crate) struct Known {
    /// [`Lsn::ZERO`] when nothing is known of an earlier life.
    pub(crate) acknowledged: Lsn,
    pub(crate) identity: Option<ServerIdentity>,
    pub(crate) publication_oid: Option<u32>,
}

/// What the server says now.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) system: String,
    pub(crate) publication_oid: u32,
    /// The end of the WAL on disk.
    pub(crate) flushed: Lsn,
    /// The slot's `confirmed_flush_lsn`.
    pub(crate) confirmed: Lsn,
}

/// Whether an existing slot goes on where we were; the first reason that says no.
pub(crate) fn judge(known: &Known, found: &Found) -> Option<GapReason> {
    let other_system = known
        .identity
        .as_ref()
        .is_some_and(|identity| identity.system != found.system);
    // behind what it once told us: a restored backup, or a standby that had not received all
    let behind = found.flushed < known.acknowledged;
    if other_system || behind {
        return Some(GapReason::OtherServer);
    }
    if known.acknowledged > Lsn::ZERO && found.confirmed > known.acknowledged {
        return Some(GapReason::SlotAdvanced);
    }
    let recreated = known
        .publication_oid
        .is_some_and(|oid| oid != found.publication_oid);
    recreated.then_some(GapReason::PublicationRecreated)
}

/// Whether the server is the same as before, but on another timeline: [`GapReason::Promoted`].
pub(crate) fn promoted(known: &Known, found: &ServerIdentity) -> Option<GapReason> {
    let before = known.identity.as_ref()?;
    let promoted = before.system == found.system && before.timeline != found.timeline;
    promoted.then_some(GapReason::Promoted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(system: &str, timeline: u32) -> ServerIdentity {
        ServerIdentity {
            system: system.into(),
            timeline,
        }
    }

    #[test]
    fn judgements() {
        let known = Known {
            acknowledged: Lsn(100),
            identity: Some(identity("a", 1)),
            publication_oid: Some(7),
        };
        let found = Found {
            system: "a".into(),
            publication_oid: 7,
            flushed: Lsn(200),
            confirmed: Lsn(100),
        };
        let with = |change: fn(&mut Found)| {
            let mut found = found.clone();
            change(&mut found);
            judge(&known, &found)
        };
        assert_eq!(with(|_| ()), None);
        assert_eq!(with(|f| f.confirmed = Lsn(90)), None); // forgotten by a crash
        assert_eq!(with(|f| f.flushed = Lsn(100)), None);
        assert_eq!(
            with(|f| f.system = "b".into()),
            Some(GapReason::OtherServer)
        );
        assert_eq!(
            with(|f| f.confirmed = Lsn(101)),
            Some(GapReason::SlotAdvanced)
        );
        assert_eq!(with(|f| f.flushed = Lsn(99)), Some(GapReason::OtherServer));
        assert_eq!(
            with(|f| f.publication_oid = 8),
            Some(GapReason::PublicationRecreated)
        );
        assert_eq!(judge(&Known::default(), &found), None); // the first start ever
    }

    #[test]
    fn promotions() {
        let known = Known {
            identity: Some(identity("a", 1)),
            ..Known::default()
        };
        for (found, expected) in [
            (identity("a", 1), None),
            (identity("a", 2), Some(GapReason::Promoted)),
            (identity("b", 2), None),
        ] {
            assert_eq!(promoted(&known, &found), expected);
        }
        assert_eq!(promoted(&Known::default(), &identity("a", 2)), None);
    }
}
