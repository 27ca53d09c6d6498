//! One rule from its YAML: what each key may say, and with which others.

use crate::{
    Error, Pattern, Rule, RuleId, Standing, Verb,
    condition::{Calls, Condition, Globs, Grpc},
    file::{Many, RawGraphql, RawGrpc, RawInspect, RawMcp, RawRpc, RawRule, Spoken},
    glob::Glob,
    graphql::{Graphql, Kind},
    moment,
    path::Template,
    rule::{Budget, MAX_URLS},
};
use cofferdam_base::{Host, HostName, Protocol};
use serde_saphyr::{Location, Spanned};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::IpAddr,
    num::NonZeroU16,
};

pub(crate) fn parse_rule(raw: Spanned<RawRule>, id: RuleId, version: u32) -> Result<Rule, Error> {
    let place = raw.referenced;
    if let Some((key, place)) = raw.value.newer().filter(|_| version < 2) {
        return Err(at(place, format!("`{key}` needs `version: 2`")));
    }
    let RawRule {
        allow,
        ask,
        deny,
        ports,
        protocol,
        reason,
        silent,
        plain,
        method,
        path,
        query,
        headers,
        mcp,
        jsonrpc,
        graphql,
        grpc,
        content,
        expires,
        budget,
        inspect,
        approvers,
    } = raw.value;
    let (verb, host) = match (allow, ask, deny) {
        (Some(host), None, None) => (Verb::Allow, host),
        (None, Some(host), None) => (Verb::Ask, host),
        (None, None, Some(host)) => (Verb::Deny, host),
        _ => return Err(at(place, "a rule has exactly one of `allow`, `ask` and `deny`")),
    };
    let pattern = parse_pattern(&host, verb)?;
    let spoken = protocol.as_ref().map(|protocol| protocol.value);
    let about = About { method, path, query, headers, mcp, jsonrpc, graphql, grpc, spoken };
    let request = about.parse(place)?;
    let protocol = transport(spoken, plain.as_ref(), verb, request.as_ref())?;
    let ports = match (ports, verb, protocol) {
        (Some(ports), _, _) => Some(parse_ports(&ports)?),
        (None, Verb::Allow, Some(Protocol::Http)) => NonZeroU16::new(80).map(|port| BTreeSet::from([port])),
        (None, Verb::Allow, Some(Protocol::Https)) => NonZeroU16::new(443).map(|port| BTreeSet::from([port])),
        (None, Verb::Allow, _) => {
            return Err(at(place, "an allow with `protocol: tcp` names its `ports`"));
        }
        (None, _, _) => None,
    };
    if let Some(silent) = silent.as_ref().filter(|_| verb != Verb::Deny) {
        return Err(at(silent.referenced, "`silent` belongs to a deny"));
    }
    let reason = reason.map(parse_reason).transpose()?;
    let silent = silent.is_some_and(|silent| silent.value);
    let opaque = inspect.map(|Spanned { value: RawInspect::Never, referenced, .. }| referenced);
    if let Some(place) =
        opaque.filter(|_| verb != Verb::Allow || request.is_some() || protocol != Some(Protocol::Https))
    {
        return Err(at(
            place,
            "`inspect: never` belongs to an allow of https without method, path and the like",
        ));
    }
    if let Some(content) = content.as_ref().filter(|_| verb == Verb::Deny) {
        return Err(at(content.referenced, "`content` is about answers, and a deny lets none come"));
    }
    // Of plain HTTP requests are always seen.
    let seen = request.is_some() || protocol == Some(Protocol::Http);
    Ok(Rule {
        id,
        line: place.line(),
        verb,
        pattern,
        ports,
        protocol,
        reason,
        silent,
        request,
        expires: expires.map(parse_expiry).transpose()?,
        content: content.map(|content| content.value),
        budget: budget.map(|budget| parse_budget(&budget, verb, seen)).transpose()?,
        opaque: opaque.is_some(),
        approvers: approvers.map(|approvers| parse_approvers(&approvers, verb)).transpose()?,
    })
}

