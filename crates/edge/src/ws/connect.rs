//! The `connect` request of a client of the gateway's protocol 4, and what the gateway gets instead.
//!
//! The client's credentials and device are taken out: the one is ours and must not enter the cell, the other
//! would make the gateway judge a key instead of the identity that the edge vouches for.

use super::json::{Key, Keys, Request, Rewrite, write_str};
use cofferdam_base::Scope;
use serde::{
    Deserialize,
    de::{Deserializer, Error as _, IgnoredAny, MapAccess, Visitor},
};
use std::{collections::BTreeSet, fmt};

/// A client's `connect`, taken apart.
#[derive(Debug, Default)]
pub(super) struct Connect {
    /// The token, from `auth.token` or `auth.password`.
    pub(super) token: Option<String>,
    /// The scopes that it asks for; none if it does not say.
    requested: Option<Vec<String>>,
    /// `operator` if it does not say.
    pub(super) role: Option<String>,
    /// All other parameters, written anew, as the inside of an object.
    rest: Vec<u8>,
}

#[derive(Deserialize)]
struct Auth {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    password: Option<String>,
}

/// Takes the parameters of a `connect` apart.
pub(super) fn take_apart(request: &Request) -> Result<Connect, serde_json::Error> {
    let mut json = serde_json::Deserializer::from_slice(&request.params);
    let connect = json.deserialize_map(Params)?;
    json.end()?;
    Ok(connect)
}

impl Connect {
    /// The frame for the gateway: the scopes are those asked for under the cap, or the cap.
    pub(super) fn rebuilt(&self, request: Request, cap: &BTreeSet<Scope>) -> Vec<u8> {
        let asked = |scope: &Scope| match &self.requested {
            Some(list) if !list.is_empty() => list.iter().any(|name| name == scope.as_str()),
            _ => true,
        };
        let mut params = Vec::with_capacity(self.rest.len() + 256);
        params.extend_from_slice(br#"{"role":"operator","scopes":["#);
        for (at, scope) in cap.iter().filter(|scope| asked(scope)).enumerate() {
            if at > 0 {
                params.push(b',');
            }
            write_str(scope.as_str(), &mut params);
        }
        params.push(b']');
        params.extend_from_slice(&self.rest);
        params.push(b'}');
        Request { params, ..request }.write()
    }
}

struct Params;

impl<'de> Visitor<'de> for Params {
    type Value = Connect;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the parameters of connect")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Connect, A::Error> {
        let mut keys = Keys::default();
        let mut connect = Connect::default();
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                "auth" => {
                    let auth: Option<Auth> = map.next_value()?;
                    connect.token = auth.and_then(|auth| auth.token.or(auth.password));
                }
                "device" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "scopes" => connect.requested = map.next_value()?,
                "role" => connect.role = map.next_value()?,
                other => {
                    connect.rest.push(b',');
                    write_str(other, &mut connect.rest);
                    connect.rest.push(b':');
                    map.next_value_seed(Rewrite(&mut connect.rest))?;
                }
            }
            keys.add::<A::Error>(key)?;
        }
        if connect.requested.as_ref().is_some_and(|list| list.len() > 64) {
            return Err(A::Error::custom("too many scopes"));
        }
        Ok(connect)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::super::json::request;
    use super::*;
    use cofferdam_base::Role;
    use serde_json::{Value, json};

    fn rebuilt(params: &Value, role: Role) -> Value {
        let frame = json!({ "type": "req", "id": "1", "method": "connect", "params": params });
        let request = request(frame.to_string().as_bytes()).unwrap();
        let connect = take_apart(&request).unwrap();
        serde_json::from_slice(&connect.rebuilt(request, &role.ceiling())).unwrap()
    }

    #[test]
    fn credentials_and_device_go_and_scopes_are_capped() {
        let frame = rebuilt(
            &json!({ "minProtocol": 4, "client": { "id": "cli" }, "auth": { "token": "T" },
                "device": { "id": "x" }, "role": "operator",
                "scopes": ["operator.admin", "operator.write", "operator.bogus"] }),
            Role::Member,
        );
        assert_eq!(
            frame["params"],
            json!({ "minProtocol": 4, "client": { "id": "cli" }, "role": "operator",
                "scopes": ["operator.write"] })
        );
        let all = rebuilt(&json!({}), Role::Viewer);
        assert_eq!(all["params"], json!({ "role": "operator", "scopes": ["operator.read"] }));
    }

    #[test]
    fn the_token_may_be_a_password_too() {
        for field in ["token", "password"] {
            let frame = json!({ "type": "req", "id": "1", "method": "connect",
                "params": { "auth": { (field): "T" } } });
            let connect = take_apart(&request(frame.to_string().as_bytes()).unwrap()).unwrap();
            assert_eq!(connect.token.as_deref(), Some("T"), "{field}");
        }
    }
}
