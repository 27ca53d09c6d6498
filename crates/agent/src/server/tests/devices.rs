//! Devices over the wire.

use super::*;
use crate::protocol::device::tests::signed_connect;

const NOW: u64 = 1_795_330_345_458;
const LETS_IN: &str = "operator.pairing,operator.read,operator.write";

/// Connects with a device of this seed, and this token if it has one.
async fn connect(
    world: &World,
    edge: &str,
    seed: u8,
    scopes: &[&str],
    token: Option<&str>,
) -> (Socket, Result<Value, Value>) {
    let mut socket = Socket::open(world.address, edge).await;
    let (_, challenge) = socket.event().await;
    let mut params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": scopes,
        "client": { "id": "openclaw-tui", "version": "1", "platform": "linux", "mode": "ui", "displayName": "mine" },
    });
    if let Some(token) = token {
        params["auth"] = json!({ "deviceToken": token });
    }
    let nonce = challenge["nonce"].as_str().unwrap();
    let answer = socket.call("connect", signed_connect(seed, "v3", nonce, NOW, params)).await;
    (socket, answer)
}

/// The next event of this name, and of this request if it is given.
async fn event(socket: &mut Socket, name: &str, request: Option<&Value>) -> Value {
    loop {
        let (got, payload) = socket.event().await;
        if got == name && request.is_none_or(|request| payload["requestId"] == *request) {
            return payload;
        }
    }
}

