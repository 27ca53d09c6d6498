//! Credentials that never enter a cell: a placeholder becomes its secret where that is bound, and only there.
//!
//! It owns the search, the exchange and the covering, as functions over a parsed head and over a body that
//! streams; whoever forwards a request calls [`Credentials::outgoing`] after policy has allowed it, and
//! [`Credentials::incoming`] with what comes back. It opens no envelope. The threats: a placeholder that is
//! exchanged for somebody else's server, path or account; a secret that its server sends back into the cell.
//!
//! Not looked through: what a request's body has compressed or encoded (a placeholder is no secret), what is said
//! after a switch to WebSocket (for which nothing is exchanged), and compressed answers of hosts to which no secret is
//! bound, which are searched for nothing at all: what no server there can know it need not send back, and what is
//! starred in guesses of its own would tell it. Secrets that a cell came to know all the same are [`crate::loss`]'s.

mod aws;
mod body;
mod filled;
mod find;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzz;
mod messages;
pub mod oauth;
mod redact;

pub use aws::Signing;
pub(crate) use body::Newer;
pub use body::{Covered, Searched, Spotted};
pub use filled::LONGEST_BODY;
pub use find::Finder;
pub use redact::{Patterns, Redactor};

use crate::check::{Check, keeps};
use cofferdam_base::{
    Destination, Protocol, Secret, SecretName,
    binding::{Binding, Spot, decoded, parameters},
    kind::{AwsValue, Kind},
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header, request::Parts, uri::PathAndQuery};
use std::{fmt, sync::Arc};

/// No shorter value can be bound: covering it would cover what is not it.
pub const SHORTEST: usize = 8;
/// Nor a longer one.
pub const LONGEST: usize = 4096;

/// How messages of gRPC are packed, and may be.
pub(crate) const GRPC_ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");
const GRPC_ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");

/// One secret that is bound.
pub struct Credential {
    /// Its name.
    pub name: SecretName,
    /// What stands for it in the cell.
    pub placeholder: String,
    /// Where it may go.
    pub binding: Binding,
    /// What is sent: visible ASCII; of a kind that makes access tokens the one in force, or nothing; AWS keys as they
    /// are kept.
    pub value: Secret<Vec<u8>>,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential").field("name", &self.name).finish_non_exhaustive()
    }
}

/// All of one tenant's, each with what it looks like.
#[derive(Debug, Default)]
pub struct Credentials {
    all: Vec<Credential>,
    patterns: Vec<Arc<Patterns>>,
}

/// A placeholder where its secret is not bound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blocked {
    /// Whose; none if no secret has this placeholder, or no more.
    pub secret: Option<SecretName>,
    /// Where it was, for a person.
    pub place: &'static str,
}

/// What was done to a request.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// The secrets that it bears.
    pub used: Vec<SecretName>,
    /// It goes to a host to which a secret is bound: its answer must be readable.
    pub bound: bool,
    /// The signature that it is to bear, once nothing else of it changes.
    pub sign: Option<Signing>,
}

impl Credential {
    /// Does its server see what could come back? Of AWS keys it sees signatures, and the token of keys that end.
    fn comes_back(&self) -> bool {
        let Some(Kind::Aws(_)) = &self.binding.kind else { return true };
        AwsValue::read(self.value.expose()).is_none_or(|keys| keys.session_token.is_some())
    }
}

/// What S3 copies from, another object than the one of the path.
const COPY_SOURCE: &str = "x-amz-copy-source";

impl Credentials {
    /// Puts them together.
    #[must_use]
    pub fn new(all: Vec<Credential>) -> Self {
        Self::made_of(all.into_iter().map(|credential| (credential, Vec::new())).collect())
    }

    /// Puts them together, each with what its access tokens and signatures are made of, which is covered like it.
    #[must_use]
    pub fn made_of(all: Vec<(Credential, Vec<Secret<Vec<u8>>>)>) -> Self {
        let looks = |(credential, parts): &(Credential, Vec<Secret<Vec<u8>>>)| {
            let mut patterns = Patterns::default();
            // Keys of AWS are parts, and what holds them is sent nowhere.
            if !matches!(credential.binding.kind, Some(Kind::Aws(_))) {
                patterns.add(credential.value.expose());
            }
            for part in parts {
                patterns.add(part.expose());
            }
            Arc::new(patterns)
        };
        let patterns = all.iter().map(looks).collect();
        Self { all: all.into_iter().map(|(credential, _)| credential).collect(), patterns }
    }