impl RawRule {
    /// A key that version 1 does not have.
    fn newer(&self) -> Option<(&'static str, Location)> {
        fn place<T>(key: &'static str, value: Option<&Spanned<T>>) -> Option<(&'static str, Location)> {
            value.map(|value| (key, value.referenced))
        }
        let spoken = self
            .protocol
            .as_ref()
            .filter(|it| !matches!(it.value, Spoken::Http | Spoken::Https | Spoken::Tcp));
        place("plain", self.plain.as_ref())
            .or_else(|| place("method", self.method.as_ref()))
            .or_else(|| place("path", self.path.as_ref()))
            .or_else(|| place("query", self.query.as_ref()))
            .or_else(|| place("headers", self.headers.as_ref()))
            .or_else(|| place("mcp", self.mcp.as_ref()))
            .or_else(|| place("jsonrpc", self.jsonrpc.as_ref()))
            .or_else(|| place("graphql", self.graphql.as_ref()))
            .or_else(|| place("grpc", self.grpc.as_ref()))
            .or_else(|| place("content", self.content.as_ref()))
            .or_else(|| place("expires", self.expires.as_ref()))
            .or_else(|| place("budget", self.budget.as_ref()))
            .or_else(|| place("inspect", self.inspect.as_ref()))
            .or_else(|| place("approvers", self.approvers.as_ref()))
            .or_else(|| place("protocol: ws, mcp, jsonrpc", spoken))
    }
}

/// What a rule says about requests.
struct About {
    method: Option<Spanned<Many>>,
    path: Option<Spanned<String>>,
    query: Option<Spanned<BTreeMap<String, Many>>>,
    headers: Option<Spanned<Many>>,
    mcp: Option<Spanned<RawMcp>>,
    jsonrpc: Option<Spanned<RawRpc>>,
    graphql: Option<Spanned<RawGraphql>>,
    grpc: Option<Spanned<RawGrpc>>,
    spoken: Option<Spoken>,
}

impl About {
    fn parse(self, place: Location) -> Result<Option<Condition>, Error> {
        let Self { method, path, query, headers, mcp, jsonrpc, graphql, grpc, spoken } = self;
        let about = [mcp.is_some(), jsonrpc.is_some(), graphql.is_some(), grpc.is_some()];
        let layered = matches!(spoken, Some(Spoken::Ws | Spoken::Mcp | Spoken::Jsonrpc));
        if about.into_iter().filter(|it| *it).count() + usize::from(layered && (about[2] || about[3])) > 1 {
            let message =
                "a rule is about one of `mcp`, `jsonrpc`, `graphql`, `grpc` and what its `protocol` says";
            return Err(at(place, message));
        }
        let named = method.is_some() || path.is_some() || query.is_some();
        let mut condition = Condition { websocket: spoken == Some(Spoken::Ws), ..Condition::default() };
        condition.calls = match (mcp, jsonrpc, spoken) {
            (Some(mcp), None, None | Some(Spoken::Mcp | Spoken::Http | Spoken::Https)) => {
                let (place, RawMcp { method, tool, arguments }) = (mcp.referenced, mcp.value);
                let calls = Calls {
                    mcp: true,
                    methods: globs(method, place)?,
                    tools: globs(tool, place)?,
                    arguments: patterns(arguments.unwrap_or_default(), place)?,
                };
                if calls.tools.is_empty() && !calls.arguments.is_empty() {
                    return Err(at(place, "`arguments` belong to a `tool`"));
                }
                Some(calls)
            }
            (None, Some(rpc), None | Some(Spoken::Jsonrpc | Spoken::Http | Spoken::Https)) => {
                let methods = globs(rpc.value.method, rpc.referenced)?;
                Some(Calls { methods, ..Calls::default() })
            }
            (None, None, Some(Spoken::Mcp)) => Some(Calls { mcp: true, ..Calls::default() }),
            (None, None, Some(Spoken::Jsonrpc)) => Some(Calls::default()),
            (None, None, _) => None,
            _ => {
                return Err(at(
                    place,
                    "a rule is about one of `mcp`, `jsonrpc` and what its `protocol` says",
                ));
            }
        };
        condition.methods = method.map(parse_methods).transpose()?;
        condition.path = match path {
            None => None,
            Some(path) => Some(Template::parse(&path.value).map_err(|why| at(path.referenced, why))?),
        };
        if let Some(query) = query {
            condition.query = patterns(query.value, query.referenced)?;
        }
        if let Some(headers) = headers {
            condition.headers = parse_headers(headers)?;
        }
        if let Some(graphql) = graphql {
            if condition.path.is_none() {
                return Err(at(graphql.referenced, "`graphql` is about an endpoint: name its `path`"));
            }
            condition.graphql = Some(parse_graphql(graphql)?);
        }
        if let Some(grpc) = grpc {
            if named || spoken == Some(Spoken::Http) {
                let message = "`grpc` names its path itself and is spoken over TLS: leave `method`, `path`, `query` and `protocol: http` out";
                return Err(at(grpc.referenced, message));
            }
            let (place, RawGrpc { service, method }) = (grpc.referenced, grpc.value);
            condition.grpc = Some(Grpc { services: globs(service, place)?, methods: globs(method, place)? });
        }
        let says = condition != Condition::default();
        if says && spoken == Some(Spoken::Tcp) {
            return Err(at(
                place,
                "of `protocol: tcp` no requests are seen: leave method, path and the like out",
            ));
        }
        Ok(says.then_some(condition))
    }
}

