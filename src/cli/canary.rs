//! `cofferdam canary`: values that look like keys, and whose sending freezes the cell.

use super::{
    Client,
    commands::{Done, list, say},
    flags::Canary,
    print::moment,
};
use cofferdam_base::canary::CANARIES;
use cofferdam_control::api::types::{Canaries, CanaryRow, Empty, NewCanary};
use http::Method;

pub(super) async fn run(command: Canary, client: &Client, json: bool) -> Done {
    match command {
        Canary::Add { tenant, name, like, env, file } => {
            let path = format!("tenants/{tenant}/canaries/{name}");
            let new = NewCanary { like, env, file };
            let row: CanaryRow = client.call(Method::PUT, &path, Some(&new)).await?;
            let text = format!(
                "{} is planted from the next start on ({}): cofferdam tenant restart {tenant}",
                row.name,
                place(&row)
            );
            say(json, &row, &text)
        }
        Canary::List { tenant } => {
            let all: Canaries = client.fetch(&format!("tenants/{tenant}/canaries")).await?;
            let row = |row: &CanaryRow| {
                vec![row.name.to_string(), row.like.to_string(), place(row), moment(row.at)]
            };
            let head = ["NAME", "LIKE", "WHERE", "SET"];
            list(json, &all, &head, all.canaries.iter().map(row).collect(), "no canaries")
        }
        Canary::Rm { tenant, name } => {
            let path = format!("tenants/{tenant}/canaries/{name}");
            let empty: Empty = client.call(Method::DELETE, &path, None::<&()>).await?;
            say(json, &empty, &format!("{name} is looked for no more, and not planted again"))
        }
    }
}

fn place(row: &CanaryRow) -> String {
    let env = row.env.as_ref().map(|name| format!("env {name}"));
    let file = row.file.as_ref().map(|name| format!("file {CANARIES}/{name}"));
    env.into_iter().chain(file).collect::<Vec<_>>().join(", ")
}