    /// The credentials whose access token this request is to bear.
    fn tokens(&self, head: &Parts, destination: &Destination) -> Vec<SecretName> {
        let mints = |it: &Credential| {
            matches!(it.binding.kind, Some(Kind::Oauth(_))) && it.binding.to.is_at(destination)
        };
        if !self.all.iter().any(mints) {
            return Vec::new();
        }
        let mut probe = Request::new(());
        *probe.uri_mut() = head.uri.clone();
        *probe.headers_mut() = head.headers.clone();
        let used = self.exchange(&mut probe, destination, false, true).map(|outgoing| outgoing.used);
        let minted = |name: &SecretName| self.all.iter().any(|it| it.name == *name && mints(it));
        used.unwrap_or_default().into_iter().filter(minted).collect()
    }

    /// What is sent for the credential of this name.
    fn value(&self, name: &SecretName) -> Option<zeroize::Zeroizing<Vec<u8>>> {
        let credential = self.all.iter().find(|credential| credential.name == *name)?;
        Some(zeroize::Zeroizing::new(credential.value.expose().clone()))
    }

    /// What is covered on the way back from this destination: the secrets that are bound there, and no others.
    #[must_use]
    pub fn patterns(&self, destination: &Destination) -> Arc<Patterns> {
        let both = self.all.iter().zip(&self.patterns);
        let mut bound = both
            .filter(|(it, _)| it.binding.to.is_at(destination) || !keeps(Check::SearchedWhereBound))
            .map(|(_, patterns)| patterns);
        let mut joined = bound.next().cloned().unwrap_or_default();
        bound.for_each(|other| Arc::make_mut(&mut joined).join(other));
        joined
    }

    /// Is a secret bound to a path of this destination, inside TLS?
    pub fn is_bound(&self, destination: &Destination) -> bool {
        destination.protocol == Protocol::Https && self.all.iter().any(|it| it.binding.to.is_at(destination))
    }

    /// Exchanges what may be exchanged in the head of a request that policy has let through to this destination; an
    /// error if it has a placeholder anywhere else.
    pub fn outgoing<B>(
        &self,
        request: &mut Request<B>,
        destination: &Destination,
        websocket: bool,
    ) -> Result<Outgoing, Blocked> {
        self.exchange(request, destination, websocket, false)
    }

