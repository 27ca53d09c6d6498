//! The edge's checks, each by a name of its own, so that tests can show that each is missed.
//!
//! Not among them is what the types insist on: without a verified token nothing is dialled, an unknown method has no
//! row to be judged by, and what goes into a cell is written from parts that were parsed.

use std::time::Duration;

cofferdam_base::checks! {
    /// A token ends at 8 KiB.
    TokenLength,
    /// A token's header says EdDSA.
    TokenAlgorithm,
    /// A token's header says what it is.
    TokenType,
    /// A token is signed by our issuer.
    TokenSignature,
    /// A token names our issuer.
    TokenIssuer,
    /// A token is meant for us.
    TokenAudience,
    /// A token's time has begun.
    TokenBegun,
    /// A token begins before it ends.
    TokenSpan,
    /// What a token writes into the ledger is plain and short.
    TokenPlain,
    /// A token ends.
    TokenExpiry,
    /// A token opens its own tenant.
    TokenTenant,
    /// A revoked token opens nothing.
    TokenRevoked,
    /// A token of a key that was withdrawn opens nothing.
    TokenKey,
    /// A token of a tenant that was deleted opens nothing.
    TenantKnown,
    /// Nobody is served before control said everything.
    Synced,
    /// A header that decides is there once.
    OnlyOnce,
    /// The Host names the port that was dialled.
    HostPort,
    /// The Host names the address that was dialled.
    HostIsDialled,
    /// The Host names the tenant whose listener it is.
    HostIsListeners,
    /// The Host names the tenant whose address was dialled.
    HostIsAddresses,
    /// Pages of other origins are refused.
    Origin,
    /// An origin of port 80 is written in one way.
    OriginSpelling,
    /// What another site made a browser ask is refused.
    FetchSite,
    /// No script of a service worker is served.
    ServiceWorker,
    /// One connection speaks to one tenant.
    OneTenant,
    /// Who cannot be recorded is not let in.
    LedgerRoom,
    /// A request's head comes in time.
    HeadTime,
    /// A request's head has so many headers.
    HeadHeaders,
    /// A request's head ends at 16 KiB.
    HeadBytes,
    /// A request's target is a path.
    PathOnly,
    /// A gateway switches no protocol that nobody asked for.
    NoSwitch,
    /// Only a tenant that serves is reached.
    Serving,
    /// What leads into a cell that is gone ends.
    CellAlive,
    /// All sockets together have an end.
    Sockets,
    /// Sockets that are told why they are turned away have an end.
    TurnedAway,
    /// Sockets of one address that show no token have an end.
    Strangers,
    /// All sockets that show no token have an end.
    StrangersInAll,
    /// A tenant's connections have an end.
    Seats,
    /// Unfinished messages of one tenant have an end.
    Held,
    /// Unfinished messages of all have an end.
    HeldForAll,
    /// A socket into a cell is fresh and of that cell's network.
    FreshSockets,
    /// A socket of a start of a cell that is over is not used.
    StartOfCell,
    /// Headers of one connection stay behind.
    HopByHop,
    /// Headers that `Connection` names stay behind.
    NamedByConnection,
    /// Who somebody is, we say.
    Identity,
    /// No credential enters a cell.
    Credentials,
    /// No header becomes a program's proxy.
    HttpProxy,
    /// No header reads like another one.
    Underscores,
    /// No cookie and no credential leaves a cell.
    AnswersCredentials,
    /// No answer rules a browser.
    AnswersRules,
    /// No answer opens itself to other origins.
    AnswersCors,
    /// Methods that are control's are nobody's.
    ControlsMethods,
    /// A method needs its scope.
    Scopes,
    /// A method that was judged and not let through is not passed on.
    Methods,
    /// The gateway's admin paths are nobody's.
    AdminPaths,
    /// Who may not write sends nothing but questions.
    WhoWrites,
    /// An upgrade is asked for in full.
    UpgradeAsked,
    /// WebSocket is spoken in version 13.
    UpgradeVersion,
    /// An upgrade has a proper key.
    UpgradeKey,
    /// An upgrade has no body.
    UpgradeBody,
    /// A gateway proves that it read our upgrade.
    UpgradeAccepted,
    /// A gateway agrees to no extension.
    NoExtension,
    /// A gateway agrees to no subprotocol.
    NoSubprotocol,
    /// No reserved bit of a frame is set.
    FrameBits,
    /// Clients mask their frames, servers do not.
    FrameMask,
    /// The length of a frame is written in one way.
    FrameLength,
    /// A control frame is short and whole.
    FrameControl,
    /// A message has an end.
    MessageLength,
    /// A message of who only reads is short.
    ReadersLength,
    /// A message that was begun is finished in time.
    MessageTime,
    /// A key of an object is there once.
    KeysOnce,
    /// An object has so many keys.
    Keys,
    /// A client introduces itself in time.
    ConnectTime,
    /// A client says little before it introduces itself.
    ConnectBytes,
    /// The first request is `connect`.
    ConnectFirst,
    /// Only operators connect.
    Operators,
    /// A gateway sends its challenge in time.
    ChallengeTime,
    /// No frame of a cell that looks like one of the host's approvals reaches a client.
    Forged,
    /// No id of the host's approvals reaches a cell.
    OurIds,
    /// Who may not approve sees no approval.
    Approvers,
    /// An approval is answered by whom it was shown.
    CardsToken,
    /// A client is shown no decision that its person may not take.
    Decisions,
    /// A page that a cell made approves nothing.
    Pages,
}

/// This much, if the check is in place; else a thousand times as much.
pub(crate) fn at_most(check: Check, limit: usize) -> usize {
    if keeps(check) { limit } else { limit.saturating_mul(1024) }
}

/// This long, if the check is in place; else longer than anybody waits.
pub(crate) fn within(check: Check, limit: Duration) -> Duration {
    if keeps(check) { limit } else { Duration::from_hours(10_000) }
}
