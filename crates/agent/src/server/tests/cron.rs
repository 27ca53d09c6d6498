//! Jobs and heartbeats, under a clock that the test moves.

use super::*;
use crate::store::{CronRun, Message as Said, Role, Run, RunState, Store};
use std::sync::atomic::{AtomicU64, Ordering};

/// The time at which worlds begin; that of [`At`].
pub(super) const NOW: u64 = 1_795_330_345_458;
/// A moment in some days.
pub(super) const LATER: u64 = NOW + 300_000_000;

pub(super) fn configure(dir: &tempfile::TempDir, config: &Value) {
    std::fs::create_dir_all(dir.path().join("state")).unwrap();
    std::fs::write(dir.path().join("state/config.json"), config.to_string()).unwrap();
}

pub(super) fn reminder(text: &str, at: u64) -> Value {
    json!({
        "name": text, "schedule": { "kind": "at", "at": at.to_string() }, "sessionTarget": "main", "wakeMode": "now",
        "payload": { "kind": "systemEvent", "text": text }, "enabled": true,
    })
}

fn turn(name: &str, schedule: Value) -> Value {
    json!({
        "name": name, "schedule": schedule, "sessionTarget": "isolated", "wakeMode": "now",
        "payload": { "kind": "agentTurn", "message": format!("do {name}") },
        "delivery": { "mode": "announce", "channel": "last" },
    })
}

/// A clock that is set by hand.
#[derive(Clone)]
pub(super) struct Hand(Arc<AtomicU64>);

impl Clock for Hand {
    fn now(&self) -> Millis {
        Millis(self.0.load(Ordering::Relaxed))
    }
}

impl Hand {
    pub(super) fn new() -> Self {
        Self(Arc::new(AtomicU64::new(NOW)))
    }

    pub(super) fn forward(&self, by: u64) {
        self.0.fetch_add(by, Ordering::Relaxed);
    }
}

async fn with(config: Value, lines: Vec<Line>) -> (World, Hand) {
    let (dir, hand) = (tempfile::tempdir().unwrap(), Hand::new());
    configure(&dir, &config);
    (World::at(dir, lines, hand.clone()).await, hand)
}

/// Kills the gateway and begins another on what it left.
async fn again(mut world: World, hand: &Hand, lines: Vec<Line>, between: impl FnOnce(&Store)) -> World {
    let dir = std::mem::replace(&mut world.dir, tempfile::tempdir().unwrap());
    for task in world.tasks.drain(..) {
        task.abort();
        let _ = task.await;
    }
    between(&Store::open(&dir.path().join("state/agent.db")).unwrap());
    World::at(dir, lines, hand.clone()).await
}

fn on() -> Value {
    json!({ "cron": { "enabled": true } })
}

impl World {
    fn asked_times(&self) -> usize {
        self.script.asked.lock().unwrap().len()
    }
}

impl Socket {
    /// The next `cron` event of this action.
    async fn cron(&mut self, action: &str) -> Value {
        loop {
            let (name, payload) = self.event().await;
            if name == "cron" && payload["action"] == action {
                return payload;
            }
        }
    }

    pub(super) async fn add(&mut self, job: Value) -> String {
        let job = self.call("cron.add", job).await.unwrap();
        job["id"].as_str().unwrap().to_owned()
    }

    async fn runs(&mut self) -> Vec<Value> {
        let runs = self.call("cron.runs", json!({ "sortDir": "asc" })).await.unwrap();
        runs["entries"].as_array().unwrap().clone()
    }

    /// Lets the timer look at the clock again.
    pub(super) async fn look(&mut self, id: &str) {
        self.call("cron.update", json!({ "id": id, "patch": { "description": "looked at" } })).await.unwrap();
    }

