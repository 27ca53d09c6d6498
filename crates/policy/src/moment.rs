//! Moments as a document writes them: `2026-12-31T18:00:00Z`, or `2026-12-31` for its first.

use cofferdam_base::Millis;

/// Reads a moment in UTC, between 1970 and 9999.
pub(crate) fn parse(text: &str) -> Option<Millis> {
    let (date, time) = match text.split_once('T') {
        None => (text, "00:00:00Z"),
        Some(both) => both,
    };
    let [year, month, day] = numbers(date, '-', [4, 2, 2])?;
    let [hour, minute, second] = numbers(time.strip_suffix('Z')?, ':', [2, 2, 2])?;
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let february = if leap { 29 } else { 28 };
    let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let index = usize::try_from(month).ok()?.checked_sub(1)?;
    let length = *lengths.get(index)?;
    if year < 1970 || day < 1 || day > length || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    // Days since the epoch: whole years, their leap days, whole months, days.
    let before = year - 1;
    let leaps = |year: u64| year / 4 - year / 100 + year / 400;
    let days =
        (year - 1970) * 365 + leaps(before) - leaps(1969) + lengths[..index].iter().sum::<u64>() + day - 1;
    Some(Millis((((days * 24 + hour) * 60 + minute) * 60 + second) * 1000))
}

fn numbers(text: &str, between: char, widths: [usize; 3]) -> Option<[u64; 3]> {
    let mut parts = text.split(between);
    let mut found = [0; 3];
    for (number, width) in found.iter_mut().zip(widths) {
        let part =
            parts.next().filter(|part| part.len() == width && part.bytes().all(|b| b.is_ascii_digit()))?;
        *number = part.parse().ok()?;
    }
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_and_what_is_none_is_not() {
        for (text, expected) in [
            ("1970-01-01", Some(0)),
            ("2000-03-01T00:00:00Z", Some(951_868_800)),
            ("2024-02-29T23:59:59Z", Some(1_709_251_199)),
            ("2026-12-31T18:00:00Z", Some(1_798_740_000)),
            ("2023-02-29", None),
            ("2026-13-01", None),
            ("2026-12-31T24:00:00Z", None),
            ("2026-12-31T18:00:00", None),
            ("2026-12-31T18:00:00+02:00", None),
            ("26-12-31", None),
            ("2026-00-10", None),
            ("tomorrow", None),
        ] {
            assert_eq!(parse(text), expected.map(|seconds: u64| Millis(seconds * 1000)), "{text}");
        }
    }
}
