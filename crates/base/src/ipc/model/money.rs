//! Tokens, what they cost, and how much of both a route may use.
//!
//! Money is in millionths of a US dollar, as whole numbers: a sum of many small ones is exact. What a request costs is
//! rounded up, so that no number of small ones is free.

use super::Alias;
use crate::{HostName, Millis};
use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};

/// Tokens of one request, or of many.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tokens {
    /// In prompts.
    pub prompt: u64,
    /// In answers.
    pub completion: u64,
}

impl Tokens {
    /// All of them.
    #[must_use]
    pub const fn total(self) -> u64 {
        self.prompt.saturating_add(self.completion)
    }
}

/// What a million tokens cost, in millionths of a US dollar. Written `PROMPT:COMPLETION` in dollars: `2.50:10`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Price {
    /// In prompts.
    pub prompt: u64,
    /// In answers.
    pub completion: u64,
}

/// The text is no price.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no price: write what a million tokens cost in US dollars, prompt:answer, as in 2.50:10")]
pub struct PriceError(String);

impl Price {
    /// What these tokens cost, in millionths of a US dollar.
    #[must_use]
    pub fn of(self, tokens: Tokens) -> u64 {
        let part = |tokens: u64, price: u64| u128::from(tokens) * u128::from(price);
        let all = part(tokens.prompt, self.prompt) + part(tokens.completion, self.completion);
        u64::try_from(all.div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }
}

impl FromStr for Price {
    type Err = PriceError;

    fn from_str(text: &str) -> Result<Self, PriceError> {
        let read = |part| micros(part).filter(|micros| *micros <= MOST_PRICE);
        let parsed = text.split_once(':').and_then(|(prompt, completion)| {
            Some(Self { prompt: read(prompt)?, completion: read(completion)? })
        });
        parsed.ok_or_else(|| PriceError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", Usd(self.prompt), Usd(self.completion))
    }
}

/// `[[price]]` of `cofferdam.toml`: what a model costs at a host, by the operator's word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OwnPrice {
    /// The host of the base URL.
    pub host: HostName,
    /// The model's name there.
    pub model: String,
    /// US dollars a million tokens, `"0.50:1.50"`.
    #[serde(with = "text")]
    pub usd: Price,
}

/// A price as people write it.
mod text {
    use super::Price;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(price: &Price, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(price)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Price, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// Nothing costs more than ten thousand dollars a million tokens.
const MOST_PRICE: u64 = 10_000_000_000;

/// What is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Unit {
    /// Tokens, of prompts and answers together.
    Tokens,
    /// Millionths of a US dollar.
    Usd,
}

/// For how long a limit counts: from one full minute, day or month to the next, in UTC.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Span {
    /// A minute.
    Minute,
    /// A day.
    Day,
    /// A month.
    Month,
}

impl Span {
    /// Every one.
    pub const ALL: [Self; 3] = [Self::Minute, Self::Day, Self::Month];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Minute => "minute",
            Self::Day => "day",
            Self::Month => "month",
        }
    }

    /// When the one began that this moment is in.
    #[must_use]
    pub fn begin(self, now: Millis) -> Millis {
        let day = now.0 / DAY;
        Millis(match self {
            Self::Minute => now.0 - now.0 % MINUTE,
            Self::Day => day * DAY,
            Self::Month => (day + 1).saturating_sub(day_of_month(day)) * DAY,
        })
    }

    /// When the next one begins.
    #[must_use]
    pub fn end(self, now: Millis) -> Millis {
        let begin = self.begin(now).0;
        match self {
            Self::Minute => Millis(begin.saturating_add(MINUTE)),
            Self::Day => Millis(begin.saturating_add(DAY)),
            // 31 days after its first day every month is over, and the next one is not.
            Self::Month => self.begin(Millis(begin.saturating_add(31 * DAY))),
        }
    }
}

/// Milliseconds of a minute and of a day.
const MINUTE: u64 = 60_000;
const DAY: u64 = 86_400_000;

/// Which day of its month a day since 1970 is, from 1 (Howard Hinnant, `civil_from_days`).
const fn day_of_month(day: u64) -> u64 {
    let shifted = day + 719_468;
    let of_era = shifted % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5 + 1
}

/// How much a route may use. Written `tokens/day=200000` or `usd/month=12.50`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Limit {
    /// Of what.
    pub unit: Unit,
    /// In what time.
    pub span: Span,
    /// So much: tokens, or millionths of a US dollar.
    pub most: u64,
    /// Past it somebody is asked; else it is refused.
    #[serde(default)]
    pub soft: bool,
}

/// The text is no limit.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no limit: write tokens/day=200000 or usd/month=12.50; spans are minute, day and month")]
pub struct LimitError(String);

impl FromStr for Limit {
    type Err = LimitError;

    /// A hard one.
    fn from_str(text: &str) -> Result<Self, LimitError> {
        let parsed = text.split_once('=').and_then(|(what, most)| {
            let (unit, span) = what.split_once('/')?;
            let span = Span::ALL.into_iter().find(|known| known.as_str() == span)?;
            let digits = !most.is_empty() && most.bytes().all(|b| b.is_ascii_digit());
            let (unit, most) = match unit {
                "tokens" => (Unit::Tokens, most.parse().ok().filter(|_| digits)?),
                "usd" => (Unit::Usd, micros(most)?),
                _ => return None,
            };
            Some(Self { unit, span, most, soft: false })
        });
        parsed.ok_or_else(|| LimitError(text.chars().take(64).collect()))
    }
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let span = self.span.as_str();
        match self.unit {
            Unit::Tokens => write!(f, "tokens/{span}={}", self.most),
            Unit::Usd => write!(f, "usd/{span}={}", Usd(self.most)),
        }
    }
}

