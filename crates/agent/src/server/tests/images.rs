//! Images: from a client or a file to the model.

use super::{
    http::{WHO, ask},
    *,
};

/// `GIF89a` and no more; no provider looks at it here.
const GIF: &str = "R0lGODlh";

fn url() -> Value {
    json!(format!("data:image/gif;base64,{GIF}"))
}

fn last(world: &World) -> Value {
    world.asked()["messages"].as_array().unwrap().last().unwrap()["content"].clone()
}

#[tokio::test]
async fn an_image_beside_a_message_is_kept_once_and_sent() {
    let world = World::new(vec![Line::Says("a dot"), Line::Says("still")]).await;
    let mut client = world.client(ALL).await;
    let mut asked = message("what is it?", "r1");
    asked["attachments"] =
        json!([{ "type": "image", "mimeType": "image/png", "fileName": "a.gif", "content": GIF }]);
    client.call("chat.send", asked).await.unwrap();
    client.chat("final").await;
    let content = last(&world);
    assert_eq!(content[0], json!({ "type": "text", "text": "what is it?" }));
    assert_eq!(content[1], json!({ "type": "image_url", "image_url": { "url": url() } }));
    // In the transcript it is named, not repeated.
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    let block = &history["messages"][0]["content"][1];
    assert_eq!(
        (&block["type"], &block["mimeType"], &block["bytes"]),
        (&json!("image"), &json!("image/gif"), &json!(6))
    );
    assert!(!history.to_string().contains(GIF));
    let again =
        json!({ "message": "and now?", "idempotencyKey": "r2", "attachments": [{ "content": url() }] });
    let id = client.say("agent", again).await;
    client.answer("agent", &id).await.unwrap();
    client.answer("agent", &id).await.unwrap();
    let history = client.call("chat.history", json!({ "sessionKey": "main" })).await.unwrap();
    assert_eq!(history["messages"][2]["content"][1]["id"], *block.get("id").unwrap());
    assert_eq!(world.asked().to_string().matches(GIF).count(), 2);
    // What is none, or too much, is refused, and says why.
    for (attachments, why) in [
        (json!([{ "content": "PHN2Zy8+", "fileName": "a.svg" }]), "no png, jpeg, gif or webp"),
        (json!([{ "content": { "a": 1 } }]), "base64 text"),
        (json!([{ "content": "https://example.com/a.png" }]), "no base64"),
        (json!(vec![json!({ "content": GIF }); 9]), "at most 8"),
    ] {
        let mut asked = message("look", "r3");
        asked["attachments"] = attachments;
        let error = client.call("chat.send", asked).await.unwrap_err();
        assert!(error["message"].as_str().unwrap().contains(why), "{error}");
    }
    // And goes with its conversation.
    client
        .call("chat.send", {
            let mut asked = message("", "d1");
            asked["sessionKey"] = json!("agent:main:dashboard:1");
            asked["attachments"] = json!([{ "content": GIF }]);
            asked
        })
        .await
        .unwrap();
    client.chat("final").await;
    let key = "agent:main:dashboard:1";
    let session = world.store().session(key).unwrap().unwrap();
    let kept = world.store().messages(&session.id, 10, 0).unwrap()[0].body["content"][0]["id"].clone();
    assert!(world.store().image(key, kept.as_str().unwrap()).unwrap().is_some());
    client.call("sessions.delete", json!({ "key": key })).await.unwrap();
    assert!(world.store().image(key, kept.as_str().unwrap()).unwrap().is_none());
}

#[tokio::test]
async fn an_image_of_a_file_is_seen_in_the_next_request() {
    let view = |path: &str| ("view_image", json!({ "path": path }));
    let world = World::new(vec![
        Line::Calls(vec![view("a.gif"), view("b.txt"), view("https://example.com/a.png"), view("none")]),
        Line::Says("a dot"),
    ])
    .await;
    let workspace = world.dir.path().join("workspace");
    std::fs::write(workspace.join("a.gif"), b"GIF89a").unwrap();
    std::fs::write(workspace.join("b.txt"), "text").unwrap();
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("look", "r1")).await.unwrap();
    client.chat("final").await;
    let asked = world.asked();
    let messages = asked["messages"].as_array().unwrap();
    let roles: Vec<_> = messages.iter().map(|it| it["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "tool", "tool", "tool", "user"]);
    assert_eq!(messages[7]["content"][1], json!({ "type": "image_url", "image_url": { "url": url() } }));
    for (number, why) in
        [(3, "image/gif, 6 bytes"), (4, "no png"), (5, "nothing is fetched"), (6, "cannot read")]
    {
        assert!(messages[number]["content"].as_str().unwrap().contains(why), "{}", messages[number]);
    }
}

#[tokio::test]
async fn both_apis_take_images_and_fetch_none() {
    let world = World::new(vec![Line::Says("a dot"), Line::Says("a dot")]).await;
    let chat = |url: Value| {
        let content = json!([{ "type": "text", "text": "what?" }, { "type": "image_url", "image_url": { "url": url } }]);
        json!({ "messages": [{ "role": "user", "content": content }] }).to_string()
    };
    let respond = |url: Value| {
        let content = json!([{ "type": "input_image", "image_url": url }]);
        json!({ "input": [{ "role": "user", "content": content }] }).to_string()
    };
    for (path, body, bad) in [
        ("/v1/chat/completions", chat(url()), chat(json!("http://169.254.169.254/a.png"))),
        ("/v1/responses", respond(url()), respond(json!("file:///etc/passwd"))),
    ] {
        let head = format!("POST {path} HTTP/1.1\r\n{WHO}");
        let (status, said) = ask(world.address, &head, &body).await;
        assert_eq!(status, 200, "{said}");
        assert!(last(&world).to_string().contains(GIF));
        let (status, said) = ask(world.address, &head, &bad).await;
        assert!(status == 400 && said.contains("nothing is fetched"), "{said}");
    }
    assert_eq!(world.count(), 2);
}
