//! The warden's two wires: to the launcher for listeners, to control for everything else.

use super::{
    asked::RequestShown,
    model::{Alias, ModelRoutes, Spent, SpentByAll, Tested},
    proxy::UpstreamProxy,
    seen::Seen,
};
use crate::{Certificate, Destination, Millis, SecretName, TenantId};
use serde::{Deserialize, Serialize};
use std::{net::SocketAddr, sync::Arc};

/// Launcher → warden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Feed {
    /// The wire to control, at the start and again whenever control was restarted. One descriptor.
    Control {},
    /// The cell's listeners, again after each start of cell or warden. Descriptors, in the order of
    /// [`Listener::ALL`].
    Listeners { generation: u64, netns_cookie: u64 },
    /// Each packet sent on this socket pair with one stream socket attached is a new connection to the
    /// host's built-in model (`demo`). One descriptor.
    BuiltinModel {},
}

/// What each of the cell's listeners is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Listener {
    /// TCP, 0.0.0.0:15001, `IP_TRANSPARENT`: every captured IPv4 connection; `getsockname` of an accepted
    /// socket is the true destination.
    Capture4,
    /// TCP, [::]:15001, likewise.
    Capture6,
    /// UDP, 0.0.0.0:53 with `IP_PKTINFO`: answers must leave from the address that was asked.
    DnsUdp4,
    /// UDP, [::]:53 (`IPV6_V6ONLY`) with `IPV6_RECVPKTINFO`.
    DnsUdp6,
    /// TCP, 127.0.0.1:53. (TCP to port 53 of other addresses arrives at the capture listeners.)
    DnsTcp,
    /// TCP, 127.0.0.1:3128: the explicit proxy.
    Proxy,
}

impl Listener {
    /// The order in which the descriptors travel.
    pub const ALL: [Self; 6] =
        [Self::Capture4, Self::Capture6, Self::DnsUdp4, Self::DnsUdp6, Self::DnsTcp, Self::Proxy];
}

/// Control → warden. After (re)connection control sends `DataKey`, `Configure`, `Secrets`, `Models`,
/// every live `Grant`, then `Ready`; the warden allows nothing before the first `Ready`. Any of them
/// may come again later and replaces what was there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// Who this warden works for and by which policy. In force once `Configured` is reported.
    Configure(Configuration),
    /// The tenant's data key. One descriptor: a pipe that holds its 32 raw bytes and then ends.
    DataKey {},
    /// What the operator's proxy wants to hear, `USER:PASSWORD`, sealed under the tenant's data key; sent before
    /// `Configure`.
    ProxyCredentials { credentials: Option<SealedSecret> },
    /// Every sealed secret that this warden may use, as the vault's envelopes (base64).
    Secrets { secrets: Vec<SealedSecret> },
    /// Where `http://inference.local/v1` leads, in place of all before, and what was used of it by now.
    Models { routes: ModelRoutes, spent: Vec<Spent>, by_all: Vec<SpentByAll> },
    /// Call this route once, for a person; answered by [`Report::Tested`].
    TestModel { test: u64, route: Alias },
    /// A grant, in force at once; connections on hold for its destination go on.
    Grant(Grant),
    /// A grant is gone; relays that it allowed close within a second.
    Revoke { grant: u64 },
    /// An approval was registered for these held connections.
    Waiting { approval: u64, destination: Destination },
    /// Refuse what is held for this destination. `reason` goes to the client.
    Refuse { approval: Option<u64>, destination: Destination, reason: String },
    /// The answer to [`Report::Spend`]: durable, the connection may go on; or the grant is gone.
    Spent { grant: u64, ok: bool },
    /// Reports up to this sequence number are in the ledger.
    Recorded { through: u64 },
    /// Usage up to this sequence number is counted.
    Counted { through: u64 },
    /// Post this body there, signed with this secret; answered by [`Report::Posted`].
    Post { delivery: u64, url: String, secret: SecretName, body: String },
    /// The snapshot is complete.
    Ready {},
}

/// The standing configuration of one warden.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Configuration {
    /// Whose warden.
    pub tenant: TenantId,
    /// The policy document, YAML, at most 64 KiB; parsed by the warden itself.
    pub policy: String,
    /// Its revision number.
    pub revision: u64,
    /// The operator's ceiling, a policy document that this one cannot exceed.
    #[serde(default)]
    pub ceiling: Option<String>,
    /// Where real names are resolved. Port 53 of these is exempt from the uid firewall.
    pub nameservers: Vec<SocketAddr>,
    /// CIDR blocks of private addresses that the operator opened in `cofferdam.toml`.
    pub operator_private: Vec<String>,
    /// The operator's proxy, if everything goes through one.
    #[serde(default)]
    pub upstream_proxy: Option<UpstreamProxy>,
    /// Addresses of the host itself, and of its neighbours, never dialled.
    pub host_addresses: Vec<std::net::IpAddr>,
    /// How long a connection is held for an answer.
    pub hold_ms: u32,
    /// Relays at one time.
    pub relays: u32,
    /// Connections on hold at one time.
    pub holds: u32,
    /// New names a second.
    pub names_per_second: u32,
}

/// A secret in its envelope.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SealedSecret {
    /// Its name: part of the associated data.
    pub name: SecretName,
    /// Its version: part of the associated data.
    pub version: u32,
    /// What it may be used for: part of the associated data.
    pub purpose: String,
    /// The vault's envelope, base64.
    pub envelope: String,
}

