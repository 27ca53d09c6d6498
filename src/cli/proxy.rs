//! `upstream-proxy`: the proxy through which the host dials, and its credentials.

use super::{
    Client,
    commands::{Done, OK, read_secret, say},
    flags::UpstreamProxy,
    other, print,
};
use cofferdam_control::api::types;
use http::Method;

const PATH: &str = "upstream-proxy";

/// Does one command.
pub(super) async fn run(command: UpstreamProxy, client: &Client, json: bool) -> Done {
    match command {
        UpstreamProxy::Set => {
            let body = types::ProxyCredentials { value: read_secret()? };
            let shown: types::UpstreamProxy = client.call(Method::PUT, PATH, Some(&body)).await?;
            say(json, &shown, "the credentials are set; every warden gets them")
        }
        UpstreamProxy::Rm => {
            let shown: types::UpstreamProxy = client.call(Method::DELETE, PATH, None::<&()>).await?;
            say(json, &shown, "the credentials are gone")
        }
        UpstreamProxy::Show => {
            let shown: types::UpstreamProxy = client.fetch(PATH).await?;
            if json {
                print::json(&shown)?;
                return Ok(OK);
            }
            print::line(&line(&shown))?;
            Ok(OK)
        }
        UpstreamProxy::Other(words) => Err(other(PATH, &words)),
    }
}

fn line(shown: &types::UpstreamProxy) -> String {
    let types::UpstreamProxy { url, no_proxy, resolves_names, credentials } = shown;
    let Some(url) = url else { return "no upstream proxy; wardens dial directly".to_owned() };
    let credentials = if *credentials { "with credentials" } else { "without credentials" };
    let names =
        if *resolves_names { "it resolves names, unchecked" } else { "names are resolved and checked here" };
    let direct = if no_proxy.is_empty() { "nothing".to_owned() } else { no_proxy.join(", ") };
    format!("{url} {credentials}; {names}; without it: {direct}")
}
