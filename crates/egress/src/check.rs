//! The checks on the way out, each by a name of its own, so that tests can show that each is missed.
//!
//! Not among them is what the types insist on: an address that the guard did not let through cannot be dialled, and
//! what is no host name, no CONNECT target or no port is not there to be judged.

use std::time::Duration;

cofferdam_base::checks! {
    /// Nothing passes before control said everything.
    Ready,
    /// The guard is heard before anybody is asked.
    GuardFirst,
    /// A connection whose requests nobody sees does not pass where rules judge them.
    Inspected,
    /// A rule that has expired says nothing.
    RulesExpire,
    /// No more requests than their budget.
    BudgetRequests,
    /// No more bytes than their budget.
    BudgetBytes,
    /// No more different URLs than their budget.
    BudgetUrls,
    /// Each destination has its own budget where a rule says so, and they end.
    BudgetPlaces,
    /// Each request is judged by itself.
    RequestJudged,
    /// What was judged of a path goes on, and not the text that came.
    RequestRebuilt,
    /// A body that a rule asks about is read.
    BodyRead,
    /// A body that a rule asks about ends at its cap.
    BodyLength,
    /// A body in another coding is none that was read.
    BodyCoding,
    /// A rule that denies an address binds the names that resolve to it.
    AddressRules,
    /// A grant opens its own destination only.
    GrantsPlace,
    /// A yes for one request is for that request.
    GrantsRequest,
    /// A yes for a cell's life is for that start of the cell.
    GrantsCell,
    /// A grant opens nothing after its end.
    GrantExpires,
    /// A grant for one connection opens one.
    OnceIsOnce,
    /// A connection whose grant was just spent is judged by the rules of that moment.
    SpentIsJudged,
    /// A connection on hold has a place, and places end.
    Holds,
    /// People are asked so often and no more.
    Questions,
    /// A relay has a place, and places end.
    Relays,
    /// What cannot be recorded is not allowed.
    Recorded,
    /// New rules close what they no longer allow.
    RulesWithdraw,
    /// A revoked grant closes what it opened.
    RevocationWithdraws,
    /// A grant that control does not name again is gone.
    Snapshot,
    /// What a grant opened closes with the grant's end.
    OpenExpires,
    /// The address of a name stays its while a connection to it is open.
    OpenKeepsName,
    /// An address of the resolver's range means the name that it was given to, or nothing.
    HandedOut,
    /// New names come at their rate.
    NewNames,
    /// Names that come through the proxy count like those that are looked up.
    ProxyNames,
    /// An address rests before another name gets it.
    NamesRest,
    /// A DNS packet that is itself an answer gets none.
    Questioned,
    /// Of DNS nothing but look-ups is served.
    LookUps,
    /// Of DNS no class but the Internet's is served.
    Internet,
    /// A silent DNS client is not kept.
    DnsIdle,
    /// Denials alike become one row a second.
    Fold,
    /// Denials of too many kinds are told apart no more.
    FoldKinds,
    /// A handshake that is malformed is refused, not passed on.
    HelloSound,
    /// A handshake that was begun and not finished is malformed.
    HelloWhole,
    /// A ClientHello ends at 16 KiB.
    HelloLength,
    /// The first message of a handshake is a ClientHello.
    HelloFirst,
    /// No extension of a ClientHello comes twice.
    HelloOneExtension,
    /// A ClientHello names one server.
    HelloOneName,
    /// A ClientHello that hides a name is refused.
    HelloInClear,
    /// A TLS client that looked a name up says it.
    HelloNames,
    /// A TLS client says the name that it looked up, or the one of its CONNECT.
    HelloNamesSame,
    /// Names that are served here are never dialled.
    OwnNames,
    /// A question of the warden's own is answered by people, and by no rule.
    OwnQuestions,
    /// A client that was silent at first is judged by what it speaks after all.
    LateSpeech,
    /// A tunnel that was let through as TLS carries TLS.
    TunnelSpeaks,
    /// Connections in any phase have places, and places end.
    Places,
    /// A proxy that is not to resolve names is told addresses that the guard let through.
    ProxyIsTold,
    /// A dial ends with its permission.
    WithdrawnDial,
    /// What was dialled while the rules changed is judged again.
    DialledStands,
    /// A relay ends with its permission.
    WithdrawnRelay,
    /// A request that waits for its answer ends with its permission.
    WithdrawnRequest,
    /// A body ends with its permission.
    WithdrawnBody,
    /// A connection to the world ends with the permission of its last request.
    WithdrawnDrive,
    /// A kept connection is used only for where it leads.
    KeptPlace,
    /// A kept connection is not used once its address is refused.
    KeptStands,
    /// A request's head comes in time.
    HeadTime,
    /// A line of a head ends with CR LF.
    LineFeeds,
    /// Only HTTP/1 is spoken.
    HttpVersion,
    /// A body is chunked, and nothing else besides.
    OneCoding,
    /// A body has one length.
    OneLength,
    /// A request has one Host.
    OneHost,
    /// A proxied request is for HTTP, or for HTTPS whose TLS is made here.
    HttpScheme,
    /// What a rule says nobody reads is not sent for a client that speaks no TLS.
    NeverInClear,
    /// The Host of a captured request is the name that was looked up.
    HostIsCaptured,
    /// The Host of a proxied request is the host of its URI.
    HostIsTarget,
    /// The host of a request inside TLS is the one whose certificate its client was shown.
    HostIsShown,
    /// No connection becomes anything but a WebSocket, by a request that is nothing else.
    OnlyWebSocket,
    /// A WebSocket of HTTP/2 is one to which its server agreed.
    WebSocketAgreed,
    /// What is inspected ends with its permission, whether anybody reads it just then or not.
    WithdrawnInspected,
    /// A connection that others used before is not used once its address is refused.
    PooledStands,
    /// Headers of one connection stay behind.
    HopByHop,
    /// Headers that `Connection` names stay behind.
    NamedByConnection,
    /// Who answers cannot speak as the warden.
    OurHeaders,
    /// A placeholder is exchanged only where its secret is bound.
    SecretBound,
    /// AWS keys sign for the service and the region that they are bound to.
    SignatureScope,
    /// A placeholder anywhere else in a head stops the request.
    PlaceholderStays,
    /// A placeholder in a body is exchanged only where its secret is bound.
    BodyBound,
    /// A placeholder in a body stops it.
    BodySearched,
    /// What a bound host answers can be read here.
    AnswerReadable,
    /// A secret that comes back is covered.
    SecretCovered,
    /// It is covered though it comes in pieces.
    SecretHeld,
    /// An answer is searched for what its host may know, and for nothing that it might guess.
    SearchedWhereBound,
    /// A known value in a head stays.
    LossInHead,
    /// A known value in a body stays.
    LossInBody,
    /// A known value that is packed stays.
    LossPacked,
    /// A body that cannot be unpacked stays.
    LossReadable,
    /// A known value in the name of a host stays.
    LossInName,
    /// A known value in a relay in clear stays.
    LossInRelay,
    /// A known value in a frame of a WebSocket stays.
    LossInFrame,
    /// After a canary nothing more passes.
    CanaryTrips,
}

/// This much, if the check is in place; else more than there is.
pub(crate) fn at_most(check: Check, limit: usize) -> usize {
    if keeps(check) { limit } else { tokio::sync::Semaphore::MAX_PERMITS }
}

/// This long, if the check is in place; else longer than anybody waits.
pub(crate) fn within(check: Check, limit: Duration) -> Duration {
    if keeps(check) { limit } else { Duration::from_hours(10_000) }
}