async fn closed(mut socket: Socket) -> String {
    loop {
        match tokio::time::timeout(Duration::from_secs(20), socket.stream.next()).await.unwrap() {
            Some(Ok(Message::Close(Some(frame)))) => return frame.reason.to_string(),
            Some(Ok(_)) => {}
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn whoever_may_let_devices_in_lets_their_own_in_and_it_keeps_its_token() {
    let world = World::new(Vec::new()).await;
    let (mut own, hello) = connect(&world, LETS_IN, 1, &["operator.read", "operator.pairing"], None).await;
    let hello = hello.unwrap();
    let token = hello["auth"]["deviceToken"].as_str().unwrap().to_owned();
    let list = own.call("device.pair.list", json!({})).await.unwrap();
    let row = &list["paired"][0];
    assert_eq!((&row["connected"], &row["approvedVia"]), (&json!(true), &json!("trusted-proxy")));
    assert!(!list.to_string().contains(&token) && list["pending"] == json!([]));
    let known = hello["snapshot"]["presence"].as_array().unwrap();
    assert!(known.iter().any(|row| row["deviceId"] == list["paired"][0]["deviceId"]));

    let (_, again) = connect(&world, LETS_IN, 1, &["operator.read"], Some(&token)).await;
    assert!(again.unwrap()["auth"].get("deviceToken").is_none(), "it has one");
    for (seed, token) in [(1, "another"), (2, &*token)] {
        let (socket, refused) = connect(&world, LETS_IN, seed, &["operator.read"], Some(token)).await;
        assert_eq!(refused.unwrap_err()["details"]["code"], "AUTH_DEVICE_TOKEN_MISMATCH");
        assert!(closed(socket).await.contains("device token mismatch"));
    }
    // The edge's word is the limit, whatever the device was let in with.
    let (mut less, hello) =
        connect(&world, "operator.read", 1, &["operator.read", "operator.write"], None).await;
    assert_eq!(hello.unwrap()["auth"]["scopes"], json!(["operator.read"]));
    let refused = less.call("device.pair.list", json!({})).await.unwrap_err();
    assert_eq!(refused["details"]["missingScope"], "operator.pairing");

    let rotate = json!({ "deviceId": row["deviceId"], "role": "operator" });
    let rotated = own.call("device.token.rotate", rotate.clone()).await.unwrap();
    assert_eq!(rotated["tokenDelivery"], "in-band");
    assert_eq!(closed(less).await, "device token rotated");
    let (_, old) = connect(&world, LETS_IN, 1, &["operator.read"], Some(&token)).await;
    assert!(old.is_err());
    let (mut own, new) = connect(&world, LETS_IN, 1, &["operator.pairing"], rotated["token"].as_str()).await;
    assert!(new.is_ok());
    own.call("device.token.revoke", rotate).await.unwrap();
    assert_eq!(closed(own).await, "device token revoked");
    let (_, void) = connect(&world, LETS_IN, 1, &["operator.read"], rotated["token"].as_str()).await;
    assert!(void.is_err());
}

#[tokio::test]
async fn a_device_of_somebody_else_waits_until_it_is_let_in() {
    let world = World::new(Vec::new()).await;
    let member = "operator.read,operator.write";
    let mut admin = world.client("operator.admin,operator.pairing").await;
    let (socket, refused) = connect(&world, member, 1, &["operator.read", "operator.write"], None).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (&refused["code"], &refused["details"]["reason"]),
        (&json!("NOT_PAIRED"), &json!("not-paired"))
    );
    assert_eq!(closed(socket).await, refused["message"]);
    let asked = event(&mut admin, "device.pair.requested", None).await;
    assert_eq!(asked["requestId"], refused["details"]["requestId"]);
    let (_, twice) = connect(&world, member, 1, &["operator.read", "operator.write"], None).await;
    assert_eq!(twice.unwrap_err()["details"]["requestId"], asked["requestId"], "it is asked once");

    let by_id = json!({ "requestId": asked["requestId"] });
    // Nobody lets it do what they may not do themselves.
    let mut limited = world.client("operator.pairing,operator.read").await;
    let denied = limited.call("device.pair.approve", by_id.clone()).await.unwrap_err();
    assert_eq!(denied["message"], "missing scope: operator.write");
    // Nor does a device that is no admin's decide about another.
    let (mut other, _) = connect(&world, LETS_IN, 2, &["operator.pairing", "operator.write"], None).await;
    for method in ["device.pair.approve", "device.pair.reject"] {
        assert!(
            other.call(method, by_id.clone()).await.unwrap_err()["message"]
                .as_str()
                .unwrap()
                .ends_with("denied")
        );
    }
    assert_eq!(other.call("device.pair.list", json!({})).await.unwrap()["pending"], json!([]));
    let approved = admin.call("device.pair.approve", by_id.clone()).await.unwrap();
    assert_eq!(
        event(&mut admin, "device.pair.resolved", Some(&asked["requestId"])).await["decision"],
        "approved"
    );
    assert!(admin.call("device.pair.approve", by_id).await.is_err(), "it is decided");
    let (inside, hello) = connect(&world, member, 1, &["operator.read"], None).await;
    assert!(hello.unwrap()["auth"]["deviceToken"].is_string());

    // More than it was let in with is asked for again.
    let more = "operator.approvals,operator.read,operator.write";
    let (_, upgrade) = connect(&world, more, 1, &["operator.approvals"], None).await;
    let upgrade = upgrade.unwrap_err();
    assert_eq!(upgrade["details"]["reason"], "scope-upgrade");
    assert_eq!(upgrade["details"]["approvedScopes"], json!(["operator.read", "operator.write"]));
    let by_id = json!({ "requestId": upgrade["details"]["requestId"] });
    admin.call("device.pair.reject", by_id).await.unwrap();
    assert_eq!(
        event(&mut admin, "device.pair.resolved", Some(&upgrade["details"]["requestId"])).await["decision"],
        "rejected"
    );

    let gone = json!({ "deviceId": approved["device"]["deviceId"] });
    assert!(other.call("device.pair.remove", gone.clone()).await.is_err());
    admin.call("device.pair.remove", gone).await.unwrap();
    assert_eq!(closed(inside).await, "device removed");
    let (_, out) = connect(&world, member, 1, &["operator.read"], None).await;
    assert_eq!(out.unwrap_err()["details"]["reason"], "not-paired");
}

#[tokio::test]
async fn a_proof_of_another_connection_is_none() {
    let world = World::new(Vec::new()).await;
    let mut socket = Socket::open(world.address, LETS_IN).await;
    let (_, _) = socket.event().await;
    let params = json!({
        "minProtocol": 4, "maxProtocol": 4, "role": "operator", "scopes": ["operator.read"],
        "client": { "id": "cli", "version": "1", "platform": "linux", "mode": "cli" },
    });
    let refused =
        socket.call("connect", signed_connect(1, "v2", "heard-elsewhere", NOW, params)).await.unwrap_err();
    assert_eq!(
        refused["details"],
        json!({ "code": "DEVICE_AUTH_NONCE_MISMATCH", "reason": "device-nonce-mismatch" })
    );
    assert_eq!(closed(socket).await, "device nonce mismatch");
}
