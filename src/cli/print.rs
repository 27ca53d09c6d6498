//! What commands print: JSON as it came, or tables for people.

use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{IsTerminal, Write};

/// Prints JSON, one document.
pub(crate) fn json(value: &impl Serialize) -> std::io::Result<()> {
    let text = serde_json::to_string_pretty(value).map_err(std::io::Error::other)?;
    line(&text)
}

/// Prints a line; a reader that went away ends the program quietly.
pub(crate) fn line(text: &str) -> std::io::Result<()> {
    raw(format!("{text}\n").as_bytes())
}

/// Prints bytes as they are, at once; likewise.
pub(crate) fn raw(bytes: &[u8]) -> std::io::Result<()> {
    let mut out = std::io::stdout().lock();
    match out.write_all(bytes).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        other => other,
    }
}

/// How wide the terminal is; 80 columns if there is none.
pub(crate) fn width() -> usize {
    let size = rustix::termios::tcgetwinsize(std::io::stdout()).ok();
    size.map(|size| usize::from(size.ws_col)).filter(|columns| *columns >= 40).unwrap_or(80)
}

/// Prints rows below a head, or one line when there are none.
pub(crate) fn table(head: &[&str], rows: Vec<Vec<String>>, none: &str) -> std::io::Result<()> {
    if rows.is_empty() {
        return line(none);
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head.to_vec());
    if std::io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row);
    }
    for row in table.lines() {
        line(row.trim_end())?;
    }
    Ok(())
}

/// A moment as `2026-11-24 14:05:09Z`.
pub(crate) fn moment(at: cofferdam_base::Millis) -> String {
    let seconds = at.seconds();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}Z", rest / 3600, rest / 60 % 60, rest % 60)
}

/// Days since the epoch → year, month, day of the Gregorian calendar.
const fn civil(days: u64) -> (u64, u64, u64) {
    // Counted in 400-year eras from 1 March of year 0, so that leap days come last.
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = if month_index < 10 { month_index + 3 } else { month_index - 9 };
    let year = year_of_era + era * 400 + if month <= 2 { 1 } else { 0 };
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cofferdam_base::Millis;

    #[test]
    fn moments_are_read_by_people() {
        assert_eq!(moment(Millis(0)), "1970-01-01 00:00:00Z");
        assert_eq!(moment(Millis(1_709_210_096_000)), "2024-02-29 12:34:56Z");
        assert_eq!(moment(Millis(1_795_530_309_000)), "2026-11-24 14:25:09Z");
    }
}
