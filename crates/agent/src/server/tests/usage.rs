//! What was used, over the wire.

use super::*;

#[tokio::test]
async fn tokens_are_counted_by_day_session_and_model_and_costs_are_said_to_be_missing() {
    let world = World::new(vec![Line::Says("one"), Line::Says("two")]).await;
    let mut client = world.client(ALL).await;
    for id in ["r1", "r2"] {
        client.call("chat.send", message("hi", id)).await.unwrap();
        client.chat("final").await;
    }
    let cost = client.call("usage.cost", json!({ "days": 7 })).await.unwrap();
    let totals = &cost["totals"];
    assert_eq!(
        (&totals["input"], &totals["output"], &totals["totalTokens"]),
        (&json!(14), &json!(6), &json!(20))
    );
    assert_eq!((&totals["totalCost"], &totals["missingCostEntries"]), (&json!(0), &json!(2)));
    assert_eq!((&cost["days"], &cost["daily"][0]["date"]), (&json!(7), &json!("2026-11-22")));
    // In another place it is another day.
    let west = json!({ "days": 1, "mode": "specific", "utcOffset": "UTC-7" });
    assert_eq!(client.call("usage.cost", west).await.unwrap()["daily"][0]["date"], "2026-11-21");
    let past = json!({ "startDate": "2026-11-20", "endDate": "2026-11-21" });
    assert_eq!(client.call("usage.cost", past.clone()).await.unwrap()["totals"]["totalTokens"], 0);

    let sessions = client.call("sessions.usage", json!({ "range": "30d" })).await.unwrap();
    let row = &sessions["sessions"][0];
    assert_eq!((&row["key"], &row["usage"]["totalTokens"]), (&json!("agent:main:main"), &json!(20)));
    assert_eq!(row["usage"]["modelUsage"][0]["model"], "double");
    assert_eq!(sessions["aggregates"]["daily"][0]["tokens"], 20);
    assert_eq!(client.call("sessions.usage", past).await.unwrap()["sessions"], json!([]));
    let error =
        client.call("usage.cost", json!({ "startDate": "2026-02-30", "endDate": "2026-03-01" })).await;
    assert!(error.unwrap_err()["message"].as_str().unwrap().contains("startDate"));
}