    /// With `probing` an access token that is not there yet is none that is missing.
    fn exchange<B>(
        &self,
        request: &mut Request<B>,
        destination: &Destination,
        websocket: bool,
        probing: bool,
    ) -> Result<Outgoing, Blocked> {
        let mut used = Vec::new();
        let uri = request.uri().clone();
        let (path, query) = (uri.path(), uri.query());
        if let Some(found) = request.uri().authority().and_then(|it| find::in_uri(it.as_str())) {
            self.elsewhere(&found, "its host")?;
        }
        let there = |credential: &Credential| probing || !credential.value.expose().is_empty();
        let admitted = |credential: &Credential| {
            let admits = credential.binding.admits(destination, path, query);
            (admits || !keeps(Check::SecretBound)) && !websocket && there(credential)
        };
        if let Some(found) = find::in_uri(path) {
            match self.in_path(path, &found).filter(|(credential, _)| admitted(credential)) {
                Some((credential, new)) => {
                    let secret = Some(credential.name.clone());
                    let blocked = Blocked { secret, place: "a path that cannot be written" };
                    *request.uri_mut() = with(&uri, &new, query).ok_or(blocked)?;
                    used.push(credential.name.clone());
                }
                None => self.elsewhere(&found, "its path")?,
            }
        }
        let mut sign = None;
        if let Some(query) = query {
            let new = match self.signed_query(query, &admitted, &mut sign)? {
                Some(rest) => rest,
                None => query.to_owned(),
            };
            let new = self.query(&new, admitted, &mut used)?;
            if new != query {
                let blocked =
                    Blocked { secret: used.last().cloned(), place: "a query that cannot be written" };
                let path = zeroize::Zeroizing::new(request.uri().path().to_owned());
                *request.uri_mut() = with(request.uri(), &path, Some(&new)).ok_or(blocked)?;
            }
        }
        let mut exchanged = Vec::new();
        for (name, value) in request.headers() {
            if let Some(found) = find::placeholder(name.as_str().as_bytes()) {
                self.elsewhere(found, "the name of a header")?;
            }
            let Some(found) = find::placeholder(value.as_bytes()) else { continue };
            let credential = self.of(found).filter(|credential| {
                if matches!(credential.binding.kind, Some(Kind::Aws(_))) {
                    return false;
                }
                let alone = request.headers().get_all(name).iter().count() == 1;
                let as_bound = credential.binding.format.around(credential.placeholder.as_bytes());
                let spot =
                    matches!(&credential.binding.spot, Spot::Header(wanted) if wanted == name.as_str());
                spot && alone && value.as_bytes() == as_bound && admitted(credential)
            });
            let Some(credential) = credential else {
                let alone = request.headers().get_all(name).iter().count() == 1;
                let text = value.to_str().ok().filter(|_| alone && *name == header::AUTHORIZATION);
                if let Some(text) = text
                    && sign.is_none()
                    && let Some(signing) = self.signing(text, found, &admitted, "its signature")?
                {
                    sign = Some(signing);
                    continue;
                }
                self.elsewhere(found, "a header")?;
                continue;
            };
            let text = zeroize::Zeroizing::new(credential.binding.format.around(credential.value.expose()));
            let blocked = || Blocked {
                secret: Some(credential.name.clone()),
                place: "a header that cannot be written",
            };
            let mut value = HeaderValue::from_bytes(&text).map_err(|_| blocked())?;
            value.set_sensitive(true);
            exchanged.push((name.clone(), value));
            used.push(credential.name.clone());
        }
        for (name, value) in exchanged {
            request.headers_mut().insert(name, value);
        }
        if let Some(signing) = &sign {
            let whole = |it: &Credential| it.name == *signing.secret() && it.binding.to.is_whole();
            if request.headers().contains_key(COPY_SOURCE) && !self.all.iter().any(whole) {
                // Signed, it would have the server read what the path of the binding keeps away.
                let secret = Some(signing.secret().clone());
                return Err(Blocked { secret, place: "x-amz-copy-source, and its keys are bound to a path" });
            }
            used.push(signing.secret().clone());
            // What signs it is written last, when all else stands.
            request.headers_mut().remove(header::AUTHORIZATION);
        }
        let bound = self.all.iter().any(|it| it.binding.to.is_at(destination) && it.comes_back());
        if bound && keeps(Check::AnswerReadable) {
            // What comes back must be read here, whole and as it is.
            let headers = request.headers_mut();
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            headers.remove(header::RANGE);
            headers.remove(header::IF_RANGE);
            if headers.contains_key(&GRPC_ACCEPT_ENCODING) {
                headers.insert(GRPC_ACCEPT_ENCODING, HeaderValue::from_static("identity"));
            }
        }
        Ok(Outgoing { used, bound, sign })
    }

    /// The signature that a cell's own one is to become, if that is by a placeholder; an error if it is for something
    /// else than its keys are bound to.
    fn signing(
        &self,
        text: &str,
        found: &str,
        admitted: &impl Fn(&Credential) -> bool,
        place: &'static str,
    ) -> Result<Option<Signing>, Blocked> {
        let Some(credential) = self.of(found) else { return Ok(None) };
        let Some(Kind::Aws(aws)) = &credential.binding.kind else { return Ok(None) };
        let Some(claimed) = aws::claimed(text, found).filter(|_| admitted(credential)) else {
            return Ok(None);
        };
        let value = credential.value.expose();
        let signing = Signing::new(&credential.name, value, aws, &claimed);
        signing.map(Some).ok_or_else(|| Blocked { secret: Some(credential.name.clone()), place })
    }

    /// A query that signs its request by a placeholder, without what signs it.
    fn signed_query(
        &self,
        query: &str,
        admitted: &impl Fn(&Credential) -> bool,
        sign: &mut Option<Signing>,
    ) -> Result<Option<String>, Blocked> {
        let mut claims = parameters(query).filter(|(name, _)| name.eq_ignore_ascii_case("X-Amz-Credential"));
        let (Some((_, value)), None) = (claims.next(), claims.next()) else { return Ok(None) };
        let Some(value) = decoded(value) else { return Ok(None) };
        let Some(found) = find::placeholder(value.as_bytes()) else { return Ok(None) };
        *sign = self.signing(&value, found, admitted, "the scope of its signature")?;
        Ok(sign.is_some().then(|| aws::unsigned(query)))
    }

