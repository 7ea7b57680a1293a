//! Which walk somebody goes with, and when another one may be begun: so that nobody waits for
//! somebody else's trouble, with a bound on the walks, each of which has connections to Postgres.

use std::hash::{DefaultHasher, Hash, Hasher};

use walcast_change::Cursor;
use walcast_hub::{ConnId, Spec};

/// Walks for clients who come back.
const BACK_MAX: usize = 6;
/// So many of them may be far from the end of the log; the others are for who comes back soon.
const BACK_FAR_MAX: usize = 4;
/// So many of these may be begun for one connection: who asks again and again from far back does not
/// hold them all.
const OWN_MAX: usize = 2;
/// Lanes for those who are slow to judge. Two roles of a table have other policies: they should
/// rarely share one.
const ASIDE_LANES: u64 = 16;
/// Lanes for those who could not be judged and are tried again.
const TRIED_LANES: u64 = 4;
/// Every lane may have a walk. Further ones, from other places: so many of a lane, not all of them far
/// from the end, and so many in all.
const LANE_MAX: usize = 4;
const LANE_FAR_MAX: usize = 2;
const SPARE_MAX: usize = 6;
/// A walk so many bytes of WAL before a place is joined; one farther away would take long.
const NEAR_BYTES: u64 = 16 << 20;

/// Who may share a walk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Lane {
    /// Clients who come back.
    Back,
    /// Those whom it takes long to judge, by table and role.
    Aside(u64),
    /// Those who could not be judged, by table and role: each question may take long and be in vain.
    Tried(u64),
}

/// A walk, as far as it matters to who looks for one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Track {
    pub(crate) lane: Lane,
    /// Up to here it has read.
    pub(crate) reached: Cursor,
    pub(crate) begun_for: ConnId,
}

/// Somebody who looks for a walk.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seeker {
    pub(crate) lane: Lane,
    pub(crate) since: Cursor,
    pub(crate) connection: ConnId,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Choice {
    /// The walk with this place among the tracks.
    Join(usize),
    Begin,
    Wait,
}

impl Lane {
    pub(crate) fn aside(spec: &Spec, role: &str) -> Lane {
        Lane::Aside(hashed(spec, role) % ASIDE_LANES)
    }

    pub(crate) fn tried(spec: &Spec, role: &str) -> Lane {
        Lane::Tried(hashed(spec, role) % TRIED_LANES)
    }
}

fn hashed(spec: &Spec, role: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&spec.target, role).hash(&mut hasher);
    hasher.finish()
}

/// Whether `before` lies before `place`, but not far.
pub(crate) fn is_near(before: Cursor, place: Cursor) -> bool {
    let distance = place.commit_lsn.0.saturating_sub(before.commit_lsn.0);
    before <= place && distance <= NEAR_BYTES
}

/// `end`: of the log.
pub(crate) fn choose(seeker: Seeker, tracks: &[Track], end: Cursor) -> Choice {
    let own = tracks.iter().enumerate();
    let own = own.filter(|(_, track)| track.lane == seeker.lane);
    let before = own.filter(|(_, track)| track.reached <= seeker.since);
    let nearest = before.max_by_key(|(_, track)| track.reached);
    let recent = is_near_end(seeker.since, end);
    match nearest {
        Some((at, track)) if is_near(track.reached, seeker.since) => Choice::Join(at),
        _ if may_begin(seeker, recent, tracks, end) => Choice::Begin,
        // Its own will be free soon: those in the way are at the end in a moment.
        _ if recent && seeker.lane == Lane::Back => Choice::Wait,
        Some((at, _)) => Choice::Join(at),
        None => Choice::Wait,
    }
}

/// A place may lie ahead of what is written.
fn is_near_end(place: Cursor, end: Cursor) -> bool {
    place >= end || is_near(place, end)
}

fn may_begin(seeker: Seeker, recent: bool, tracks: &[Track], end: Cursor) -> bool {
    let own = || tracks.iter().filter(|track| track.lane == seeker.lane);
    let far = || own().filter(|track| !is_near_end(track.reached, end));
    match seeker.lane {
        Lane::Back if own().count() >= BACK_MAX => false,
        Lane::Back => {
            let for_it = far().filter(|track| track.begun_for == seeker.connection);
            recent || far().count() < BACK_FAR_MAX && for_it.count() < OWN_MAX
        }
        Lane::Aside(_) | Lane::Tried(_) => match own().count() {
            0 => true,
            count if count >= LANE_MAX || spare(tracks) >= SPARE_MAX => false,
            _ => recent || far().count() < LANE_FAR_MAX,
        },
    }
}