/// Over what the rule's requests come; none: over any.
fn transport(
    spoken: Option<Spoken>,
    plain: Option<&Spanned<bool>>,
    verb: Verb,
    request: Option<&Condition>,
) -> Result<Option<Protocol>, Error> {
    let layered = match spoken {
        Some(Spoken::Ws | Spoken::Mcp | Spoken::Jsonrpc) => true,
        Some(Spoken::Http | Spoken::Https | Spoken::Tcp) => false,
        None => request.is_some_and(Condition::needs_body),
    };
    if let Some(plain) = plain.filter(|_| !layered) {
        return Err(at(
            plain.referenced,
            "`plain` belongs to ws, mcp, jsonrpc and graphql: else write `protocol: http`",
        ));
    }
    Ok(match (spoken, plain.map(|plain| plain.value)) {
        (Some(Spoken::Tcp), _) => Some(Protocol::Tcp),
        (Some(Spoken::Http), _) | (_, Some(true)) => Some(Protocol::Http),
        (Some(Spoken::Https), _) | (_, Some(false)) => Some(Protocol::Https),
        (_, None) => (verb == Verb::Allow).then_some(Protocol::Https),
    })
}

fn parse_graphql(raw: Spanned<RawGraphql>) -> Result<Graphql, Error> {
    let (place, RawGraphql { operation, name, fields }) = (raw.referenced, raw.value);
    let kinds =
        operation.map(|Many(all)| all.iter().map(|kind| Kind::parse(kind)).collect::<Option<BTreeSet<_>>>());
    let kinds = match kinds {
        None => BTreeSet::new(),
        Some(Some(kinds)) if !kinds.is_empty() => kinds,
        Some(_) => {
            return Err(at(place, "`operation` is query, mutation or subscription, or a list of them"));
        }
    };
    Ok(Graphql { kinds, names: globs(name, place)?, fields: globs(fields, place)? })
}

fn globs(many: Option<Many>, place: Location) -> Result<Globs, Error> {
    let Some(Many(texts)) = many else { return Ok(Globs::new()) };
    if texts.is_empty() {
        return Err(at(place, "a list has at least one value"));
    }
    let parsed = texts.iter().map(|text| Glob::parse(text).filter(|_| !text.is_empty()));
    parsed.collect::<Option<_>>().ok_or_else(|| {
        at(place, "a pattern is 1 to 512 bytes without control characters; * stands for any run")
    })
}

fn patterns(raw: BTreeMap<String, Many>, place: Location) -> Result<BTreeMap<String, Globs>, Error> {
    raw.into_iter().map(|(name, many)| Ok((name, globs(Some(many), place)?))).collect()
}

fn parse_methods(methods: Spanned<Many>) -> Result<BTreeSet<String>, Error> {
    let Many(all) = methods.value;
    let token = |text: &String| {
        !text.is_empty() && text.len() <= 32 && text.bytes().all(|b| b.is_ascii_uppercase() || b == b'-')
    };
    if all.is_empty() || !all.iter().all(token) {
        return Err(at(methods.referenced, "`method` lists methods in capitals: GET, or [GET, HEAD]"));
    }
    if all.iter().any(|method| method == "CONNECT") {
        return Err(at(
            methods.referenced,
            "CONNECT is no request to a destination: write a rule about the destination",
        ));
    }
    Ok(all.into_iter().collect())
}