    /// The secret that is bound to the path and whose placeholder is one segment of it as it is bound, and the path with
    /// it; none if a placeholder stands in another segment, too.
    fn in_path(&self, path: &str, found: &str) -> Option<(&Credential, zeroize::Zeroizing<String>)> {
        let credential = self.of(found).filter(|it| it.binding.spot == Spot::Path)?;
        let format = &credential.binding.format;
        let as_bound = format.around(credential.placeholder.as_bytes());
        let (mut there, mut elsewhere) = (0, 0);
        let segments = path.split('/').map(|segment| {
            if segment.as_bytes() == as_bound {
                there += 1;
                return segment_of(&zeroize::Zeroizing::new(format.around(credential.value.expose())));
            }
            elsewhere += usize::from(find::in_uri(segment).is_some());
            segment.to_owned()
        });
        let new = zeroize::Zeroizing::new(segments.collect::<Vec<_>>().join("/"));
        (there == 1 && elsewhere == 0).then_some((credential, new))
    }

    /// The query with its bound parameters exchanged.
    fn query(
        &self,
        query: &str,
        admitted: impl Fn(&Credential) -> bool,
        used: &mut Vec<SecretName>,
    ) -> Result<String, Blocked> {
        let mut written = Vec::new();
        for part in query.split('&') {
            let Some(found) = find::in_uri(part) else {
                written.push(part.to_owned());
                continue;
            };
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let credential = self.of(&found).filter(|credential| {
                let Spot::Query(wanted) = &credential.binding.spot else { return false };
                let same = |(name, _): &(&str, &str)| decoded(name).as_deref() == Some(wanted);
                let as_bound = credential.binding.format.around(credential.placeholder.as_bytes());
                name == wanted
                    && parameters(query).filter(same).count() == 1
                    && decoded(value).is_some_and(|value| value.as_bytes() == as_bound)
                    && admitted(credential)
            });
            if let Some(credential) = credential {
                let text =
                    zeroize::Zeroizing::new(credential.binding.format.around(credential.value.expose()));
                written.push(format!("{name}={}", escaped(&text)));
                used.push(credential.name.clone());
            } else {
                self.elsewhere(&found, "its query")?;
                written.push(part.to_owned());
            }
        }
        Ok(written.join("&"))
    }

    /// What is said of a placeholder that was found in a body.
    pub fn in_body(&self, found: &str) -> Blocked {
        Blocked { secret: self.of(found).map(|credential| credential.name.clone()), place: "its body" }
    }

    /// Covers these in the headers of an answer. False if its body cannot be read though it must be.
    #[must_use]
    pub fn incoming(patterns: &Patterns, headers: &mut HeaderMap, bound: bool) -> bool {
        if bound && keeps(Check::AnswerReadable) {
            let plain = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
            let readable = |name| headers.get_all(name).iter().all(plain);
            if !readable(header::CONTENT_ENCODING) || !readable(GRPC_ENCODING) {
                return false;
            }
        }
        if keeps(Check::SecretCovered) {
            cover(patterns, headers);
        }
        true
    }

    fn of(&self, placeholder: &str) -> Option<&Credential> {
        self.all.iter().find(|credential| credential.placeholder == placeholder)
    }

    fn elsewhere(&self, found: &str, place: &'static str) -> Result<(), Blocked> {
        if !keeps(Check::PlaceholderStays) {
            return Ok(());
        }
        Err(Blocked { secret: self.of(found).map(|credential| credential.name.clone()), place })
    }
}

/// Covers what is in values, and drops what is in names.
fn cover(patterns: &Patterns, headers: &mut HeaderMap) {
    if patterns.is_empty() {
        return;
    }
    let named: Vec<HeaderName> =
        headers.keys().filter(|name| patterns.name(name.as_str())).cloned().collect();
    for name in named {
        headers.remove(name);
    }
    for value in headers.values_mut() {
        if let Some(covered) = patterns.cover(value.as_bytes()) {
            // As long as it was, and stars are what a header may hold.
            *value = HeaderValue::from_bytes(&covered).unwrap_or_else(|_| HeaderValue::from_static("*"));
        }
    }
}

fn with(uri: &Uri, path: &str, query: Option<&str>) -> Option<Uri> {
    let (mark, query) = query.filter(|it| !it.is_empty()).map_or(("", ""), |query| ("?", query));
    let both = PathAndQuery::try_from(format!("{path}{mark}{query}")).ok()?;
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(both);
    Uri::from_parts(parts).ok()
}

/// A segment of a path: a colon means nothing there, and APIs read it as it is.
fn segment_of(bytes: &[u8]) -> String {
    escaped(bytes).replace("%3A", ":")
}

/// Percent-encoded, but for what no server reads differently.
fn escaped(bytes: &[u8]) -> String {
    let plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~".contains(byte);
    bytes.iter().map(|b| if plain(b) { char::from(*b).to_string() } else { format!("%{b:02X}") }).collect()
}
