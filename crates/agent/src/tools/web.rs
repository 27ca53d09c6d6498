//! `web_fetch` and `web_search`: what the world says, as text.
//!
//! Whether an address may be asked is the warden's to say, at each hop of a redirection. What comes back is a stranger's
//! and marked so.

use super::{About, Bench, Output, later};
use crate::{
    config::{Provider, Search as Configured},
    text::untrusted,
    web::{Error, Web},
};
use bytes::Bytes;
use http::{Request, StatusCode, Uri, header};
use http_body_util::Full;
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    fmt::Write as _,
    sync::{Arc, LazyLock},
    time::Duration,
};
use tokio::sync::Semaphore;
use url::Url;

pub(super) const TOOLS: [About; 2] = [
    About {
        name: "web_fetch",
        group: "web",
        label: "Read a page",
        description: "Fetch a URL and give its readable text.",
        parameters: r#"{"type":"object","properties":{"url":{"type":"string"},"maxChars":{"type":"integer"}},"required":["url"]}"#,
        parallel: true,
        run: |bench, arguments| later(arguments, async |asked| fetch(bench, &asked).await),
    },
    About {
        name: "web_search",
        group: "web",
        label: "Search the web",
        description: "Search the web.",
        parameters: r#"{"type":"object","properties":{"query":{"type":"string"},"count":{"type":"integer"}},"required":["query"]}"#,
        parallel: true,
        run: |bench, arguments| later(arguments, async |asked| search(bench, &asked).await),
    },
];

/// How often one is sent elsewhere.
const HOPS: usize = 5;
/// How much of a page is read, in bytes, and how much of its text is given, in characters.
const PAGE: usize = 2 * 1024 * 1024;
const TEXT: usize = 20_000;
const LONGEST_TEXT: usize = 40_000;
/// How long each hop may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// Pages of so many bytes and elements are laid out, and how long that may take; of others the text is taken.
const LAID_OUT: usize = 512 * 1024;
const ELEMENTS: usize = 20_000;
const LAYING_OUT: Duration = Duration::from_secs(3);
/// How wide lines are, in characters.
const WIDTH: usize = 120;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Fetch {
    url: String,
    #[serde(default)]
    max_chars: Option<usize>,
}

async fn fetch(bench: &Bench<'_>, asked: &Fetch) -> Output {
    match page(bench.gateway.web(), &asked.url).await {
        Ok(page) => page.shown(asked.max_chars.unwrap_or(TEXT).clamp(100, LONGEST_TEXT)).await,
        Err(error) => Output::error(format!("cannot fetch {}: {error}", asked.url)),
    }
}

/// A page that was read.
#[derive(Debug)]
struct Page {
    url: Url,
    status: StatusCode,
    kind: String,
    bytes: Vec<u8>,
    cut: bool,
}

async fn page(web: Web, url: &str) -> Result<Page, String> {
    let mut url = address(url)?;
    for _ in 0..HOPS {
        let request = Request::get(url.as_str())
            .header(header::ACCEPT, "text/markdown, text/html;q=0.9, text/plain;q=0.8, */*;q=0.1")
            .body(Full::<Bytes>::default())
            .map_err(|error| error.to_string())?;
        let reply = web.send(request, PATIENCE).await.map_err(|error| error.to_string())?;
        let status = reply.head.status;
        let to = reply.head.headers.get(header::LOCATION).filter(|_| status.is_redirection());
        if let Some(to) = to {
            let to = to.to_str().ok().and_then(|to| url.join(to).ok()).ok_or("it leads nowhere")?;
            let to = address(to.as_str())?;
            if url.scheme() == "https" && to.scheme() == "http" {
                return Err(format!("it leads from https to {to}"));
            }
            url = to;
            continue;
        }
        let (head, bytes, cut) = reply.begin(PAGE, PATIENCE).await.map_err(|error| error.to_string())?;
        let kind = head.headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        return Ok(Page { url, status, kind: kind.unwrap_or("text/plain").to_ascii_lowercase(), bytes, cut });
    }
    Err(format!("it leads elsewhere {HOPS} times"))
}

/// An address of the web, without what is for the client alone.
fn address(text: &str) -> Result<Url, String> {
    let mut url = Url::parse(text).map_err(|error| error.to_string())?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("{text:?} is no http or https address"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("an address with a password in it is not fetched".to_owned());
    }
    url.set_fragment(None);
    Ok(url)
}

impl Page {
    async fn shown(self, most: usize) -> Output {
        let Self { url, status, kind, bytes, cut } = self;
        let text = match readable(&kind, bytes).await {
            Ok(text) => text,
            Err(error) => return Output::error(format!("cannot read {url}: {error}")),
        };
        let count = text.chars().count();
        let mut given: String = text.chars().take(most).collect();
        if count > most || cut {
            let _ =
                write!(given, "\n[… {most} of {count} characters{} …]", if cut { ", and more" } else { "" });
        }
        let details =
            json!({ "url": url.as_str(), "status": status.as_u16(), "contentType": kind, "length": count });
        let text = untrusted(&format!("{url}, {status}, {kind}"), &given);
        Output { text, is_error: !status.is_success(), details }
    }
}

/// The text of a page.
async fn readable(kind: &str, bytes: Vec<u8>) -> Result<String, String> {
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if matches!(kind, "text/html" | "application/xhtml+xml") {
        let bytes = Arc::new(bytes);
        return Ok(rendered(&bytes).await.unwrap_or_else(|| stripped(&String::from_utf8_lossy(&bytes))));
    }
    let texts = ["json", "xml", "yaml", "javascript", "x-sh", "toml", "urlencoded"];
    if kind.starts_with("text/") || texts.iter().any(|it| kind.contains(it)) {
        return Ok(String::from_utf8_lossy(&bytes).into_owned());
    }
    Err("it is of a kind that is no text".to_owned())
}

