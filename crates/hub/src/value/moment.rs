//! Dates and times of day, from what Postgres prints under `DateStyle = ISO` and from ISO 8601.
//!
//! Less than Postgres takes, never more: no names of months or zones, no `now`, two digits in every
//! part of a time, four at least in a year.

/// Microseconds, from 1970 or from midnight; the infinities are the extremes.
pub(super) type Micros = i128;

const DAY: Micros = 86_400_000_000;
/// The last year of a `date`, and of the timestamps.
const DATE_YEAR_MAX: i64 = 5_874_897;
const TIMESTAMP_YEAR_MAX: i64 = 294_276;

/// A `date`. A time of day may follow and does not count.
pub(super) fn date(text: &str) -> Option<Micros> {
    read(text, DATE_YEAR_MAX).map(|read| match read {
        Read::Infinite(extreme) => extreme,
        Read::Finite { day, .. } => day,
    })
}

/// A `timestamp`. A zone may follow and does not count.
pub(super) fn timestamp(text: &str) -> Option<Micros> {
    read(text, TIMESTAMP_YEAR_MAX).map(|read| match read {
        Read::Infinite(extreme) => extreme,
        Read::Finite { day, clock, .. } => day + clock,
    })
}

/// A `timestamptz`; UTC where there is no zone.
pub(super) fn timestamp_with_zone(text: &str) -> Option<Micros> {
    read(text, TIMESTAMP_YEAR_MAX).map(|read| match read {
        Read::Infinite(extreme) => extreme,
        Read::Finite { day, clock, east } => day + clock - east.unwrap_or(0),
    })
}

/// The same text with a zone that says what the lack of one means.
pub(crate) fn with_zone(text: &str) -> String {
    let text = text.trim_ascii();
    match read(text, TIMESTAMP_YEAR_MAX) {
        Some(Read::Finite { east: None, .. }) => {
            let (moment, era) = text
                .strip_suffix(" BC")
                .map_or((text, ""), |text| (text, " BC"));
            let midnight = if moment.contains(':') {
                ""
            } else {
                " 00:00:00"
            };
            format!("{moment}{midnight}+00{era}")
        }
        _ => text.to_owned(),
    }
}

/// A `time`, from midnight.
pub(super) fn time(text: &str) -> Option<Micros> {
    let text = text.trim_ascii();
    match text {
        "24:00:00" => Some(DAY),
        _ => clock(text),
    }
}

enum Read {
    Infinite(Micros),
    Finite {
        day: Micros,
        clock: Micros,
        /// How far the zone is east of Greenwich.
        east: Option<Micros>,
    },
}

fn read(text: &str, year_max: i64) -> Option<Read> {
    let text = text.trim_ascii();
    match text.to_ascii_lowercase().as_str() {
        "infinity" => return Some(Read::Infinite(Micros::MAX)),
        "-infinity" => return Some(Read::Infinite(Micros::MIN)),
        _ => {}
    }
    let (text, before_christ) = match text.strip_suffix(" BC") {
        Some(text) => (text, true),
        None => (text, false),
    };
    let (date, time) = match text.split_once(['T', ' ']) {
        Some((date, time)) => (date, Some(time)),
        None => (text, None),
    };
    let day = Micros::from(days(date, before_christ, year_max)?) * DAY;
    let Some(time) = time else {
        return Some(Read::Finite {
            day,
            clock: 0,
            east: None,
        });
    };
    let zone_at = time.find(['+', '-', 'Z', 'z']).unwrap_or(time.len());
    let (time, zone) = time.split_at(zone_at);
    let east = match zone {
        "" => None,
        zone => Some(offset(zone)?),
    };
    let clock = clock(time)?;
    Some(Read::Finite { day, clock, east })
}

/// Days since 1970.
fn days(date: &str, before_christ: bool, year_max: i64) -> Option<i64> {
    let mut parts = date.splitn(3, '-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    if !(4..=7).contains(&year.len()) || month.len() > 2 || day.len() > 2 {
        return None;
    }
    let (year, month, day) = (number(year)?, number(month)?, number(day)?);
    let early = before_christ && (-year, month, day) < (-4714, 11, 24);
    if early || year < 1 || year > year_max {
        return None;
    }
    let year = if before_christ { 1 - year } else { year };
    if !(1..=12).contains(&month) || day < 1 || day > days_in(year, month) {
        return None;
    }
    // Howard Hinnant's days_from_civil: the year begins in March, so that the leap day is its last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468)
}

fn days_in(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 => 28 + i64::from(leap),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// `hh:mm`, `hh:mm:ss` or `hh:mm:ss.fraction`.
fn clock(text: &str) -> Option<Micros> {
    let (clock, fraction) = match text.split_once('.') {
        Some((clock, fraction)) => (clock, Some(fraction)),
        None => (text, None),
    };
    let mut parts = clock.split(':').map(two_digits);
    let (hours, minutes) = (parts.next()??, parts.next()??);
    let seconds = match parts.next() {
        Some(seconds) => seconds?,
        None if fraction.is_some() => return None,
        None => 0,
    };
    if parts.next().is_some() || hours > 23 || minutes > 59 || seconds > 59 {
        return None;
    }
    let seconds = Micros::from(hours * 3600 + minutes * 60 + seconds);
    Some(seconds * 1_000_000 + fraction.map_or(Some(0), fraction_micros)?)
}

/// The digits after the point; what is finer is rounded as Postgres rounds it.
fn fraction_micros(digits: &str) -> Option<Micros> {
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let seconds: f64 = format!("0.{digits}").parse().ok()?;
    Some((seconds * 1e6).round_ties_even() as Micros)
}

/// `Z`, or `+hh`, `+hhmm`, `+hh:mm`, `+hh:mm:ss`.
fn offset(zone: &str) -> Option<Micros> {
    if matches!(zone, "Z" | "z") {
        return Some(0);
    }
    let (sign, digits) = zone.split_at_checked(1)?;
    let sign = match sign {
        "+" => 1,
        "-" => -1,
        _ => return None,
    };
    let parts: Vec<&str> = match digits.len() {
        4 => vec![digits.get(..2)?, digits.get(2..)?],
        _ => digits.split(':').collect(),
    };
    let parts: Option<Vec<i64>> = parts.into_iter().map(two_digits).collect();
    let (hours, minutes, seconds) = match *parts? {
        [hours] => (hours, 0, 0),
        [hours, minutes] => (hours, minutes, 0),
        [hours, minutes, seconds] => (hours, minutes, seconds),
        _ => return None,
    };
    let possible = hours <= 15 && minutes <= 59 && seconds <= 59;
    let seconds = Micros::from(hours * 3600 + minutes * 60 + seconds);
    possible.then_some(sign * seconds * 1_000_000)
}

fn two_digits(text: &str) -> Option<i64> {
    number(text).filter(|_| text.len() == 2)
}

fn number(digits: &str) -> Option<i64> {
    let well_formed = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    well_formed.then(|| digits.parse().ok())?
}