    async fn texts(&mut self, key: &str) -> Vec<String> {
        let history = self.call("chat.history", json!({ "sessionKey": key })).await.unwrap();
        let text = |message: &Value| message["content"][0]["text"].as_str().unwrap_or_default().to_owned();
        history["messages"].as_array().unwrap().iter().map(text).collect()
    }
}

#[tokio::test]
async fn a_reminder_comes_once_its_time_has_come_and_is_forgotten() {
    let (world, hand) = with(on(), vec![Line::Says("Your tea is ready.")]).await;
    let mut client = world.client(ALL).await;
    let id = client.add(reminder("tea", NOW + 50)).await;
    let status = client.call("cron.status", json!({})).await.unwrap();
    assert_eq!(
        (&status["enabled"], &status["jobs"], &status["nextWakeAtMs"]),
        (&json!(true), &json!(1), &json!(NOW + 50))
    );
    assert_eq!(client.cron("added").await["jobId"], *id);
    assert_eq!(world.asked_times(), 0, "its time has not come");
    hand.forward(50);
    assert_eq!(client.cron("started").await["jobId"], *id);
    let finished = client.cron("finished").await;
    assert_eq!((&finished["status"], &finished["summary"]), (&json!("ok"), &json!("Your tea is ready.")));
    assert_eq!(finished["runId"], format!("cron:{id}:{}", NOW + 50));
    assert_eq!(client.cron("removed").await["jobId"], *id);
    assert_eq!(client.call("cron.list", json!({ "includeDisabled": true })).await.unwrap()["total"], 0);
    let texts = client.texts("main").await;
    assert!(texts[0].contains("tea") && texts[1] == "Your tea is ready.", "{texts:?}");
    assert_eq!(client.runs().await.len(), 1);
    let gone = client.call("cron.get", json!({ "id": id })).await.unwrap_err();
    assert_eq!(gone["details"]["code"], "CRON_JOB_NOT_FOUND");
}

#[tokio::test]
async fn a_turn_of_its_own_begins_anew_each_time_and_is_announced() {
    let lines = vec![Line::Says("one"), Line::Says("NO_REPLY"), Line::Refuses(400), Line::Says("four")];
    let (world, hand) = with(on(), lines).await;
    let mut client = world.client(ALL).await;
    let id = client.add(turn("look", json!({ "kind": "every", "everyMs": 60_000 }))).await;
    let own = format!("agent:main:cron:{id}");
    for (number, (status, delivery)) in
        [("ok", "delivered"), ("ok", "not-requested"), ("error", "not-requested"), ("ok", "delivered")]
            .into_iter()
            .enumerate()
    {
        hand.forward(60_000);
        client.look(&id).await;
        let finished = client.cron("finished").await;
        assert_eq!(
            (&finished["status"], &finished["deliveryStatus"]),
            (&json!(status), &json!(delivery)),
            "{number}"
        );
        assert_eq!(finished["sessionKey"], *own);
        assert_eq!(finished["nextRunAtMs"], NOW + 60_000 * (number as u64 + 2));
        assert!(client.texts(&own).await[0].ends_with("do look"), "nothing of the run before");
    }
    assert_eq!(client.texts("main").await, ["one", "four"]);
    let statuses: Vec<Value> = client.runs().await.iter().map(|run| run["status"].clone()).collect();
    assert_eq!(statuses, ["ok", "ok", "error", "ok"]);
    let failed = client.call("cron.runs", json!({ "id": id, "status": "error" })).await.unwrap();
    assert_eq!(failed["total"], 1);
    assert!(failed["entries"][0]["error"].as_str().unwrap().contains("not now"), "{failed}");
}

