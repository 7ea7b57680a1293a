//! A commit's time as ISO 8601.

use std::io::Write;

use walcast_pgoutput::PgTime;

/// Appends `2026-11-21T10:00:00.123456Z`.
pub fn write_timestamp(time: PgTime, out: &mut Vec<u8>) {
    let micros = write_seconds(time, out);
    write!(out, ".{micros:06}Z").expect("writing to a Vec can't fail");
}

/// Appends `2026-11-21T10:00:00.123Z`; what is less than a millisecond is cut off.
pub(crate) fn write_timestamp_ms(time: PgTime, out: &mut Vec<u8>) {
    let micros = write_seconds(time, out);
    write!(out, ".{:03}Z", micros / 1000).expect("writing to a Vec can't fail");
}

/// Appends `2026-11-21T10:00:00`; returns the microseconds.
fn write_seconds(time: PgTime, out: &mut Vec<u8>) -> i64 {
    let micros = time.unix_micros();
    let (seconds, fraction) = (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let (year, month, day) = civil(days);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    write!(
        out,
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}"
    )
    .expect("writing to a Vec can't fail");
    fraction
}

/// The calendar date that is `days` after 1970-01-01 (Howard Hinnant's civil_from_days).
fn civil(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 {
        shifted_month + 3
    } else {
        shifted_month - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * shifted_month + 2) / 5 + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts() {
        for (micros, expected) in [
            (0, "2000-01-01T00:00:00.000000Z"),
            (1, "2000-01-01T00:00:00.000001Z"),
            (-1, "1999-12-31T23:59:59.999999Z"),
            (5_097_600_000_000, "2000-02-29T00:00:00.000000Z"),
            (848_589_025_250_000, "2026-11-21T15:10:25.250000Z"),
        ] {
            let mut out = Vec::new();
            write_timestamp(PgTime(micros), &mut out);
            assert_eq!(String::from_utf8_lossy(&out), expected);
            out.clear();
            write_timestamp_ms(PgTime(micros), &mut out);
            let milliseconds = format!("{}Z", &expected[..23]);
            assert_eq!(String::from_utf8_lossy(&out), milliseconds);
        }
    }
}