fn parse_headers(headers: Spanned<Many>) -> Result<BTreeSet<String>, Error> {
    let Many(all) = headers.value;
    let name = |text: &String| {
        !text.is_empty()
            && text.len() <= 128
            && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b))
    };
    if all.is_empty() || !all.iter().all(name) {
        return Err(at(headers.referenced, "`headers` lists names of headers that must be there"));
    }
    Ok(all.into_iter().map(|name| name.to_ascii_lowercase()).collect())
}

fn parse_expiry(expires: Spanned<String>) -> Result<cofferdam_base::Millis, Error> {
    moment::parse(&expires.value).ok_or_else(|| {
        at(expires.referenced, "`expires` is a moment in UTC: 2026-12-31T18:00:00Z, or 2026-12-31")
    })
}

fn parse_budget(budget: &Spanned<Budget>, verb: Verb, seen: bool) -> Result<Budget, Error> {
    if verb != Verb::Allow {
        return Err(at(budget.referenced, "a `budget` belongs to an allow"));
    }
    let Budget { bytes_per_hour, bytes_per_day, requests_per_minute, urls_per_hour, urls_per_day, per: _ } =
        budget.value;
    let urls = urls_per_hour.into_iter().chain(urls_per_day);
    if urls.clone().any(|urls| urls > MAX_URLS) {
        return Err(at(budget.referenced, "a `budget` tells at most 10000 URLs apart"));
    }
    if urls.clone().next().is_some() && !seen {
        return Err(at(
            budget.referenced,
            "URLs are counted where requests are seen; give the rule a `path`: /** for all",
        ));
    }
    let bytes = bytes_per_hour.into_iter().chain(bytes_per_day);
    let numbers = requests_per_minute.into_iter().chain(urls).map(u64::from);
    let mut all = bytes.chain(numbers).peekable();
    if all.peek().is_none() || all.any(|limit| limit == 0) {
        return Err(at(
            budget.referenced,
            "a `budget` has one limit or more, each above 0; write a deny for none",
        ));
    }
    Ok(budget.value)
}

fn parse_approvers(approvers: &Spanned<Many>, verb: Verb) -> Result<Standing, Error> {
    if verb != Verb::Ask {
        return Err(at(approvers.referenced, "`approvers` belong to an ask"));
    }
    Standing::parse(approvers)
}

fn parse_pattern(host: &Spanned<String>, verb: Verb) -> Result<Pattern, Error> {
    let text = host.value.as_str();
    let name = |text: &str| HostName::try_from(text).map_err(|error| at(host.referenced, error.to_string()));
    if let Some(base) = text.strip_prefix("*.") {
        let base = name(base)?;
        if verb == Verb::Allow && base.labels().count() < 2 {
            return Err(at(host.referenced, "a wildcard that allows keeps two labels: \"*.example.com\""));
        }
        return Ok(Pattern::Wildcard(base));
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        if address.to_canonical() != address {
            return Err(at(host.referenced, format!("write {} for this address", address.to_canonical())));
        }
        return Ok(Pattern::Exact(Host::Address(address)));
    }
    name(text).map(|name| Pattern::Exact(Host::Name(name)))
}

fn parse_ports(ports: &Spanned<Vec<u16>>) -> Result<BTreeSet<NonZeroU16>, Error> {
    let parsed: Option<BTreeSet<NonZeroU16>> = ports.value.iter().copied().map(NonZeroU16::new).collect();
    match parsed {
        Some(parsed) if !parsed.is_empty() => Ok(parsed),
        _ => Err(at(ports.referenced, "`ports` lists one or more ports from 1 to 65535")),
    }
}

fn parse_reason(reason: Spanned<String>) -> Result<String, Error> {
    if reason.value.chars().count() <= 200 && !reason.value.chars().any(char::is_control) {
        Ok(reason.value)
    } else {
        Err(at(reason.referenced, "a reason is one line of at most 200 characters"))
    }
}

pub(crate) fn at(place: Location, message: impl Into<String>) -> Error {
    Error::Document { line: place.line(), column: place.column(), message: message.into() }
}
