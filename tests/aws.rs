//! AWS signatures on a whole host with a real botocore: the cell signs with a placeholder, and what arrives is signed
//! with keys that it does not have, as botocore itself would have signed it.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, missing_docs)]

mod host;
mod world;

use host::Host;
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};
use world::{
    WEB,
    tls::{Asked, Authority, Server},
};

const BUCKET: &str = "acme.s3.eu-west-1.amazonaws.com";
const DYNAMO: &str = "dynamodb.eu-west-1.amazonaws.com";
const KEY_ID: &str = "AKIAIOSFODNN7EXAMPLE";
const KEY: &str = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY";
const POLICY: &str = "version: 2
default: deny
rules:
  - {allow: acme.s3.eu-west-1.amazonaws.com, protocol: https}
  - {allow: dynamodb.eu-west-1.amazonaws.com, protocol: https, path: /**}
";

/// Where botocore and what it needs are.
static BOTOCORE: LazyLock<PathBuf> = LazyLock::new(botocore);

/// Installs it, once for all tests and runs.
fn botocore() -> PathBuf {
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("botocore-1.43.11");
    if !place.join("botocore").exists() {
        let beside = place.with_extension("new");
        let output = Command::new("/usr/bin/python3")
            .args(["-m", "pip", "install", "-q", "--no-compile", "--target"])
            .arg(&beside)
            .arg("botocore==1.43.11")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        fs::rename(&beside, &place).unwrap();
    }
    place
}

fn hosted() -> (Host, Server) {
    let mut host = Host::prepare("");
    let authority = Authority::new();
    let roots = host.dir.join("roots.pem");
    fs::write(&roots, authority.pem()).unwrap();
    fs::set_permissions(&roots, fs::Permissions::from_mode(0o644)).unwrap();
    let file = host.dir.join("cofferdam.toml");
    let config = fs::read_to_string(&file).unwrap();
    let with = format!("[egress]\nextra_roots = {:?}\n", roots.to_str().unwrap());
    let bind = format!("binds = [{{ source = \"{}\", target = \"/opt/botocore\" }}, ", BOTOCORE.display());
    fs::write(&file, config.replace("[egress]\n", &with).replace("binds = [", &bind)).unwrap();
    let address = format!("{}:443", WEB[0]).parse().unwrap();
    let server = host.world.outside(|| Server::start(address, &authority, &[BUCKET, DYNAMO]));
    for name in [BUCKET, DYNAMO] {
        host.world.dns.answer(name, &WEB[..1]);
    }
    server.page("/", |asked| {
        let dynamo = asked.header("x-amz-target").is_some();
        let text = match asked.method.as_str() {
            _ if dynamo => "{\"TableNames\": []}",
            "GET" => "an object",
            _ => "",
        };
        (200, text.to_owned())
    });
    host.serve();
    host.create("acme");
    host.policy("acme", POLICY);
    (host, server)
}

fn set(host: &Host, name: &str, place: &str, scope: &str, more: &[&str], token: Option<&str>) {
    let arguments = [&["secret", "set", "acme", name, "--bind", place, "--aws", scope], more].concat();
    let mut value = json!({ "access_key_id": KEY_ID, "secret_access_key": KEY });
    if let Some(token) = token {
        value["session_token"] = token.into();
    }
    let output = host.feed(&arguments, &value.to_string());
    assert!(output.status.success(), "{output:?}");
}

/// What botocore signs of this request with the true keys.
fn verified(asked: &Asked, service: &str) -> String {
    let authorization = asked.header("authorization").unwrap();
    let names = authorization.split("SignedHeaders=").nth(1).unwrap().split(',').next().unwrap();
    let headers: Vec<(&str, &str)> =
        names.split(';').map(|name| (name, asked.header(name).unwrap())).collect();
    let host = asked.header("host").unwrap();
    let given = json!({
        "method": asked.method, "url": format!("https://{host}{}", asked.target), "headers": headers,
        "body": String::from_utf8_lossy(&asked.body), "service": service,
    });
    let program = "
import json, sys
from botocore.auth import SigV4Auth, S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
given = json.loads(sys.argv[1])
request = AWSRequest(given['method'], given['url'], headers=dict(given['headers']), data=given['body'].encode())
request.context['timestamp'] = request.headers['x-amz-date']
auth = (S3SigV4Auth if given['service'] == 's3' else SigV4Auth)(Credentials(sys.argv[2], sys.argv[3]), given['service'], 'eu-west-1')
text = auth.string_to_sign(request, auth.canonical_request(request))
print(auth.signature(text, request))
";
    let output = Command::new("/usr/bin/python3")
        .args(["-c", program, &given.to_string(), KEY_ID, KEY])
        .env("PYTHONPATH", BOTOCORE.as_path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Is it signed with the true keys, and is nothing in it of what the cell has?
fn is_signed(asked: &Asked, service: &str) {
    let authorization = asked.header("authorization").unwrap();
    let scope = format!("/eu-west-1/{service}/aws4_request");
    assert!(authorization.contains(&format!("Credential={KEY_ID}/")) && authorization.contains(&scope));
    let signature = authorization.split("Signature=").nth(1).unwrap();
    assert_eq!(signature, verified(asked, service), "{asked:?}");
    assert!(!format!("{asked:?}").contains("cofferdam_placeholder"), "{asked:?}");
}

fn client(host: &Host, program: &str) -> (bool, String) {
    let begin = "
import sys; sys.path.insert(0, '/opt/botocore')
import os, botocore.session, botocore.exceptions, urllib.request
from botocore.config import Config
session = botocore.session.get_session()
def s3(**more): return session.create_client('s3', region_name='eu-west-1', config=Config(retries={'max_attempts': 0}, **more))
def dynamo(region='eu-west-1'): return session.create_client('dynamodb', region_name=region, config=Config(retries={'max_attempts': 0}))
";
    let output = host.exec("acme", &["/usr/bin/python3", "-c", &format!("{begin}{program}")]);
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    (output.status.success(), said.into_owned())
}

#[test]
fn botocore_signs_with_a_placeholder_and_what_arrives_is_signed_with_the_keys() {
    let (host, server) = hosted();
    set(&host, "S3", BUCKET, "s3/eu-west-1", &["--env", "AWS_ACCESS_KEY_ID"], None);
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let seen = |count: usize| -> Vec<Asked> {
        let all = server.asked();
        all[all.len() - count..].to_vec()
    };
    for (program, count) in [
        ("print(s3().get_object(Bucket='acme', Key='a/b-c.txt')['Body'].read())", 1),
        ("s3().put_object(Bucket='acme', Key='a', Body=b'hello', Metadata={'one': 'two  three'})", 1),
        ("s3().head_bucket(Bucket='acme')", 1),
        // Signed in its query: what would be passed on is signed in its head.
        (
            "url = s3(signature_version='s3v4', s3={'addressing_style': 'virtual'}).generate_presigned_url('get_object', {'Bucket': 'acme', 'Key': 'signed'}); print(urllib.request.urlopen(url).read())",
            1,
        ),
    ] {
        let (ok, said) = client(&host, program);
        assert!(ok, "{program}: {said}");
        for asked in seen(count) {
            is_signed(&asked, "s3");
            assert!(!asked.target.contains("X-Amz-Signature"), "{asked:?}");
        }
    }
    let put = server.asked().into_iter().find(|asked| asked.method == "PUT").unwrap();
    assert!(String::from_utf8_lossy(&put.body).contains("hello"), "{put:?}");
    // A client that does not sign, and says by the placeholder that it wants to be.
    let output = host.exec(
        "acme",
        &["sh", "-c", &format!("curl -sS -H \"Authorization: $AWS_ACCESS_KEY_ID\" https://{BUCKET}/plain")],
    );
    assert_eq!(String::from_utf8_lossy(&output.stdout), "an object", "{output:?}");
    is_signed(&seen(1)[0], "s3");

    // Another service, region or host by the same placeholder is refused, and nothing of it arrives.
    let before = server.asked().len();
    for program in [
        "dynamo().list_tables()",
        "session.create_client('s3', region_name='us-east-1', endpoint_url='https://acme.s3.eu-west-1.amazonaws.com').list_buckets()",
        "session.create_client('sts', region_name='eu-west-1', endpoint_url='https://acme.s3.eu-west-1.amazonaws.com').get_caller_identity()",
    ] {
        let (ok, said) = client(&host, program);
        assert!(!ok, "{program}: {said}");
    }
    assert_eq!(server.asked().len(), before);
    let denied = host.cli(&["--json", "ledger", "tail", "-n", "1000", "--tenant", "acme"]);
    let denied = String::from_utf8(denied.stdout).unwrap();
    assert!(denied.contains("placeholder_elsewhere"), "{denied}");
    assert_eq!(host.places("acme", &[KEY, KEY_ID]), Vec::<String>::new());
}

#[test]
fn bodies_are_hashed_where_a_service_wants_it_and_keys_that_end_bring_their_token() {
    let (host, server) = hosted();
    let token = "IQoJb3JpZ2luX2VjEXAMPLETOKEN";
    set(&host, "DYNAMO", DYNAMO, "dynamodb/*", &["--env", "AWS_ACCESS_KEY_ID"], Some(token));
    host.json(&["tenant", "restart", "acme"]);
    host.ready("acme");
    let (ok, said) = client(&host, "print(dynamo().list_tables(Limit=3))");
    assert!(ok && said.contains("TableNames"), "{said}");
    let asked = server.asked().pop().unwrap();
    is_signed(&asked, "dynamodb");
    assert_eq!(asked.header("x-amz-security-token"), Some(token));
    let body: Value = serde_json::from_slice(&asked.body).unwrap();
    assert_eq!(body, json!({ "Limit": 3 }));
    // More than is hashed is refused with the reason.
    let long = "head -c 5000000 /dev/zero | curl -sS -H \"Authorization: AWS4-HMAC-SHA256 \
                Credential=$AWS_ACCESS_KEY_ID/20260101/eu-west-1/dynamodb/aws4_request, SignedHeaders=host, Signature=0\" \
                --data-binary @- https://dynamodb.eu-west-1.amazonaws.com/";
    let before = server.asked().len();
    let output = host.exec("acme", &["sh", "-c", long]);
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("up to 4 MiB"), "{output:?}");
    assert_eq!(server.asked().len(), before);
    assert_eq!(host.places("acme", &[token, KEY]), Vec::<String>::new());
    let wrong = ["secret", "set", "acme", "X", "--bind", DYNAMO, "--aws", "dynamodb/eu-west-1"];
    assert_eq!(host.feed(&wrong, "AKIA:secret").status.code(), Some(2));
}
