//! What models cost: a dated table of providers' list prices.
//!
//! It is looked up by the host of the base URL, not by the wire: many speak `OpenAI`'s wire, at prices of their own.
//! What it does not know has no price, and a limit on money then refuses: the operator writes the price into the route.

use cofferdam_base::ipc::model::{ModelRoute, OwnPrice, Price, Upstream};

/// Each row with its date; sorted.
const TABLE: &str = include_str!("price/prices.csv");

/// A row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// The host of the provider.
    pub host: &'static str,
    /// The model's name there.
    pub model: &'static str,
    /// What it costs.
    pub price: Price,
    /// As of when, `2026-11-26`.
    pub date: &'static str,
}

/// Every row; one that cannot be read is left out, which a test forbids.
pub fn table() -> impl Iterator<Item = Listed> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(row)
}

fn row(line: &'static str) -> Option<Listed> {
    let mut parts = line.split(',');
    let (host, model) = (parts.next()?, parts.next()?);
    let price = Price { prompt: parts.next()?.parse().ok()?, completion: parts.next()?.parse().ok()? };
    Some(Listed { host, model, price, date: parts.next()? })
}

/// What a route's tokens cost: by its own word, else the operator's, else the table's; none if nobody knows.
pub fn of(route: &ModelRoute, own: &[OwnPrice]) -> Option<Price> {
    match (&route.price, &route.upstream) {
        (Some(price), _) => Some(*price),
        (None, Upstream::Builtin) => Some(Price { prompt: 0, completion: 0 }),
        (None, Upstream::Url(url)) => {
            let host = host(url)?;
            let own = own.iter().find(|row| row.host.as_str() == host && row.model == route.model);
            let listed = || table().find(|row| row.host == host && row.model == route.model);
            own.map(|row| row.usd).or_else(|| listed().map(|row| row.price))
        }
    }
}

/// The host of a base URL, in lower case.
fn host(url: &str) -> Option<String> {
    let authority = url.split_once("://")?.1.split('/').next()?;
    let host = authority.strip_suffix(":443").unwrap_or(authority);
    (!host.contains(['@', ':'])).then(|| host.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn each_row_is_read_sorted_and_dated() {
        let lines: Vec<_> = TABLE.lines().filter(|line| !line.starts_with('#')).collect();
        assert!(lines.len() > 50 && table().count() == lines.len());
        assert!(lines.is_sorted() && table().all(|row| row.price.prompt > 0));
        for row in table() {
            let known = ["api.anthropic.com", "api.openai.com", "generativelanguage.googleapis.com"];
            assert!(known.contains(&row.host) && !row.model.is_empty(), "{row:?}");
            let parts: Vec<_> = row.date.split('-').map(str::len).collect();
            assert!(parts == [4, 2, 2] && row.date.starts_with("20"), "{row:?}");
            assert!(row.price.completion >= row.price.prompt || row.model.contains("embedding"), "{row:?}");
        }
    }

    #[test]
    fn a_price_is_that_of_the_host_and_the_routes_own_goes_before() {
        let route = |url: &str, model: &str| {
            ModelRoute::new("fast".parse().unwrap(), Upstream::Url(url.to_owned()), model)
        };
        let listed = of(&route("https://API.openai.com:443/v1", "gpt-4o-mini"), &[]).unwrap();
        assert_eq!(listed.to_string(), "0.15:0.60");
        for (url, model) in [
            ("https://api.openai.com/v1", "no-such-model"),
            ("https://api.openai.com.evil.example/v1", "gpt-4o-mini"),
            ("https://proxy.example/api.openai.com", "gpt-4o-mini"),
            ("https://x@api.openai.com/v1", "gpt-4o-mini"),
            ("https://api.anthropic.com", "gpt-4o-mini"),
        ] {
            assert_eq!(of(&route(url, model), &[]), None, "{url}");
        }
        let own = ModelRoute {
            price: Some("1:2".parse().unwrap()),
            ..route("https://api.openai.com/v1", "gpt-4o-mini")
        };
        let word = |model: &str| OwnPrice {
            host: "api.openai.com".try_into().unwrap(),
            model: model.to_owned(),
            usd: "3:4".parse().unwrap(),
        };
        let words = [word("gpt-4o-mini"), word("mine")];
        assert_eq!(of(&own, &words).unwrap().to_string(), "1.00:2.00");
        for model in ["gpt-4o-mini", "mine"] {
            let at = |url: &str| of(&route(url, model), &words).map(|price| price.to_string());
            assert_eq!(at("https://api.openai.com/v1").as_deref(), Some("3.00:4.00"));
            assert_eq!(at("https://other.example/v1"), None);
        }
        let builtin = ModelRoute::new("fast".parse().unwrap(), Upstream::Builtin, "m");
        assert_eq!(of(&builtin, &[]).unwrap().to_string(), "0.00:0.00");
    }
}