/// The walks beside the first of each lane.
fn spare(tracks: &[Track]) -> usize {
    let aside = || tracks.iter().filter(|track| track.lane != Lane::Back);
    let lanes: std::collections::HashSet<Lane> = aside().map(|track| track.lane).collect();
    aside().count().saturating_sub(lanes.len())
}

#[cfg(test)]
mod tests {
    use walcast_pgoutput::Lsn;

    use super::*;

    /// Of a walk, in MiB, and for whom it was begun.
    type Place = (u64, u64);

    const MIB: u64 = 1 << 20;
    const END: u64 = 1000;

    fn at(mib: u64) -> Cursor {
        Cursor {
            commit_lsn: Lsn(mib * MIB),
            ordinal: 0,
        }
    }

    fn track(lane: Lane, mib: u64, connection: u64) -> Track {
        Track {
            lane,
            reached: at(mib),
            begun_for: ConnId(connection),
        }
    }

    fn chosen(lane: Lane, mib: u64, connection: u64, tracks: &[Track]) -> Choice {
        let seeker = Seeker {
            lane,
            since: at(mib),
            connection: ConnId(connection),
        };
        choose(seeker, tracks, at(END))
    }

    fn back(places: &[Place]) -> Vec<Track> {
        let tracks = places.iter();
        tracks
            .map(|(mib, connection)| track(Lane::Back, *mib, *connection))
            .collect()
    }

    #[test]
    fn who_comes_back_finds_a_walk() {
        use Choice::{Begin, Join, Wait};
        let far = [(0, 1), (100, 2), (200, 3), (300, 4)];
        let full = [far.as_slice(), &[(995, 5), (996, 6)]].concat();
        let cases: [(&[Place], u64, u64, Choice); 16] = [
            (&[], 10, 9, Begin),
            // The nearest before it, if it is near; what has gone past is of no use.
            (&[(10, 1), (5, 2)], 12, 9, Join(0)),
            (&[(10, 1), (5, 2)], 7, 9, Join(1)),
            (&[(10, 1)], 27, 9, Begin),
            (&[(10, 1)], 9, 9, Begin),
            // Far ones share what is for far ones.
            (&far, 150, 9, Join(1)),
            (&far[1..], 150, 9, Begin),
            (&[(100, 1), (101, 2), (102, 3), (103, 4)], 50, 9, Wait),
            // A connection begins two of them.
            (&[(100, 9)], 50, 9, Begin),
            (&[(100, 9), (200, 9)], 50, 9, Wait),
            (&[(100, 9), (200, 9)], 150, 9, Join(0)),
            (&[(100, 9), (990, 9)], 50, 9, Begin),
            // Recent places are not behind far ones.
            (&far, 990, 9, Begin),
            (&far, END + 1, 9, Begin),
            (&full, 990, 9, Wait),
            (&full, 997, 9, Join(5)),
        ];
        for (places, mib, connection, expected) in cases {
            let choice = chosen(Lane::Back, mib, connection, &back(places));
            assert_eq!(choice, expected, "{places:?} {mib} {connection}");
        }
    }

    #[test]
    fn every_lane_has_a_walk_and_the_others_are_bounded() {
        let mut tracks = back(&[(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6)]);
        let lanes = (0..ASIDE_LANES).map(Lane::Aside);
        let lanes = lanes.chain((0..TRIED_LANES).map(Lane::Tried));
        let lanes: Vec<Lane> = lanes.collect();
        for lane in &lanes {
            assert_eq!(chosen(*lane, 10, 1, &tracks), Choice::Begin);
            tracks.push(track(*lane, 990, 1));
        }
        let mut begun = 0;
        for lane in lanes.iter().cycle().take(200) {
            if chosen(*lane, 10, 1, &tracks) == Choice::Begin {
                begun += 1;
                tracks.push(track(*lane, 990, 1));
            }
        }
        assert_eq!(begun, SPARE_MAX);
        assert_eq!(chosen(lanes[0], 10, 1, &tracks), Choice::Wait);
        assert!(matches!(
            chosen(lanes[0], 2000, 1, &tracks),
            Choice::Join(_)
        ));
    }

    #[test]
    fn one_lane_does_not_take_all_the_spare_walks() {
        let lane = Lane::Tried(0);
        let mut tracks = vec![track(lane, 100, 1); LANE_FAR_MAX];
        assert_eq!(chosen(lane, 10, 1, &tracks), Choice::Wait, "far ones");
        assert_eq!(chosen(lane, 990, 1, &tracks), Choice::Begin, "a recent one");
        tracks.resize(LANE_MAX, track(lane, 995, 1));
        assert_eq!(chosen(lane, 990, 1, &tracks), Choice::Join(1));
        assert_eq!(chosen(Lane::Tried(1), 10, 1, &tracks), Choice::Begin);
    }
}
