//! Why something was refused: one table of codes, each with its text and its mend, and the JSON body that
//! a refused client gets. The text for the log is elsewhere; nothing here tells a cell about the host.

use cofferdam_base::Destination;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $name:ident = $code:literal, $text:literal, $mend:literal;)*) => {
        /// A machine-readable reason of a denial.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        pub enum Reason { $($(#[doc = $doc])* $name,)* }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The code: the header `Cofferdam-Reason`, and `reason` in records.
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// What happened, for the client.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $text),* }
            }

            /// What can be done about it.
            pub const fn mend(self) -> &'static str {
                match self { $(Self::$name => $mend),* }
            }
        }
    };
}

reasons! {
    /// The default is deny and no rule names the destination.
    NoRule = "no_rule", "no rule of this tenant's policy names the destination",
        "ask the operator to add a rule: cofferdam policy set";
    /// A deny rule.
    DeniedByRule = "denied_by_rule", "a rule of this tenant's policy denies the destination",
        "ask the operator: cofferdam policy explain shows the rule";
    /// The operator's ceiling.
    AboveCeiling = "above_ceiling", "the operator of this host denies the destination to every policy",
        "only the operator opens it: [ceiling] in cofferdam.toml";
    /// A person said no.
    DeniedByPerson = "denied_by_person", "an approver denied this destination",
        "do not retry; ask the approver";
    /// A private, CGNAT or unique local address that the operator did not open.
    PrivateAddress = "private_address", "the destination is a private address",
        "the operator may name the network in cofferdam.toml; then policy decides";
    /// A metadata service, in whatever spelling.
    Metadata = "metadata", "metadata services are never reachable",
        "nothing opens this";
    /// Loopback, the host's own addresses, its neighbours.
    HostAddress = "host_address", "the host and its neighbours are never reachable",
        "nothing opens this";
    /// Multicast, reserved, documentation, benchmark, transition addresses.
    ReservedAddress = "reserved_address", "the destination is not a globally routable address",
        "use a globally routable address";
    /// A synthetic address without a name.
    NeverHandedOut = "never_handed_out", "this address was not given out for any name, or no longer is",
        "look the name up again and connect to the answer";
    /// The ClientHello names another host than the one that was looked up.
    NameMismatch = "name_mismatch", "the TLS server name is missing or differs from the name that was looked up",
        "connect to the name that the TLS handshake bears";
    /// The HTTP Host names another host.
    HostMismatch = "host_mismatch", "the HTTP Host differs from the name that was looked up",
        "send the Host of the name that you connect to";
    /// What is spoken is not what policy allows there.
    ProtocolMismatch = "protocol_mismatch", "what is spoken is neither HTTP nor TLS, and no tcp rule allows that",
        "ask the operator for a rule with protocol: tcp";
    /// The bytes are no request that could be rebuilt.
    BadRequest = "bad_request", "the request is malformed or ambiguous",
        "send a plain HTTP/1.1 request";
    /// Rules about requests, and no way to see one.
    NotInspected = "not_inspected", "rules judge each request to this destination, and these cannot be looked into",
        "use plain HTTP or TLS that the warden inspects, or ask the operator for a rule without method and path";
    /// A request that two servers read differently, where a rule depends on it.
    AmbiguousRequest = "ambiguous_request", "the path, query or method of the request can be read in two ways",
        "send a path without encoded slashes and `..` above the root, and no header that overrides the method";
    /// A body that a rule asks about and that is neither JSON-RPC nor GraphQL.
    BodyUnclear = "body_unclear", "a rule judges JSON-RPC calls or GraphQL operations here, and this is none that can be read",
        "send it whole as application/json, without content encoding, a key twice or a persisted query";
    /// A body that a rule asks about and that is too long to be read.
    BodyTooLong = "body_too_long", "a rule judges the body, and it is longer than 1 MiB",
        "send less in one request";
    /// The rule's budget is used up.
    BudgetSpent = "budget_spent", "the budget of the rule that allows this is used up",
        "wait, or ask the operator for a larger budget";
    /// Nobody answered in time.
    NoAnswer = "no_answer", "nobody answered the approval in time",
        "the approval stays open for 15 minutes; once approved, send the same request again";
    /// Too many approvals wait.
    TooManyWaiting = "too_many_waiting", "too many approvals of this tenant wait for an answer",
        "have waiting approvals answered: cofferdam approvals list";
    /// Too many connections are on hold.
    TooManyHolds = "too_many_holds", "too many connections of this tenant are on hold",
        "wait until some of them are answered";
    /// Too many connections are relayed.
    TooManyRelays = "too_many_relays", "this tenant has too many connections open",
        "close some connections";
    /// Too many model requests, or too much text in them, at one time.
    TooManyChats = "too_many_chats", "too many of this tenant's requests to its model are under way",
        "wait until some of them are answered";
    /// New names too fast, or too many of them.
    TooManyNames = "too_many_names", "this tenant looks up too many new names",
        "look up fewer different names";
    /// Records cannot be handed on.
    LedgerUnavailable = "ledger_unavailable", "the ledger does not take records, so nothing is allowed",
        "the operator finds the cause with cofferdam doctor";
    /// The warden is not configured yet.
    NotReady = "not_ready", "the warden has not received its configuration yet",
        "try again in a moment";
    /// The name did not resolve.
    ResolveFailed = "resolve_failed", "the name does not resolve on the host",
        "check the name";
    /// Nothing answered at the checked address.
    ConnectFailed = "connect_failed", "the destination did not accept the connection",
        "check the destination and its port";
    /// The operator's proxy did not open the way.
    UpstreamProxyFailed = "upstream_proxy_failed", "the host's upstream proxy did not open the connection",
        "the operator looks at upstream_proxy in cofferdam.toml and at the proxy's own log";
    /// The server's certificate is not good for its name.
    CertificateInvalid = "certificate_invalid", "the destination's certificate is not valid for its name",
        "check the destination; a private authority belongs into egress.extra_roots of cofferdam.toml";
    /// The client does not believe the certificate that inspection shows it.
    CertificateRefused = "certificate_refused", "the client does not trust the authority of this cell's warden",
        "have the client trust /etc/cofferdam/trust/bundle.pem, or ask the operator for inspect: never";
    /// A placeholder outside of its binding.
    PlaceholderElsewhere = "placeholder_elsewhere", "a placeholder stands where its secret is not bound",
        "send it only where the operator bound it, and there only as bound";
    /// A value that must not leave.
    LossBlocked = "loss_blocked", "blocked by loss prevention",
        "ask the operator";
    /// What cannot be looked through for such values.
    LossUnreadable = "loss_unreadable", "the body is packed in a way that loss prevention does not read",
        "send it unpacked, or with one coding: gzip or deflate";
    /// A route's limit, or nobody let it pass a soft one.
    ModelBudget = "model_budget", "the tenant's budget for this model does not allow it now",
        "wait until it begins anew, use less or another model, or ask the operator: cofferdam model list";
    /// The policy does not name the route.
    RouteNotAllowed = "route_not_allowed", "this tenant's policy does not let this model be used",
        "use another model, or ask the operator: cofferdam policy show";
    /// Money is limited and nobody knows the price.
    NoPrice = "no_price", "money is limited for this model, and nobody knows what it costs",
        "the operator says it: cofferdam model set with --price";
    /// What a secret is made into could not be made.
    SecretUnusable = "secret_unusable", "what the secret is to be made into could not be made",
        "what it says is for the operator";
    /// No model route.
    NoModel = "no_model", "no model is configured for this tenant",
        "the operator sets one: cofferdam model set";
    /// A permission was taken back.
    Revoked = "revoked", "the permission for this destination was revoked",
        "ask the approver";
}