#[tokio::test]
async fn what_a_turn_of_its_own_left_behind_is_kept_for_a_day_unless_the_configuration_says_otherwise() {
    const HALF: u64 = 13 * 3_600_000;
    for (retention, left) in [(json!("24h"), [0, 2, 2]), (json!(false), [2, 2, 2])] {
        let config = json!({ "cron": { "enabled": true, "sessionRetention": retention } });
        let (world, hand) = with(config, ["one", "two", "three"].map(Line::Says).into()).await;
        let mut client = world.client(ALL).await;
        let id = client.add(turn("look", json!({ "kind": "every", "everyMs": HALF }))).await;
        let mut transcripts = Vec::new();
        for _ in 0..3 {
            hand.forward(HALF);
            client.look(&id).await;
            transcripts.push(client.cron("finished").await["sessionId"].as_str().unwrap().to_owned());
        }
        let store = world.store();
        let counts: Vec<u64> = transcripts.iter().map(|id| store.count(id).unwrap()).collect();
        assert_eq!(counts, left, "{retention}");
        assert_eq!(client.texts("main").await, ["one", "two", "three"], "what was announced stays");
    }
}

#[tokio::test]
async fn what_was_due_while_nobody_was_there_runs_once() {
    let (world, hand) = with(on(), Vec::new()).await;
    let mut client = world.client(ALL).await;
    client.add(reminder("tea", NOW + 1000)).await;
    client.add(turn("look", json!({ "kind": "every", "everyMs": 60_000 }))).await;
    hand.forward(3_600_000);
    let world = again(world, &hand, vec![Line::Says("tea"), Line::Says("looked")], |_| {}).await;
    let mut client = world.client(ALL).await;
    while client.runs().await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    // And not again.
    let world = again(world, &hand, Vec::new(), |_| {}).await;
    let mut client = world.client(ALL).await;
    let id = client.add(reminder("the end", NOW + 3_600_000)).await;
    while client.runs().await.last().unwrap()["jobId"] != *id {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!((client.runs().await.len(), world.asked_times()), (3, 1));
}

#[tokio::test]
async fn missed_times_are_left_out_if_the_configuration_says_so_and_reminders_are_not() {
    let config = json!({ "cron": { "enabled": true, "skipMissedJobs": true } });
    let (world, hand) = with(config, Vec::new()).await;
    let mut client = world.client(ALL).await;
    let every = client.add(turn("look", json!({ "kind": "every", "everyMs": 60_000 }))).await;
    let tea = client.add(reminder("tea", NOW + 1000)).await;
    hand.forward(90_000);
    let world = again(world, &hand, Vec::new(), |_| {}).await;
    let mut client = world.client(ALL).await;
    while client.runs().await.is_empty() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(client.runs().await[0]["jobId"], *tea);
    let job = client.call("cron.get", json!({ "id": every })).await.unwrap();
    assert_eq!((&job["nextRunAtMs"], job.get("lastRunStatus")), (&json!(NOW + 120_000), None));
}

/// Whatever is killed between the claim and the end of a run: it runs once, or it is told as cut off.
#[tokio::test]
async fn a_claim_that_outlives_its_gateway_begins_one_run_at_most() {
    let (world, hand) = with(on(), Vec::new()).await;
    let mut client = world.client(ALL).await;
    let (one, two) = (client.add(reminder("one", LATER)).await, client.add(reminder("two", LATER)).await);
    let run = |job: &str| CronRun { id: format!("cron:{job}:1"), job: job.to_owned(), started_at: NOW };
    let claim = |store: &Store, id: &str| {
        let mut job = store.job(id).unwrap().unwrap();
        job.state.next_run_at_ms = None;
        assert!(store.claim(&job, &run(id)).unwrap());
        assert!(!store.claim(&job, &run(id)).unwrap(), "once");
    };
    let world = again(world, &hand, vec![Line::Says("said")], |store| {
        // The first was killed before its run began, the second in the midst of it.
        claim(store, &one);
        claim(store, &two);
        let session = store::Session::new("agent:main:main", "s".to_owned(), NOW);
        let id = run(&two).id;
        let message = Said::text(&session, Some(&id), Role::User, "two", NOW);
        let began = Run {
            id,
            session_key: session.key.clone(),
            state: RunState::Running,
            started_at: NOW,
            ended_at: None,
            said: None,
            error: None,
        };
        store.begin(&session, &message, &began).unwrap();
    })
    .await;
    let mut client = world.client(ALL).await;
    while client.runs().await.len() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let runs = client.runs().await;
    let of = |id: &str| runs.iter().find(|run| run["jobId"] == id).unwrap();
    assert_eq!((&of(&one)["status"], &of(&one)["summary"]), (&json!("ok"), &json!("said")));
    assert_eq!(of(&two)["error"], "the gateway ended before the run did");
    assert_eq!(world.asked_times(), 1);
    let kept = client.call("cron.list", json!({ "includeDisabled": true })).await.unwrap();
    assert_eq!(
        (&kept["total"], &kept["jobs"][0]["id"], &kept["jobs"][0]["enabled"]),
        (&json!(1), &json!(two), &json!(false))
    );
    let world = again(world, &hand, Vec::new(), |_| {}).await;
    let mut client = world.client(ALL).await;
    client.call("health", json!({})).await.unwrap();
    assert_eq!((client.runs().await.len(), world.asked_times()), (2, 0));
}

#[tokio::test]
async fn jobs_are_off_unless_they_are_turned_on_and_quotas_say_their_keys() {
    let (world, _) = with(json!({}), Vec::new()).await;
    let mut client = world.client(ALL).await;
    let off = client.call("cron.add", reminder("tea", LATER)).await.unwrap_err();
    assert!(off["message"].as_str().unwrap().contains("`cron.enabled`"), "{off}");
    assert_eq!(client.call("cron.status", json!({})).await.unwrap()["enabled"], false);
    let limits = json!({ "jobs": 2, "runsPerHour": 2 });
    let (world, hand) = with(json!({ "cron": { "enabled": true, "limits": limits } }), Vec::new()).await;
    let mut client = world.client(ALL).await;
    let mut wrong = turn("look", json!({ "kind": "every", "everyMs": 1000 }));
    let mut refused = async |job: &Value| {
        let error = client.call("cron.add", job.clone()).await.unwrap_err();
        error["message"].as_str().unwrap().to_owned()
    };
    assert!(refused(&wrong).await.contains("cron.limits.shortestIntervalMs"));
    wrong["schedule"]["everyMs"] = json!(60_000);
    for (key, value, why) in [
        ("delivery", json!({ "mode": "webhook", "to": "https://a.example" }), "webhook"),
        ("delivery", json!({ "mode": "announce", "channel": "telegram" }), "delivery.to"),
        ("delivery", json!({ "mode": "announce", "channel": "telegram", "to": "1" }), "delivery.channel"),
        ("delivery", json!({ "mode": "announce", "to": "me" }), "`to`"),
        ("schedule", json!({ "kind": "on-exit", "command": "true" }), "on-exit"),
        ("payload", json!({ "kind": "command", "argv": ["id"] }), "command"),
        ("payload", json!({ "kind": "agentTurn", "message": "a", "toolsAllow": ["ls"] }), "toolsAllow"),
        ("trigger", json!({ "script": "1" }), "trigger"),
        ("declarationKey", json!("k"), "declarationKey"),
        ("agentId", json!("other"), "agentId"),
        ("sessionTarget", json!("main"), "sessionTarget"),
        ("sessionTarget", json!("session:agent:other:x"), "sessionTarget"),
        ("failureAlert", json!({ "after": 1 }), "failureAlert"),
    ] {
        let mut job = wrong.clone();
        job[key] = value;
        let said = refused(&job).await;
        assert!(said.contains(why), "{key}: {said}");
    }
    let one = client.add(reminder("one", LATER)).await;
    let two = client.add(reminder("two", NOW + 1000)).await;
    let many = client.call("cron.add", reminder("three", LATER)).await.unwrap_err();
    assert!(many["message"].as_str().unwrap().contains("`cron.limits.jobs`"), "{many}");
    for _ in 0..2 {
        let ran = client.call("cron.run", json!({ "id": one, "mode": "force" })).await.unwrap();
        assert_eq!(ran["enqueued"], true, "{ran}");
        assert_eq!(client.cron("finished").await["runId"], ran["runId"]);
    }
    let often = client.call("cron.run", json!({ "id": one })).await.unwrap_err();
    assert!(often["message"].as_str().unwrap().contains("`cron.limits.runsPerHour`"), "{often}");
    assert_eq!(
        client.call("cron.run", json!({ "id": one, "mode": "due" })).await.unwrap()["reason"],
        "not-due"
    );
    // What is due waits, too, and comes later.
    hand.forward(1000);
    client.look(&two).await;
    assert_eq!(client.runs().await.len(), 2);
    hand.forward(3_600_000);
    client.look(&two).await;
    assert_eq!(client.cron("finished").await["jobId"], *two);
}

#[tokio::test]
async fn so_many_run_at_once_and_no_job_twice() {
    let (one, two) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let lines = vec![Line::Holds("first", Arc::clone(&one)), Line::Holds("second", Arc::clone(&two))];
    let config = json!({ "cron": { "enabled": true, "limits": { "concurrentRuns": 1 } } });
    let (world, hand) = with(config, lines).await;
    let mut client = world.client(ALL).await;
    let first = client.add(turn("one", json!({ "kind": "every", "everyMs": 60_000 }))).await;
    let second = client.add(turn("two", json!({ "kind": "every", "everyMs": 61_000 }))).await;
    hand.forward(61_000);
    client.look(&first).await;
    assert_eq!(client.chat("delta").await["deltaText"], "first");
    let held = client.call("cron.run", json!({ "id": first })).await.unwrap();
    assert_eq!((&held["ran"], &held["reason"]), (&json!(false), &json!("already-running")));
    client.look(&second).await;
    assert_eq!(world.asked_times(), 1);
    one.notify_one();
    assert_eq!(client.cron("finished").await["jobId"], *first);
    assert_eq!(client.cron("started").await["jobId"], *second);
    two.notify_one();
    assert_eq!(client.cron("finished").await["jobId"], *second);
}

#[tokio::test]
async fn a_job_is_changed_field_by_field_and_by_whoever_saw_it_last() {
    let (world, _) = with(on(), Vec::new()).await;
    let mut client = world.client(ALL).await;
    let id =
        client.add(turn("look", json!({ "kind": "cron", "expr": "0 9 * * *", "tz": "Europe/Berlin" }))).await;
    let seen = client.call("cron.get", json!({ "id": id })).await.unwrap();
    assert_eq!(seen["nextRunAtMs"], 1_795_334_400_000_u64, "09:00 in Berlin");
    let patch = json!({ "payload": { "kind": "agentTurn", "thinking": "low" }, "displayName": "Look" });
    let asked = json!({ "id": id, "patch": patch, "expectedConfigRevision": seen["configRevision"] });
    let changed = client.call("cron.update", asked.clone()).await.unwrap();
    assert_eq!(changed["payload"], json!({ "kind": "agentTurn", "message": "do look", "thinking": "low" }));
    assert!(client.call("cron.update", asked).await.is_err(), "it changed since");
    let patch = json!({ "displayName": null, "enabled": false, "payload": { "kind": "agentTurn", "thinking": null } });
    let changed = client.call("cron.update", json!({ "id": id, "patch": patch })).await.unwrap();
    assert_eq!((changed.get("displayName"), changed.get("nextRunAtMs")), (None, None));
    assert_eq!(changed["payload"], json!({ "kind": "agentTurn", "message": "do look" }));
    let listed = |listed: Value| listed["total"].clone();
    assert_eq!(listed(client.call("cron.list", json!({})).await.unwrap()), 0);
    let disabled = json!({ "enabled": "disabled", "query": "LOOK", "scheduleKind": "cron" });
    assert_eq!(listed(client.call("cron.list", disabled).await.unwrap()), 1);
    let patch = json!({ "state": { "nextRunAtMs": 1 } });
    let refused = client.call("cron.update", json!({ "id": id, "patch": patch })).await.unwrap_err();
    assert!(refused["message"].as_str().unwrap().contains("state"), "{refused}");
    let reader = &mut world.client("operator.read,operator.write").await;
    for method in ["cron.remove", "cron.run"] {
        assert_eq!(reader.call(method, json!({ "id": id })).await.unwrap_err()["code"], "FORBIDDEN");
    }
    assert_eq!(client.call("cron.remove", json!({ "id": id })).await.unwrap()["removed"], true);
}

#[tokio::test]
async fn the_agent_schedules_a_reminder_by_itself() {
    let job = json!({ "schedule": { "kind": "in", "seconds": 60 }, "payload": { "kind": "systemEvent", "text": "tea" } });
    let lines = vec![
        Line::Calls(vec![("cron", json!({ "action": "add", "job": job }))]),
        Line::Says("I shall."),
        Line::Says("Tea!"),
    ];
    let (world, hand) = with(on(), lines).await;
    let mut client = world.client(ALL).await;
    client.call("chat.send", message("remind me of my tea", "r1")).await.unwrap();
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "I shall.");
    let tools = world.asked()["tools"].to_string();
    assert!(tools.contains("\"cron\""), "{tools}");
    let listed = client.call("cron.list", json!({})).await.unwrap();
    assert_eq!(listed["jobs"][0]["nextRunAtMs"], NOW + 60_000, "{listed}");
    hand.forward(60_000);
    client.look(listed["jobs"][0]["id"].as_str().unwrap()).await;
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "Tea!");
    // Not for a client that may not make jobs by itself.
    let invoked = json!({ "name": "cron", "args": { "action": "list" } });
    assert_eq!(client.call("tools.invoke", invoked).await.unwrap()["ok"], false);
}

