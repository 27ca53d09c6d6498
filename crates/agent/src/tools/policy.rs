//! Which tools there are for a model and for clients: profile, allow, deny, in upstream's words.
//!
//! Deny wins. A name that nobody has is an error when the configuration is read, so that no list is believed to keep
//! something away, or to let it in, that it does not know.

use super::{About, all};
use crate::config::{Profile, Tools};

/// Groups of upstream. Which tool belongs to which is said by the tool.
const GROUPS: [&str; 11] = [
    "agents",
    "automation",
    "fs",
    "media",
    "memory",
    "messaging",
    "nodes",
    "runtime",
    "sessions",
    "ui",
    "web",
];
/// Other names of tools.
const ALIASES: [(&str, &str); 3] =
    [("bash", "exec"), ("apply-patch", "apply_patch"), ("automations", "cron")];

/// What the profiles let in. Tools that are not built are named as upstream names them; nobody can call those.
fn of_profile(profile: Profile) -> &'static [&'static str] {
    match profile {
        Profile::Full => &["*"],
        Profile::Minimal => &["session_status"],
        Profile::Coding => &[
            "group:fs",
            "group:runtime",
            "group:web",
            "group:sessions",
            "group:memory",
            "group:plugins",
            "cron",
            "ask_user",
            "view_image",
        ],
        Profile::Messaging => &[
            "group:messaging",
            "group:plugins",
            "sessions_list",
            "sessions_history",
            "sessions_search",
            "sessions_send",
            "sessions_spawn",
            "sessions_yield",
            "subagents",
            "session_status",
            "ask_user",
        ],
    }
}

/// The profiles that let a tool in, as catalogues name them.
pub(crate) fn profiles(about: &About) -> Vec<&'static str> {
    let has =
        |profile: &Profile| of_profile(*profile).iter().any(|entry| covers(entry, about.name, about.group));
    Profile::ALL.into_iter().filter(has).map(Profile::name).collect()
}

/// May it be called? `group` is the tool's own.
pub(crate) fn permits(tools: &Tools, name: &str, group: &str) -> bool {
    let any = |entries: &[String]| entries.iter().any(|entry| covers(&normal(entry), name, group));
    let base = tools.profile.is_none_or(|profile| {
        of_profile(profile).iter().any(|entry| covers(entry, name, group)) || any(&tools.also_allow)
    });
    // Whoever may write files may patch them.
    let patches = name == "apply_patch" && tools.allow.iter().any(|entry| normal(entry) == "write");
    base && (tools.allow.is_empty() || any(&tools.allow) || patches) && !any(&tools.deny)
}

/// Does an entry of a list name something?
pub(crate) fn is_known(entry: &str) -> bool {
    let entry = normal(entry);
    if let Some(group) = entry.strip_prefix("group:") {
        return group == "plugins" || group == "openclaw" || GROUPS.contains(&group);
    }
    // Tools of servers come and go with those.
    entry == "bundle-mcp"
        || entry.contains("__")
        || all().any(|about| covers(&entry, about.name, about.group))
}

fn normal(entry: &str) -> String {
    let entry = entry.trim().to_ascii_lowercase();
    match ALIASES.iter().find(|(alias, _)| *alias == entry) {
        Some((_, name)) => (*name).to_owned(),
        None => entry,
    }
}

fn covers(entry: &str, name: &str, group: &str) -> bool {
    let plugin = group == "plugins";
    match entry.strip_prefix("group:") {
        Some("openclaw") => !plugin && group != "fs" && group != "runtime",
        Some(named) => named == group,
        None if entry == "bundle-mcp" => plugin,
        None => matches(entry, name),
    }
}

/// `*` is any text.
fn matches(pattern: &str, text: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern.eq_ignore_ascii_case(text),
        Some((head, rest)) => {
            let Some((begin, _)) = text.split_at_checked(head.len()) else { return false };
            begin.eq_ignore_ascii_case(head)
                && (head.len()..=text.len()).any(|at| text.is_char_boundary(at) && matches(rest, &text[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::config::Config;

    fn kept(tools: &str) -> String {
        let config = Config::parse(&format!("{{\"tools\":{tools}}}")).unwrap();
        let kept =
            all().filter(|about| permits(&config.tools, about.name, about.group)).map(|about| about.name);
        kept.filter(|name| FIRST.contains(name)).collect::<Vec<_>>().join(" ")
    }

    /// Those that there were first; others come and may not make this test another.
    const FIRST: [&str; 8] =
        ["ls", "read", "write", "edit", "apply_patch", "exec", "process", "memory_search"];

    #[test]
    fn deny_wins_and_profile_and_allow_both_narrow() {
        let every = "ls read write edit apply_patch exec process memory_search";
        for (tools, left) in [
            ("{}", every),
            (r#"{"profile":"full"}"#, every),
            (r#"{"profile":"coding"}"#, every),
            (r#"{"profile":"minimal"}"#, ""),
            (r#"{"profile":"minimal","alsoAllow":["read"]}"#, "read"),
            (r#"{"profile":"messaging","alsoAllow":["group:memory"]}"#, "memory_search"),
            (r#"{"profile":"messaging","allow":["exec"]}"#, ""),
            (r#"{"allow":["READ","Bash"]}"#, "read exec"),
            (r#"{"allow":["write"]}"#, "write apply_patch"),
            (r#"{"allow":["write"],"deny":["apply-patch"]}"#, "write"),
            (r#"{"deny":["group:runtime","write"]}"#, "ls read edit apply_patch memory_search"),
            (r#"{"allow":["*"],"deny":["*e*"]}"#, "ls apply_patch"),
            (r#"{"allow":["exec"],"deny":["*"]}"#, ""),
            (r#"{"allow":["group:openclaw"]}"#, "memory_search"),
            (r#"{"deny":["group:openclaw"]}"#, "ls read write edit apply_patch exec process"),
        ] {
            assert_eq!(kept(tools), left, "{tools}");
        }
        let config = Config::parse(r#"{"tools":{"profile":"coding","deny":["docs__*"]}}"#).unwrap();
        let plugin = |name| permits(&config.tools, name, "plugins");
        assert!(plugin("mail__send") && !plugin("docs__publish"));
    }

    #[test]
    fn a_name_that_nobody_has_is_an_error() {
        for bad in [
            r#"{"allow":["raed"]}"#,
            r#"{"deny":["exce"]}"#,
            r#"{"deny":["group:all"]}"#,
            r#"{"deny":["zz*"]}"#,
            r#"{"allow":[]}"#,
            r#"{"allow":["read"],"alsoAllow":["exec"]}"#,
            r#"{"profile":"some"}"#,
            r#"{"byProvider":{}}"#,
        ] {
            let error = Config::parse(&format!("{{\"tools\":{bad}}}")).unwrap_err().to_string();
            assert!(error.contains("tools.") || error.contains("unknown"), "{bad}: {error}");
        }
    }
}