/// A permission that came from an approval.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    /// Its id.
    pub id: u64,
    /// What it opens.
    pub destination: Destination,
    /// For how long.
    pub span: GrantSpan,
    /// By this request alone; none for any connection there.
    pub request: Option<RequestShown>,
}

/// How long a grant lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum GrantSpan {
    /// One connection, spent before it is dialled and before this moment.
    Once { until: Millis },
    /// Any number before this moment.
    Until(Millis),
    /// Any number for the life of this start of the cell.
    Cell { generation: u64 },
    /// Until it is revoked.
    Always,
}

impl GrantSpan {
    /// From when on it is no good; the same for control, which gives it, and the warden, which keeps it.
    #[must_use]
    pub const fn end(&self) -> Option<Millis> {
        match self {
            Self::Once { until } | Self::Until(until) => Some(*until),
            Self::Cell { .. } | Self::Always => None,
        }
    }

    /// Is it good at this moment?
    #[must_use]
    pub fn is_alive(&self, now: Millis) -> bool {
        self.end().is_none_or(|end| now < end)
    }
}

/// Warden → control; a packet is a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Report {
    /// The first message on each new wire.
    Hello { tenant: TenantId, boot: u64 },
    /// The policy of this revision is in force, or was refused (then the old one still is). `authority` is the
    /// certificate of the authority under which this warden inspects TLS, once it has the data key.
    Configured { revision: u64, error: Option<String>, authority: Option<Certificate> },
    /// A connection is held: somebody must answer. Sent once a destination, not once a connection; the request
    /// is that of the first, where one could be read.
    Ask { destination: Destination, why: String, request: Option<RequestShown> },
    /// The last connection held for this destination was refused because nobody answered in time.
    HoldEnded { destination: Destination },
    /// A once-grant is about to be used.
    Spend { grant: u64 },
    /// A canary was about to be sent there. Nothing leaves the cell any more. Sent again on each new wire.
    Tripped { canary: SecretName, destination: Destination },
    /// Something for the ledger (class B).
    Record(Arc<Record>),
    /// An inference request is about to be made: the most that it could use, marked as estimated. Said again on each
    /// new wire until [`Report::Usage`] of the same `request` is counted. If this start of the warden ends before,
    /// it counts so.
    Asking(Usage),
    /// Tokens used by one inference request.
    Usage(Usage),
    /// What became of [`Command::TestModel`].
    Tested { test: u64, tested: Tested },
    /// The next version of a secret from which access tokens are made, with the refresh token that its endpoint gave.
    /// Control keeps it, or something newer, and says which by [`Command::Secrets`]. Sent again on a new wire until
    /// then.
    Rotated { secret: SealedSecret },
    /// What became of [`Command::Post`]: none if it was taken, else why not.
    Posted { delivery: u64, error: Option<String> },
}

/// A row for the ledger.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Counts this warden boot's records from 1, without gaps.
    pub seq: u64,
    /// When.
    pub at: Millis,
    /// What happened.
    pub what: RecordKind,
    /// To what; none for an inference request and what is posted for the operator.
    pub destination: Option<Destination>,
    /// The rule, grant, layer or secret that decided.
    pub by: String,
    /// The machine-readable reason of a denial; `opaque` for a connection that was let through unseen; else empty.
    pub reason: String,
    /// The request, as `POST /mcp, tool search`, where requests are seen; of a secret's use `of record N`, where one had
    /// its row before; else empty.
    #[serde(default)]
    pub request: String,
    /// The same as rules see it, where one row is about one request and it is not too much.
    #[serde(default)]
    pub seen: Option<Box<Seen>>,
    /// The secrets that the request bears, as far as that was known before this row left; each later one has a row of
    /// its own.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub secrets: Vec<SecretName>,
    /// How many alike were folded into this row.
    pub count: u32,
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RecordKind {
    /// A connection was let through.
    Allow,
    /// A connection was refused.
    Deny,
    /// A connection was put on hold.
    Hold,
    /// A secret was used.
    Use,
}

/// What one inference request used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Usage {
    /// Counts this warden boot's usage from 1, without gaps. What was not answered with
    /// [`Command::Counted`] comes again on a new wire: nothing is lost, and control's death in between may
    /// count one request twice.
    pub seq: u64,
    /// Counts this warden boot's inference requests from 1.
    #[serde(default)]
    pub request: u64,
    /// When the request ended.
    pub at: Millis,
    /// The route's name.
    pub route: Alias,
    /// The model's name at the provider.
    pub model: String,
    /// Tokens in the prompt, as the provider counted them.
    pub prompt_tokens: u64,
    /// Tokens in the answer, likewise.
    pub completion_tokens: u64,
    /// HTTP status that the provider gave, 0 if none.
    pub status: u16,
    /// The provider did not say; the tokens are what went by, at four bytes a token.
    pub estimated: bool,
    /// What they cost, in millionths of a US dollar; none where no price is known.
    #[serde(default)]
    pub micros: Option<u64>,
    /// For whom, and by which agent, the cell says it asked: its claim, which nothing vouches for. Empty if it did
    /// not say.
    #[serde(default)]
    pub user: String,
    /// See `user`.
    #[serde(default)]
    pub agent: String,
}
