//! Which checks of the crates stand behind the words of a row, by the names under which `cargo xtask mutants` leaves
//! each of them out alone. A row shows that they hold in the program that is shipped; the mutants show that each is
//! missed.
//!
//! Words that stand for no check are those of what the types, the kernel or the TLS library insist on.

/// The words of rows, and the checks: guard, egress or edge, and the name.
const CHECKS: &[(&str, &[&str])] = &[
    (
        "guard",
        &[
            "guard Metadata",
            "guard HostAddresses",
            "guard Range",
            "guard Embedded",
            "guard Unassigned",
            "guard MetadataNames",
            "guard HostNames",
            "egress GuardFirst",
        ],
    ),
    ("policy", &["egress Ready", "egress RequestJudged", "egress HandedOut", "egress LateSpeech"]),
    ("approvals", &["egress Holds", "egress GrantsPlace", "egress OnceIsOnce"]),
    (
        "name check",
        &[
            "egress HelloSound",
            "egress HelloWhole",
            "egress HelloOneExtension",
            "egress HelloOneName",
            "egress HelloInClear",
            "egress HelloNames",
            "egress HelloNamesSame",
        ],
    ),
    ("host check", &["egress OneHost", "egress HostIsCaptured", "egress HostIsTarget", "egress HostIsShown"]),
    ("head parser", &["egress OneCoding", "egress OneLength", "egress HttpVersion", "egress HopByHop"]),
    ("placeholders", &["egress SecretBound", "egress PlaceholderStays"]),
    ("synthetic names", &["egress HandedOut"]),
    ("token", &["edge TokenSignature", "edge Synced"]),
    ("token: algorithm", &["edge TokenAlgorithm", "edge TokenType"]),
    ("token: signature", &["edge TokenSignature"]),
    ("token: tenant", &["edge TokenTenant"]),
    ("token: revocation", &["edge TokenRevoked"]),
    ("token: expiry", &["edge TokenExpiry"]),
    ("origin", &["edge Origin", "edge OriginSpelling"]),
    ("fetch metadata", &["edge FetchSite", "edge ServiceWorker"]),
    ("edge: host check", &["edge HostPort", "edge HostIsDialled", "edge HostIsListeners"]),
    ("headers made anew", &["edge Identity", "edge Credentials"]),
    ("uid firewall", &[]),
    ("the warden keeps it", &[]),
    ("certificate check", &[]),
    ("an authority of each tenant", &[]),
];

/// The checks behind the layers of a row.
pub(crate) fn checks(layers: &[&str]) -> Vec<String> {
    let named = |layer: &&str| CHECKS.iter().find(|(word, _)| word == layer).map(|(_, checks)| *checks);
    layers.iter().filter_map(named).flatten().map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    const SOURCES: [(&str, &str); 3] = [
        ("guard", include_str!("../../../../policy/src/guard/check.rs")),
        ("egress", include_str!("../../../../egress/src/check.rs")),
        ("edge", include_str!("../../../../edge/src/check.rs")),
    ];

    /// Is it a line of the crate's table? Some have a part for each of many.
    fn there(check: &str) -> bool {
        let Some((of, name)) = check.split_once(' ') else { return false };
        let source = SOURCES.iter().find(|(whose, _)| *whose == of).map_or("", |(_, source)| source);
        let row =
            |line: &str| line.trim().strip_prefix(name).is_some_and(|rest| rest.starts_with([',', '(']));
        source.lines().any(row)
    }

    #[test]
    fn every_word_of_a_row_is_here_and_every_check_is_one_of_its_crate() {
        let known: BTreeSet<&str> = CHECKS.iter().map(|(word, _)| *word).collect();
        let wires = super::super::wires(&crate::rules::Rules::none());
        let used: BTreeSet<&str> = wires.iter().flat_map(|wire| wire.layers).copied().collect();
        assert_eq!(known, used);
        for check in CHECKS.iter().flat_map(|(_, checks)| *checks) {
            assert!(there(check), "{check}");
        }
        assert!(!there("egress NoSuchCheck") && !there("edge Range"), "the search finds nothing by itself");
    }
}