/// A page laid out as text; none if that takes too long, or one is laid out already. What a page makes of its elements
/// may cost far more than its length, and the gateway has one thread: this is done on another one, one page at a time.
async fn rendered(bytes: &Arc<Vec<u8>>) -> Option<String> {
    static ONE: LazyLock<Arc<Semaphore>> = LazyLock::new(|| Arc::new(Semaphore::new(1)));
    let place = Arc::clone(&ONE).try_acquire_owned().ok()?;
    if bytes.len() > LAID_OUT || bytes.split(|byte| *byte == b'<').count() > ELEMENTS {
        return None;
    }
    let bytes = Arc::clone(bytes);
    let laid_out = tokio::task::spawn_blocking(move || {
        let _place = place;
        html2text::config::plain().string_from_read(&bytes[..], WIDTH).ok()
    });
    tokio::time::timeout(LAYING_OUT, laid_out).await.ok()?.ok()?
}

/// A page without its elements and what is between those that show nothing; in one pass.
fn stripped(page: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        rest = &rest[at..];
        let hidden = ["script", "style", "template", "noscript"]
            .into_iter()
            .find(|name| rest.get(1..=name.len()).is_some_and(|word| word.eq_ignore_ascii_case(name)));
        let end = if rest.starts_with("<!--") { "-->" } else { ">" };
        let from = rest.find(end).map_or(rest.len(), |at| at + end.len());
        rest = &rest[from..];
        if let Some(name) = hidden {
            let ends = |at: &usize| {
                let end = rest.as_bytes().get(at + 2..at + 2 + name.len());
                end.is_some_and(|end| end.eq_ignore_ascii_case(name.as_bytes()))
            };
            let end = rest.match_indices("</").map(|(at, _)| at).find(ends);
            rest = &rest[end.unwrap_or(rest.len())..];
        }
        if !out.ends_with([' ', '\n']) {
            out.push(' ');
        }
    }
    out.push_str(rest);
    out
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Search {
    query: String,
    #[serde(default)]
    count: Option<usize>,
}

async fn search(bench: &Bench<'_>, asked: &Search) -> Output {
    let Some(configured) = bench.gateway.config().tools.web.search.clone() else {
        return Output::error("no provider of searches is configured (tools.web.search)");
    };
    let count = asked.count.unwrap_or(5).clamp(1, 20);
    match found(bench.gateway.web(), &configured, &asked.query, count).await {
        Ok(found) if found.is_empty() => Output::ok("nothing was found"),
        Ok(found) => {
            let text: String =
                found.iter().fold(String::new(), |text, hit| text + &hit.shown()).trim_end().to_owned();
            Output::ok(untrusted("results of a web search", &text))
        }
        Err(error) => Output::error(format!("the search failed: {error}")),
    }
}

/// One result.
#[derive(Debug, PartialEq, Eq)]
struct Hit {
    title: String,
    url: String,
    said: String,
}

impl Hit {
    fn shown(&self) -> String {
        let Self { title, url, said } = self;
        format!("{title}\n{url}\n{said}\n\n")
    }

    fn read(row: &Value, said: &str) -> Option<Self> {
        let text = |key: &str| {
            let text = row[key].as_str().unwrap_or_default();
            text.chars().filter(|c| !c.is_control()).take(500).collect::<String>()
        };
        Some(Self { title: text("title"), url: row["url"].as_str()?.to_owned(), said: text(said) })
    }
}

/// Where a search is asked.
fn wanted(to: &Configured, query: &str, count: usize) -> Result<Uri, String> {
    let base = to.base_url.as_deref().unwrap_or("https://api.search.brave.com").trim_end_matches('/');
    let mut pairs = url::form_urlencoded::Serializer::new(String::new());
    pairs.append_pair("q", query);
    let path = match to.provider {
        Provider::Brave => {
            pairs.append_pair("count", &count.to_string());
            "/res/v1/web/search"
        }
        Provider::Searxng => {
            pairs.append_pair("format", "json");
            "/search"
        }
    };
    format!("{base}{path}?{}", pairs.finish()).parse().map_err(|_| "its address is none".to_owned())
}

async fn found(web: Web, to: &Configured, query: &str, count: usize) -> Result<Vec<Hit>, String> {
    let uri = wanted(to, query, count)?;
    let mut request = Request::get(uri).header(header::ACCEPT, "application/json");
    if let (Provider::Brave, Some(key)) = (to.provider, &to.api_key) {
        request = request.header("x-subscription-token", key.resolved()?);
    }
    let request = request.body(Full::<Bytes>::default()).map_err(|error| error.to_string())?;
    let text = |error: Error| error.to_string();
    let reply = web.send(request, PATIENCE).await.map_err(text)?;
    let (head, bytes) = reply.whole(PAGE, PATIENCE).await.map_err(text)?;
    if head.status != StatusCode::OK {
        let said: String = String::from_utf8_lossy(&bytes).chars().take(500).collect();
        return Err(format!("{}: {}", head.status, untrusted("the provider's words", &said)));
    }
    let answer: Value = serde_json::from_slice(&bytes).map_err(|_| "it answered no JSON")?;
    let (rows, said) = match to.provider {
        Provider::Brave => (&answer["web"]["results"], "description"),
        Provider::Searxng => (&answer["results"], "content"),
    };
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    Ok(rows.iter().filter_map(|row| Hit::read(row, said)).take(count).collect())
}