/// A refusal as its client learns it: the JSON body, and one entry of `http://cofferdam.local/denied`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Denial {
    /// Always `denied`.
    pub error: &'static str,
    /// The code.
    pub reason: Reason,
    /// What was refused, if that is known.
    pub destination: Option<String>,
    /// What happened.
    pub message: String,
    /// What can be done about it.
    pub mend: &'static str,
    /// What the rule's author or the approver said; empty where nobody said anything.
    pub said: String,
}

impl Denial {
    /// A refusal of `destination`.
    pub fn new(reason: Reason, destination: Option<&Destination>) -> Self {
        Self {
            error: "denied",
            reason,
            destination: destination.map(ToString::to_string),
            message: reason.text().to_owned(),
            mend: reason.mend(),
            said: String::new(),
        }
    }

    /// With the words of a rule's author or an approver.
    #[must_use]
    pub fn said(mut self, words: &str) -> Self {
        self.said = words.chars().filter(|c| !c.is_control()).take(200).collect();
        self
    }

    /// The body, ending with a line feed.
    pub fn to_json(&self) -> String {
        // Strings and unit variants only: there is nothing that JSON cannot say.
        let mut body = serde_json::to_string(self).unwrap_or_else(|_| "{\"error\":\"denied\"}".to_owned());
        body.push('\n');
        body
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_code_is_what_serde_writes_and_fits_a_header() {
        for reason in Reason::ALL {
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{}\"", reason.code()));
            assert!(reason.code().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'));
            assert!(!reason.text().is_empty() && !reason.mend().is_empty());
        }
    }

    #[test]
    fn what_an_approver_said_cannot_break_out_of_the_body() {
        let body = Denial::new(Reason::DeniedByPerson, None).said("no\r\n\"}, x").to_json();
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(value["said"], "no\"}, x");
        assert_eq!(value["reason"], "denied_by_person");
    }
}
