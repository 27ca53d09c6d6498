//! The vectors that AWS publishes: its test suite for Signature Version 4, and the examples of IAM's and S3's
//! documentation.
#![allow(clippy::unwrap_used)]

use super::*;

const EMPTY: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

fn signing(id: &str, service: &str) -> Signing {
    let keys = AwsValue {
        access_key_id: id.to_owned(),
        secret_access_key: if id == "AKIDEXAMPLE" {
            "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"
        } else {
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"
        }
        .to_owned(),
        session_token: None,
    };
    Signing {
        keys: Arc::new(keys),
        secret: "KEY".parse().unwrap(),
        service: service.to_owned(),
        region: "us-east-1".to_owned(),
    }
}

/// The signature of a request with these signed headers.
fn signature(signing: &Signing, at: &str, line: &str, headers: &[(&str, &str)], hash: &str) -> String {
    let (method, target) = line.split_once(' ').unwrap();
    let head = Request::builder().method(method).uri(target).body(()).unwrap();
    let mut signed: Vec<_> = headers.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
    signed.sort();
    let whole = signing.authorization(&head, &signed, hash, at).unwrap();
    whole.rsplit_once("Signature=").unwrap().1.to_owned()
}

#[test]
fn the_test_suite_of_aws_is_signed_as_it_says() {
    let at = "20150830T123600Z";
    let base = [("host", "example.amazonaws.com"), ("x-amz-date", at)];
    let form = [&base[..], &[("content-type", "application/x-www-form-urlencoded")]].concat();
    let sum = hex(digest(&SHA256, b"Param1=value1").as_ref());
    for (line, headers, hash, expected) in [
        // get-vanilla
        ("GET /", &base[..], EMPTY, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        // get-vanilla-empty-query-key
        (
            "GET /?Param1=value1",
            &base,
            EMPTY,
            "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb",
        ),
        // get-vanilla-query-order-key-case
        (
            "GET /?Param2=value2&Param1=value1",
            &base,
            EMPTY,
            "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500",
        ),
        // get-unreserved
        (
            "GET /-._~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz",
            &base,
            EMPTY,
            "07ef7494c76fa4850883e2b006601f940f8a34d404d0cfa977f52a65bbf5f24f",
        ),
        // get-slash-dot-slash and get-slash: normalised
        ("GET /./", &base, EMPTY, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        ("GET //", &base, EMPTY, "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"),
        // get-relative-relative
        (
            "GET /example1/example2/../..",
            &base,
            EMPTY,
            "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
        ),
        // post-vanilla
        ("POST /", &base, EMPTY, "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"),
        // post-x-www-form-urlencoded
        ("POST /", &form, &sum, "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"),
    ] {
        let found = signature(&signing("AKIDEXAMPLE", "service"), at, line, headers, hash);
        assert_eq!(found, expected, "{line}");
    }
}

#[test]
fn the_example_of_iam_is_signed_as_its_documentation_says() {
    let at = "20150830T123600Z";
    let headers = [
        ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
        ("host", "iam.amazonaws.com"),
        ("x-amz-date", at),
    ];
    let found = signature(
        &signing("AKIDEXAMPLE", "iam"),
        at,
        "GET /?Action=ListUsers&Version=2010-05-08",
        &headers,
        EMPTY,
    );
    assert_eq!(found, "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7");
}

#[test]
fn the_examples_of_s3_are_signed_as_its_documentation_says() {
    let at = "20130524T000000Z";
    let sign = |line: &str, more: &[(&str, &str)], hash: &str| {
        let base =
            [("host", "examplebucket.s3.amazonaws.com"), ("x-amz-content-sha256", hash), ("x-amz-date", at)];
        signature(&signing("AKIAIOSFODNN7EXAMPLE", "s3"), at, line, &[&base[..], more].concat(), hash)
    };
    let welcome = "44ce7dd67c959e0d3524ffac1771dfbba87d2b6b4b4e99e42034a8b803f8b072";
    assert_eq!(
        sign("GET /test.txt", &[("range", "bytes=0-9")], EMPTY),
        "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    );
    let put = [("date", "Fri, 24 May 2013 00:00:00 GMT"), ("x-amz-storage-class", "REDUCED_REDUNDANCY")];
    assert_eq!(
        sign("PUT /test$file.text", &put, welcome),
        "98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    );
    assert_eq!(
        sign("GET /?lifecycle", &[], EMPTY),
        "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"
    );
    assert_eq!(
        sign("GET /?max-keys=2&prefix=J", &[], EMPTY),
        "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    );
}

#[test]
fn a_path_is_encoded_once_for_s3_and_twice_for_others() {
    assert_eq!(path("/a%20b/c", true), "/a%20b/c");
    assert_eq!(path("/a%20b/../c", true), "/a%20b/../c");
    assert_eq!(path("/a%20b/x/../c/", false), "/a%2520b/c/");
    assert_eq!((query("b=1&a=%2f&a"), query("a=x+y")), (Some("a=&a=%2F&b=1".to_owned()), None));
}

#[test]
fn what_a_cell_claims_to_sign_for_is_read_strictly() {
    let scope = |value| claimed(value, "PH");
    let s3 = || Some(Claim::Scope(Scope { region: "eu-west-1", service: "s3" }));
    let whole =
        "AWS4-HMAC-SHA256 Credential=PH/20150830/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0";
    assert_eq!(scope(whole), s3());
    assert_eq!(scope("PH/20150830/eu-west-1/s3/aws4_request"), s3());
    assert_eq!(scope("PH"), Some(Claim::Unsigned));
    for bad in [
        "",
        "PHX",
        "Bearer PH",
        "PH/20150830/eu-west-1/s3",
        "PH/20150830/eu-west-1/s3/aws4_request/x",
        "PH/2015083/eu-west-1/s3/aws4_request",
        "PH/20150830/EU/s3/aws4_request",
        "AWS4-HMAC-SHA256 Credential=OTHER/20150830/eu-west-1/s3/aws4_request",
        "AWS4-HMAC-SHA1 Credential=PH/20150830/eu-west-1/s3/aws4_request",
    ] {
        assert_eq!(scope(bad), None, "{bad}");
    }
    let query = "a=1&X-Amz-Credential=PH&x-amz-signature=2&X-Amz-Date=3&b";
    assert_eq!(unsigned(query), "a=1&b");
}

#[test]
fn nothing_of_the_cells_signature_goes_on_and_what_is_signed_says_so() {
    let keys = br#"{"access_key_id": "AKIDEXAMPLE", "secret_access_key": "wJalrXUtnFEMI", "session_token": "IQoJb3JpZ2lu"}"#;
    let bound: Aws = "s3/eu-west-1".parse().unwrap();
    let signing = Signing::new(&"KEY".parse().unwrap(), keys, &bound, &Claim::Unsigned).unwrap();
    let mut head = Request::get("/a")
        .header("authorization", "mine")
        .header("x-amz-date", "mine")
        .header("x-amz-security-token", "mine")
        .header("x-amz-meta-a", " x   y ")
        .body(())
        .unwrap();
    signing.sign(&mut head, "b.s3.example", UNSIGNED, Millis(1_440_938_160_000)).unwrap();
    let said = format!("{:?}", head.headers().iter().map(|(_, v)| v.to_str().unwrap()).collect::<Vec<_>>());
    assert!(!said.contains("mine"), "{said}");
    assert_eq!(head.headers()["x-amz-date"], "20150830T123600Z");
    assert_eq!(head.headers()["x-amz-security-token"], "IQoJb3JpZ2lu");
    let authorization = head.headers()["authorization"].to_str().unwrap();
    let begins = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/eu-west-1/s3/aws4_request, \
                  SignedHeaders=host;x-amz-date;x-amz-meta-a;x-amz-security-token, Signature=";
    assert!(authorization.starts_with(begins), "{authorization}");
    assert_eq!(joined(head.headers(), &"x-amz-meta-a".parse().unwrap()).unwrap(), "x y");

    let other = Claim::Scope(Scope { region: "us-east-1", service: "s3" });
    assert!(Signing::new(&"KEY".parse().unwrap(), keys, &bound, &other).is_none());
    let any: Aws = "s3/*".parse().unwrap();
    assert!(
        Signing::new(&"KEY".parse().unwrap(), keys, &any, &Claim::Unsigned).is_none(),
        "somebody must say a region"
    );
    assert!(Signing::new(&"KEY".parse().unwrap(), keys, &any, &other).is_some());
    let sts = Claim::Scope(Scope { region: "us-east-1", service: "sts" });
    assert!(Signing::new(&"KEY".parse().unwrap(), keys, &any, &sts).is_none());
}