/// What a route used in one span of time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spent {
    /// By which route.
    pub route: Alias,
    /// In what span.
    pub span: Span,
    /// When that began.
    pub begin: Millis,
    /// Tokens.
    pub tokens: u64,
    /// Millionths of a US dollar.
    pub micros: u64,
}

/// What all routes of a tenant together used in one span of time, those that are removed by now included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SpentByAll {
    /// In what span.
    pub span: Span,
    /// When that began.
    pub begin: Millis,
    /// Tokens.
    pub tokens: u64,
    /// Millionths of a US dollar.
    pub micros: u64,
}

/// Dollars, written with two decimals, or more where it has more.
#[derive(Clone, Copy, Debug)]
pub struct Usd(pub u64);

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let decimals = format!("{:06}", self.0 % 1_000_000);
        let short = decimals.trim_end_matches('0');
        write!(f, "{}.{short:0<2}", self.0 / 1_000_000)
    }
}

/// Dollars with up to six decimals, as millionths.
fn micros(text: &str) -> Option<u64> {
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let digits =
        |text: &str, most| (1..=most).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit());
    if !digits(whole, 9) || !digits(part, 6) {
        return None;
    }
    format!("{whole}{part:0<6}").parse().ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn prices_and_limits_are_read_as_they_are_written() {
        for text in ["2.50:10.00", "0.075:0.30", "0.00:0.00", "15.00:75.00"] {
            assert_eq!(text.parse::<Price>().unwrap().to_string(), text);
        }
        assert_eq!("2.5:10".parse::<Price>().unwrap(), Price { prompt: 2_500_000, completion: 10_000_000 });
        for bad in ["", "1", "1:", ":1", "-1:1", "1:1:1", "1.0000001:1", "10001:1", "1e3:1", "1,5:2", "+1:1"]
        {
            assert!(bad.parse::<Price>().is_err(), "{bad}");
        }
        for text in ["tokens/minute=1", "tokens/day=200000", "usd/month=12.50", "usd/day=0.000001"] {
            assert_eq!(text.parse::<Limit>().unwrap().to_string(), text);
        }
        for bad in [
            "",
            "tokens=1",
            "tokens/day",
            "tokens/day=",
            "tokens/day=1.5",
            "tokens/year=1",
            "eur/day=1",
            "tokens/day=+1",
            "usd/day=-1",
            "tokens/day=99999999999999999999",
        ] {
            assert!(bad.parse::<Limit>().is_err(), "{bad}");
        }
    }

    #[test]
    fn no_request_is_free_where_tokens_have_a_price() {
        let price: Price = "0.05:0.40".parse().unwrap();
        let cost = |prompt, completion| price.of(Tokens { prompt, completion });
        assert_eq!((cost(0, 0), cost(1, 0), cost(1_000_000, 500_000)), (0, 1, 250_000));
        assert_eq!(
            Price { prompt: u64::MAX, completion: 1 }.of(Tokens { prompt: u64::MAX, completion: 1 }),
            u64::MAX
        );
    }

    #[test]
    fn spans_begin_and_end_by_the_calendar_in_utc() {
        let day = |text: &str| {
            // Days since 1970-01-01, counted one by one.
            let mut parts = text.split('-').map(|part| part.parse::<u64>().unwrap());
            let (year, month, day) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            let leap =
                |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
            let lengths =
                |year| [31, if leap(year) { 29 } else { 28 }, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
            let years: u64 = (1970..year).map(|year| lengths(year).iter().sum::<u64>()).sum();
            (years + lengths(year).iter().take(usize::try_from(month).unwrap() - 1).sum::<u64>() + day - 1)
                * DAY
        };
        for (at, begin, end) in [
            ("1970-01-01", "1970-01-01", "1970-02-01"),
            ("2024-02-29", "2024-02-01", "2024-03-01"),
            ("2025-02-28", "2025-02-01", "2025-03-01"),
            ("2026-11-26", "2026-11-01", "2026-12-01"),
            ("2026-12-31", "2026-12-01", "2027-01-01"),
            ("2026-01-01", "2026-01-01", "2026-02-01"),
            ("2100-02-28", "2100-02-01", "2100-03-01"),
        ] {
            for within in [0, DAY - 1] {
                let now = Millis(day(at) + within);
                assert_eq!(Span::Month.begin(now).0, day(begin), "{at}");
                assert_eq!(Span::Month.end(now).0, day(end), "{at}");
                assert_eq!((Span::Day.begin(now).0, Span::Day.end(now).0), (day(at), day(at) + DAY));
            }
        }
        assert_eq!(Span::Minute.begin(Millis(119_999)), Millis(60_000));
        assert_eq!(Span::Minute.end(Millis(60_000)), Millis(120_000));
        for days in 0..80_000_u64 {
            let now = Millis(days * DAY + 5);
            assert!(Span::Month.begin(now) <= now && now < Span::Month.end(now), "{days}");
            assert_eq!(Span::Month.begin(Span::Month.end(now)), Span::Month.end(now), "{days}");
        }
    }
}
