//! Times as people write them, in UTC.

/// Milliseconds of a day.
pub(crate) const DAY: u64 = 86_400_000;

/// Year, month and day of a day since 1970 (Howard Hinnant, `civil_from_days`).
const fn civil(day: u64) -> (u64, u64, u64) {
    let shifted = day + 719_468;
    let (era, of_era) = (shifted / 146_097, shifted % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let late = month >= 10;
    let year = year + era * 400 + if late { 1 } else { 0 };
    (year, if late { month - 9 } else { month + 3 }, of_year - (153 * month + 2) / 5 + 1)
}

/// `2026-11-26`
pub(crate) fn date(at: u64) -> String {
    let (year, month, day) = civil(at / DAY);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-26T11:06:59.123Z`
pub(crate) fn written(at: u64) -> String {
    let ms = at % DAY;
    let (seconds, ms) = (ms / 1000, ms % 1000);
    format!("{}T{:02}:{:02}:{:02}.{ms:03}Z", date(at), seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// The first moment of a day that is written `2026-11-26`; none: there is no such day.
pub(crate) fn start_of(text: &str) -> Option<u64> {
    let year: u64 = text.get(..4)?.parse().ok()?;
    // The day of a year is at most this far from its first one, by the mean length of years.
    let guess = year.checked_sub(1970)? * 365 + year.checked_sub(1970)? / 4;
    let first = guess.saturating_sub(40);
    (first..guess + 420).map(|day| day * DAY).find(|at| date(*at) == text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_795_330_345_458, "2026-11-22T06:52:25.458Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(written(at), text);
            assert_eq!(start_of(&text[..10]), Some(at / DAY * DAY));
        }
        // Each day of 400 years, and none that is not.
        for day in (0..146_097).step_by(97) {
            assert_eq!(start_of(&date(day * DAY)), Some(day * DAY));
        }
        for none in
            ["", "2026-02-29", "2100-02-29", "2026-13-01", "2026-00-10", "1969-12-31", "2026-1-1", "x"]
        {
            assert_eq!(start_of(none), None, "{none}");
        }
    }
}