#[tokio::test]
async fn an_event_waits_for_the_next_turn_or_begins_one() {
    let (world, _) = with(on(), vec![Line::Says("hello"), Line::Says("heard")]).await;
    let mut client = world.client(ALL).await;
    let later = json!({ "mode": "next-heartbeat", "text": "the door is open" });
    assert_eq!(client.call("wake", later.clone()).await.unwrap(), json!({ "ok": true }));
    let mut job = reminder("the post is here", NOW);
    job["wakeMode"] = json!("next-heartbeat");
    client.add(job).await;
    assert_eq!(client.cron("finished").await["status"], "ok");
    assert_eq!(world.asked_times(), 0);
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    client.chat("final").await;
    let asked = world.asked()["messages"].to_string();
    assert!(asked.contains("the door is open") && asked.contains("the post is here"), "{asked}");
    client.call("wake", json!({ "mode": "now", "text": "the bell" })).await.unwrap();
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "heard");
    for number in 0..33 {
        let kept = client.call("wake", later.clone()).await;
        assert_eq!(kept.is_ok(), number < 32, "{number}");
    }
}

fn beats(more: Value) -> Value {
    let mut heartbeat = json!({ "every": "30m" });
    heartbeat.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({ "agents": { "defaults": { "heartbeat": heartbeat } }, "cron": { "enabled": true } })
}

