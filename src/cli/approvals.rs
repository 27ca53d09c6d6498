//! `approvals`: what cells ask for, and the answers.
//!
//! What a cell wrote was made visible by its warden; here it is laid out for a person, in blocks that fit the
//! terminal, with the command that answers.

use super::{
    Client, Failure,
    commands::{Done, lines, list, query, say},
    flags::{Approvals, Span, Webhook},
    other,
    print::{self, moment},
};
use cofferdam_base::Millis;
use cofferdam_control::api::types;
use http::Method;

/// Does one command.
pub(super) async fn run(command: Approvals, client: &Client, json: bool) -> Done {
    match command {
        Approvals::List { tenant, all } => {
            let mut path = format!("approvals?all={all}");
            if let Some(tenant) = tenant {
                path += "&tenant=";
                path += tenant.as_str();
            }
            let found: types::Approvals = client.fetch(&path).await?;
            let head = ["ID", "TENANT", "STATE", "COUNT", "ASKED", "WHAT", "WHY", "ANSWER"];
            list(json, &found, &head, found.approvals.iter().map(row).collect(), "nothing waits")
        }
        Approvals::Watch { tenant } => {
            let path = format!("approvals/watch{}", query(tenant.as_ref()));
            lines(client, &path, |line| {
                if json {
                    return Ok(print::line(line)?);
                }
                let row: types::Approval = serde_json::from_str(line).map_err(Failure::could_not)?;
                Ok(print::line(&block(&row, print::width()))?)
            })
            .await
        }
        Approvals::Approve { id, span, reason } => {
            let Span { for_seconds, cell, always, once: _ } = span;
            let span = match (for_seconds, cell, always) {
                (Some(seconds), ..) => types::Span::ForSeconds(seconds),
                (None, true, _) => types::Span::Cell,
                (None, false, true) => types::Span::Always,
                (None, false, false) => types::Span::Once,
            };
            let path = format!("approvals/{id}/approve");
            let yes = types::Approve { span, reason, shown: None };
            let row: types::Approval = client.call(Method::POST, &path, Some(&yes)).await?;
            let once = row.request.as_ref().filter(|_| row.span.as_deref() == Some("once"));
            let what = once.map_or_else(|| row.destination.to_string(), ToString::to_string);
            say(json, &row, &format!("{} may reach {what}", row.tenant))
        }
        Approvals::Revoke { id } => {
            let path = format!("approvals/{id}/revoke");
            let row: types::Approval = client.call(Method::POST, &path, None::<&()>).await?;
            say(json, &row, &format!("{} may not reach {} any more", row.tenant, row.destination))
        }
        Approvals::Webhook(command) => webhook(command, client, json).await,
        Approvals::Other(words) => Err(other("approvals", &words)),
        Approvals::Deny { id, reason } => {
            let path = format!("approvals/{id}/deny");
            let no = types::DenyRequest { reason, shown: None };
            let row: types::Approval = client.call(Method::POST, &path, Some(&no)).await?;
            say(json, &row, &format!("{} may not reach {}", row.tenant, row.destination))
        }
    }
}

fn what(row: &types::Approval) -> String {
    row.request.as_ref().map_or_else(|| row.destination.to_string(), ToString::to_string)
}

fn row(row: &types::Approval) -> Vec<String> {
    let answer = match (row.approver.as_str(), row.answer.as_str()) {
        ("", _) => String::new(),
        (by, "") => by.to_owned(),
        (by, words) => format!("{by}: {words}"),
    };
    vec![
        row.id.to_string(),
        row.tenant.to_string(),
        row.state.clone(),
        row.count.to_string(),
        moment(row.asked),
        what(row),
        row.why.clone(),
        answer,
    ]
}

/// The time of a day, to the second.
fn clock(at: Millis) -> String {
    moment(at).split(' ').nth(1).unwrap_or_default().to_owned()
}

/// One approval for a terminal that is so many columns wide.
fn block(row: &types::Approval, width: usize) -> String {
    let times = if row.count > 1 { format!(", {} times", row.count) } else { String::new() };
    let until = row.until.map(|until| format!(", until {}", clock(until))).unwrap_or_default();
    let mut text =
        format!("#{} {} {} since {}{times}{until}", row.id, row.tenant, row.state, clock(row.asked));
    let open = matches!(row.state.as_str(), "waiting" | "hold_ended");
    let mut rest = vec![what(row)];
    if row.request.is_some() {
        rest.push(format!("to {}; {}, policy revision {}", row.destination, row.why, row.revision));
    } else {
        rest.push(format!("{}, policy revision {}", row.why, row.revision));
    }
    if !row.approver.is_empty() {
        let words = if row.answer.is_empty() { String::new() } else { format!(": {}", row.answer) };
        rest.push(format!("{} by {}{words}", row.span.as_deref().unwrap_or("answered"), row.approver));
    }
    if open {
        rest.push(format!("cofferdam approvals approve {0} | deny {0} --reason WHY", row.id));
    }
    for line in rest {
        text += &wrapped(&line, width);
    }
    text
}

