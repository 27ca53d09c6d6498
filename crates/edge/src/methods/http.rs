//! What a member may ask of an OpenClaw gateway by HTTP, beside the methods of its WebSocket.
//!
//! The same methods have doors there too: upstream's admin RPC takes what the table keeps for control. So its
//! paths are refused to everybody, in every spelling that the gateway could read as one of them, and who may
//! not write sends nothing but questions. The gateway's own checks of scopes come after this.

use super::{Gate, implied};
use crate::check::{Check, keeps};
use cofferdam_base::Scope;
use http::Method;
use std::collections::BTreeSet;

/// Upstream's admin RPC is `/api/v1/admin/rpc`.
const ADMIN: [&[u8]; 3] = [b"api", b"v1", b"admin"];

/// Escapes upon escapes are taken off so often; upstream does it 32 times. Who needs more is refused.
const PASSES: usize = 32;

/// Decides about one request.
#[must_use]
pub fn gate(method: &Method, path: &str, scopes: &BTreeSet<Scope>) -> Gate {
    if keeps(Check::AdminPaths) && is_admin(path) {
        return Gate::ControlOnly;
    }
    let asks = [Method::GET, Method::HEAD, Method::OPTIONS].contains(method);
    if asks || implied(Scope::Write, scopes) || !keeps(Check::WhoWrites) {
        Gate::Open
    } else {
        Gate::Missing(Scope::Write)
    }
}

fn is_admin(path: &str) -> bool {
    let mut path = path.as_bytes().to_vec();
    for _ in 0..=PASSES {
        if names_admin(&path) {
            return true;
        }
        match unescaped(&path) {
            Some(next) => path = next,
            None => return false,
        }
    }
    true
}

/// One layer of escapes taken off; none if there is none.
fn unescaped(path: &[u8]) -> Option<Vec<u8>> {
    let digit = |byte: &u8| char::from(*byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let mut out = Vec::with_capacity(path.len());
    let mut rest = path;
    while let [first, after @ ..] = rest {
        rest = after;
        if let (b'%', [high, low, behind @ ..]) = (first, after)
            && let (Some(high), Some(low)) = (digit(high), digit(low))
        {
            out.push(high << 4 | low);
            rest = behind;
        } else {
            out.push(*first);
        }
    }
    (out.len() < path.len()).then_some(out)
}

/// Are the admin RPC's segments anywhere in the path? At its front is where they count, but what is the front
/// depends on the reader: `//x/api` has a host for some, and dot segments are resolved or not.
fn names_admin(path: &[u8]) -> bool {
    let mut written: Vec<Vec<u8>> = Vec::new();
    let mut resolved: Vec<Vec<u8>> = Vec::new();
    for segment in path.split(|byte| matches!(byte, b'/' | b'\\')) {
        // Parsers of URLs drop blanks and control characters and see a query or a parameter begin.
        let text = segment.iter().take_while(|byte| !matches!(byte, b'?' | b'#' | b';'));
        let text: Vec<u8> = text.filter(|byte| **byte > b' ').map(u8::to_ascii_lowercase).collect();
        match &*text {
            b"" | b"." => continue,
            b".." => drop(resolved.pop()),
            _ => resolved.push(text.clone()),
        }
        written.push(text);
    }
    [written, resolved].iter().any(|path| path.windows(3).any(|three| three == ADMIN))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::Role;
    use proptest::prelude::*;

    #[test]
    fn no_spelling_of_the_admin_rpc_passes_for_anybody() {
        let all = Role::Admin.ceiling();
        let mut deep = "/api/v1/%61dmin/rpc".to_owned();
        for path in [
            "/api/v1/admin",
            "/api/v1/admin/",
            "/api/v1/admin/rpc",
            "/api/v1/admin/anything",
            "/API/V1/Admin/Rpc",
            "//api//v1///admin/rpc",
            "//host/api/v1/admin/rpc",
            "/%2Fhost/api/v1/admin/rpc",
            "/\\api\\v1\\admin\\rpc",
            "/./api/./v1/./admin/rpc",
            "/x/../api/v1/admin/rpc",
            "/x/%2e%2E/api/v1/admin/rpc",
            "/api/v1/admin/../admin/rpc",
            "/api/x/../v1/admin/rpc",
            "/api/v1/admin/..",
            "/api/v1/%61dmin/rpc",
            "/api/v1/%2561dmin/rpc",
            "/api%2Fv1%2fadmin%2Frpc",
            "/api/v1/ad%09min/rpc",
            "/api/v1/admin%20/rpc",
            "/api/v1/admin%3Fx",
            "/api/v1/admin;x/rpc",
            "/api/v1/%25%36%31dmin/rpc",
            "/%ff/api/v1/admin/rpc",
        ] {
            assert_eq!(gate(&Method::GET, path, &all), Gate::ControlOnly, "{path}");
        }
        for _ in 0..PASSES {
            deep = deep.replace('%', "%25");
            assert_eq!(gate(&Method::GET, &deep, &all), Gate::ControlOnly);
        }
        let escapes = format!("/%{}20", "25".repeat(PASSES + 1));
        assert_eq!(gate(&Method::GET, &escapes, &all), Gate::ControlOnly, "too many escapes");
        for path in [
            "/",
            "/v1/chat/completions",
            "/tools/invoke",
            "/api/v1/administrators",
            "/api/v1/beam/sessions",
            "/api/admin/v1",
            "/api/v1/x/admin",
            "/chat/a%20b%2Fc%25d",
            "/100%",
            "/a%zz",
        ] {
            assert_eq!(gate(&Method::POST, path, &all), Gate::Open, "{path}");
        }
    }

    #[test]
    fn who_may_not_write_only_asks() {
        let [viewer, member] = [Role::Viewer, Role::Member].map(Role::ceiling);
        for method in [Method::GET, Method::HEAD, Method::OPTIONS] {
            assert_eq!(gate(&method, "/v1/models", &viewer), Gate::Open);
        }
        for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE, "X".parse().unwrap()] {
            assert_eq!(gate(&method, "/v1/models", &viewer), Gate::Missing(Scope::Write), "{method}");
            assert_eq!(gate(&method, "/v1/models", &member), Gate::Open, "{method}");
        }
        assert_eq!(gate(&Method::POST, "/", &[Scope::Admin].into()), Gate::Open, "admin is all");
    }

    proptest! {
        #[test]
        fn no_path_panics(path in "(/|%|25|2f|api|v1|admin|\\.|\\PC){0,40}") {
            let _ = gate(&Method::GET, &path, &BTreeSet::new());
        }

        #[test]
        fn escaping_a_segment_any_number_of_times_hides_nothing(at in 0_usize..17, times in 1_usize..8) {
            let plain = b"/api/v1/admin/rpc";
            let [before, after] = [&plain[..at], &plain[at + 1..]].map(|part| str::from_utf8(part).unwrap());
            let path = format!("{before}%{}{:02x}{after}", "25".repeat(times - 1), plain[at]);
            prop_assert_eq!(gate(&Method::GET, &path, &Role::Admin.ceiling()), Gate::ControlOnly, "{}", path);
        }
    }
}