impl Socket {
    pub(super) async fn heartbeat(&mut self) -> Value {
        loop {
            let (name, payload) = self.event().await;
            assert!(
                name != "chat" || payload["state"] == "final",
                "a heartbeat is not shown as it goes: {payload}"
            );
            if name == "heartbeat" {
                return payload;
            }
        }
    }
}

#[tokio::test]
async fn a_heartbeat_is_heard_of_only_if_it_has_something_to_say() {
    let lines = vec![Line::Says("HEARTBEAT_OK"), Line::Says("The mail is here."), Line::Refuses(400)];
    let (world, hand) = with(beats(json!({})), lines).await;
    std::fs::write(world.dir.path().join("workspace/HEARTBEAT.md"), "- look at the mail\n").unwrap();
    let mut client = world.client(ALL).await;
    // It wakes the timer.
    let id = client.add(reminder("far away", LATER)).await;
    assert_eq!(client.call("last-heartbeat", json!({})).await.unwrap(), Value::Null);
    let health = client.call("health", json!({})).await.unwrap();
    assert_eq!(
        (&health["heartbeatSeconds"], &health["agents"][0]["heartbeat"]["enabled"]),
        (&json!(1800), &json!(true))
    );
    hand.forward(1_800_000);
    client.look(&id).await;
    let quiet = client.heartbeat().await;
    assert_eq!((&quiet["status"], &quiet["silent"]), (&json!("ok-token"), &json!(true)));
    let asked = world.asked()["messages"].to_string();
    assert!(asked.contains("look at the mail"), "{asked}");
    assert_eq!(client.texts("main").await, [""; 0], "nothing is left of it");
    hand.forward(1_800_000);
    client.look(&id).await;
    assert_eq!(client.chat("final").await["message"]["content"][0]["text"], "The mail is here.");
    assert_eq!(client.heartbeat().await["preview"], "The mail is here.");
    assert_eq!(client.texts("main").await[1], "The mail is here.");
    hand.forward(1_800_000);
    client.look(&id).await;
    let failed = client.heartbeat().await;
    assert_eq!(failed["status"], "failed");
    assert_eq!(client.call("last-heartbeat", json!({})).await.unwrap(), failed);
}