/// A line, indented and broken where it would be too long; nothing of it is left out.
fn wrapped(line: &str, width: usize) -> String {
    let room = width.saturating_sub(4).max(20);
    let mut out = String::new();
    let characters: Vec<char> = line.chars().collect();
    let mut rest = &characters[..];
    while !rest.is_empty() {
        let cut = if rest.len() <= room {
            rest.len()
        } else {
            rest[..=room].iter().rposition(|c| *c == ' ').filter(|at| *at > room / 2).unwrap_or(room)
        };
        let (now, later) = rest.split_at(cut);
        out += "\n    ";
        out.extend(now);
        rest = later.strip_prefix(&[' ']).unwrap_or(later);
    }
    out
}

async fn webhook(command: Webhook, client: &Client, json: bool) -> Done {
    match command {
        Webhook::Set { tenant, url, secret } => {
            let new = types::Webhook { url, secret };
            let path = format!("tenants/{tenant}/webhook");
            let set: types::WebhookSet = client.call(Method::PUT, &path, Some(&new)).await?;
            say(json, &set, &format!("what {tenant}'s cell asks is posted to {}", new.url))
        }
        Webhook::Show { tenant } => {
            let set: types::WebhookSet = client.fetch(&format!("tenants/{tenant}/webhook")).await?;
            let text = match &set.webhook {
                None => format!("{tenant} has no webhook"),
                Some(it) => {
                    let last = if set.last_error.is_empty() { "" } else { ", last: " };
                    format!(
                        "{} signed with {}: {} to be posted{last}{}",
                        it.url, it.secret, set.waiting, set.last_error
                    )
                }
            };
            say(json, &set, &text)
        }
        Webhook::Remove { tenant } => {
            let path = format!("tenants/{tenant}/webhook");
            let set: types::WebhookSet = client.call(Method::DELETE, &path, None::<&()>).await?;
            say(json, &set, &format!("{tenant} has no webhook"))
        }
        Webhook::Other(words) => Err(other("approvals webhook", &words)),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use cofferdam_base::{Destination, Digest, Host, Protocol, TenantId, ipc::asked::RequestShown};

    fn approval() -> types::Approval {
        types::Approval {
            id: 7,
            tenant: TenantId::try_from("acme").unwrap(),
            destination: Destination {
                host: Host::Name("unknown.example.com".parse().unwrap()),
                port: 80.try_into().unwrap(),
                protocol: Protocol::Http,
            },
            request: Some(RequestShown {
                method: "POST".into(),
                url: "http://unknown.example.com/a/path/that/is/rather/long?with=a&query=of&its=own".into(),
                tool: None,
                arguments: None,
                size: Some(1204),
                whole: None,
            }),
            count: 3,
            why: "default".into(),
            revision: 2,
            state: "waiting".into(),
            asked: Millis(1_795_530_309_000),
            until: Some(Millis(1_795_531_209_000)),
            span: None,
            answer: String::new(),
            approver: String::new(),
            shown: Digest::from_bytes([0; 32]),
        }
    }

    #[test]
    fn a_question_fits_eighty_columns_and_names_the_command_that_answers_it() {
        let text = block(&approval(), 80);
        assert_eq!(
            text,
            "#7 acme waiting since 14:25:09Z, 3 times, until 14:40:09Z
    POST http://unknown.example.com/a/path/that/is/rather/long?with=a&query=of&i
    ts=own (1204 bytes)
    to http://unknown.example.com:80; default, policy revision 2
    cofferdam approvals approve 7 | deny 7 --reason WHY"
        );
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    }

    #[test]
    fn an_answer_says_who_gave_it_and_why() {
        let done = types::Approval {
            state: "denied".into(),
            approver: "ann".into(),
            answer: "not on a Tuesday".into(),
            request: None,
            until: None,
            ..approval()
        };
        assert_eq!(
            block(&done, 80),
            "#7 acme denied since 14:25:09Z, 3 times
    http://unknown.example.com:80
    default, policy revision 2
    answered by ann: not on a Tuesday"
        );
    }
}