#[tokio::test]
async fn a_heartbeat_is_left_out_when_there_is_no_reason_for_one() {
    let go = Arc::new(Notify::new());
    let hours = json!({ "activeHours": { "start": "06:00", "end": "08:00" } });
    let (world, hand) = with(beats(hours), vec![Line::Holds("busy", Arc::clone(&go))]).await;
    let file = world.dir.path().join("workspace/HEARTBEAT.md");
    std::fs::write(&file, "# Nothing\n- [ ]\n").unwrap();
    let mut client = world.client(ALL).await;
    let id = client.add(reminder("far away", LATER)).await;
    // It is 06:52 in the beginning.
    let reason = async |client: &mut Socket| {
        hand.forward(1_800_000);
        client.look(&id).await;
        let skipped = client.heartbeat().await;
        assert_eq!(skipped["status"], "skipped");
        skipped["reason"].as_str().unwrap().to_owned()
    };
    assert_eq!(reason(&mut client).await, "empty-heartbeat-file");
    client.call("set-heartbeats", json!({ "enabled": false })).await.unwrap();
    assert_eq!(reason(&mut client).await, "disabled");
    client.call("set-heartbeats", json!({ "enabled": true })).await.unwrap();
    assert_eq!(reason(&mut client).await, "quiet-hours");
    assert_eq!(world.asked_times(), 0);
    hand.forward(82_800_000 - 1_800_000);
    std::fs::write(&file, "look").unwrap();
    client.call("chat.send", message("hi", "r1")).await.unwrap();
    client.chat("delta").await;
    assert_eq!(reason(&mut client).await, "requests-in-flight");
    go.notify_one();
}

#[tokio::test]
async fn the_next_due_time_is_told_outside() {
    let (world, _) = with(beats(json!({})), Vec::new()).await;
    let ready = async || http::ask(world.address, "GET /ready HTTP/1.1\r\n", "").await.1;
    let due = async || serde_json::from_str::<Value>(&ready().await).unwrap()["nextDueAtMs"].clone();
    let mut client = world.client(ALL).await;
    while due().await != NOW + 1_800_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    client.add(reminder("tea", NOW + 600_000)).await;
    while due().await != NOW + 600_000 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
