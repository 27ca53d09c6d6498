#![allow(clippy::unwrap_used)]
use super::*;

fn parse(text: &str) -> Result<HostConfig, String> {
    HostConfig::parse(Path::new("cofferdam.toml"), text).map_err(|error| error.to_string())
}

#[test]
fn a_file_that_is_not_there_means_defaults_and_one_that_cannot_be_read_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let config = HostConfig::load(&dir.path().join(FILE)).unwrap();
    assert_eq!(config, HostConfig::default());
    assert_eq!(config.edge.listen.to_string(), "127.0.0.1:8471");
    assert_eq!(config.uids.base.control(), 1_500_000_000);
    std::fs::create_dir(dir.path().join(FILE)).unwrap();
    assert!(matches!(HostConfig::load(&dir.path().join(FILE)), Err(Error::Io { .. })));
    std::fs::write(dir.path().join("latin1"), b"# \xe4\n").unwrap();
    assert!(matches!(HostConfig::load(&dir.path().join("latin1")), Err(Error::Io { .. })));
}

#[test]
fn every_section_is_read() {
    let config = parse(
        r#"
        profile = "rootless"
        [edge]
        listen = "[::1]:9000"
        domain = "localhost"
        [egress]
        nameservers = ["192.0.2.53"]
        operator_private = ["10.1.0.0/16"]
        [uids]
        base = 2000000
        [runtime.command.echo]
        argv = ["/opt/echo", "--fast"]
        env = { MODE = "test" }
        binds = [{ source = "/srv/echo", target = "/opt/echo" }]
        [vault]
        key_command = ["/usr/local/bin/key"]
        [limits]
        memory_bytes = 268435456
        [cache]
        dir = "/srv/cache"
        [[price]]
        host = "llm.example.com"
        model = "ours"
        usd = "0.50:1.50"
        "#,
    )
    .unwrap();
    assert_eq!(config.price[0].usd.to_string(), "0.50:1.50");
    assert_eq!(config.profile, Some(Profile::Rootless));
    assert_eq!(config.runtime.command["echo"].port.get(), 8080);
    assert_eq!(config.runtime.command["echo"].binds[0].target.as_path(), Path::new("/opt/echo"));
    assert_eq!((config.limits.memory_bytes, config.limits.pids), (1 << 28, 512));
    let again: HostConfig = serde_json::from_str(&serde_json::to_string(&config).unwrap()).unwrap();
    assert_eq!(again, config, "control gets it as JSON");
}

#[test]
fn what_is_wrong_is_named_with_its_place() {
    for (text, start, names) in [
        ("[edge]\nlisten = \"127.0.0.1:1\"\nport = 3\n", "cofferdam.toml:3:1: ", "unknown field `port`"),
        ("[edges]\n", "cofferdam.toml:1:2: ", "unknown field `edges`"),
        ("[edge]\nlisten = 3\n", "cofferdam.toml:2:10: ", "listen = 3"),
        ("[edge]\nlisten = \"nowhere\"\n", "cofferdam.toml:2:10: ", "invalid socket address"),
        ("[edge]\nlisten = \"0.0.0.0:8471\"\n", "cofferdam.toml:2:10: ", "listen on 127.0.0.1:8471"),
        ("[edge]\nlisten = \"192.0.2.1:80\"\n", "cofferdam.toml:2:10: ", "no loopback address"),
        ("[edge]\nlisten = \"[::]:80\"\n", "cofferdam.toml:2:10: ", "plain text"),
        ("[edge]\ndomain = \"agents.example\"\n", "cofferdam.toml:2:10: ", "leave `domain` out"),
        ("[edge]\ndomain = \"x.localhost\"\n", "cofferdam.toml:2:10: ", "would need TLS"),
        ("profile = \"lax\"\n", "cofferdam.toml:1:11: ", "expected `strict` or `rootless`"),
        ("[uids]\nbase = 0\n", "cofferdam.toml:2:8: ", "0 is no base for uids"),
        ("[uids]\nbase = 1\nbase = 2\n", "cofferdam.toml:3:1: ", "duplicate key"),
        ("[egress]\noperator_private = [\"10.0.0.1/8\"]\n", "cofferdam.toml:2:", "10.0.0.1/8"),
        ("[runtime.command.x]\nargv = []\n", "cofferdam.toml:2:8: ", "argument vector is empty"),
        ("[runtime.command.x]\nargv = [\"sh\"]\n", "cofferdam.toml:2:8: ", "not an absolute path"),
        ("[runtime.command.x]\nport = 1\n", "cofferdam.toml:1:1: ", "missing field `argv`"),
        ("[runtime.command.x]\nargv = [\"/a\"]\nport = 0\n", "cofferdam.toml:3:8: ", "nonzero"),
        (
            "[runtime.command.x]\nargv = [\"/a\"]\nbinds = [{ source = \"/a/../b\", target = \"/b\" }]\n",
            "cofferdam.toml:3:",
            "without '..'",
        ),
        ("[runtime.command.x]\nargv = [\"/a\"]\nenv = { \"A=B\" = \"1\" }\n", "cofferdam.toml:3:", "A=B"),
        ("[runtime.openclaw.mcp.x]\n", "cofferdam.toml:1:", "either a command or a url"),
        ("[runtime.openclaw.mcp.x]\nurl = \"/a\"\ncommand = \"a\"\n", "cofferdam.toml:1:", "either"),
        ("[runtime.openclaw.mcp.x]\nurl = \"a.example\"\n", "cofferdam.toml:1:", "no http"),
        ("[runtime.openclaw.mcp.x]\nurl = \"https://\"\n", "cofferdam.toml:1:", "no http"),
        ("[runtime.openclaw.mcp.x]\nurl = \"https://me:pass@a/mcp\"\n", "cofferdam.toml:1:", "no http"),
        ("[runtime.openclaw.mcp.x]\nurl = \"https://a b\"\n", "cofferdam.toml:1:", "no http"),
        ("[runtime.openclaw.mcp.x]\ncommand = \"a\\u0000b\"\n", "cofferdam.toml:1:", "NUL"),
        (
            "[runtime.openclaw.mcp.x]\nurl = \"https://a\"\nargs = [\"a\"]\n",
            "cofferdam.toml:1:",
            "no program",
        ),
        ("[runtime.openclaw.mcp.\"a b\"]\nurl = \"https://a\"\n", "cofferdam.toml:1:", "letters"),
        (
            "[runtime.openclaw.mcp.x]\ncommand = \"a\"\nenv = { \"A=B\" = \"1\" }\n",
            "cofferdam.toml:1:",
            "A=B",
        ),
        (
            "[vault]\nkey_file = \"/k\"\nkey_command = [\"/c\"]\n",
            "cofferdam.toml:3:1: ",
            "exclude each other",
        ),
        ("[edge\n", "cofferdam.toml:1:", "[edge"),
    ] {
        let error = parse(text).unwrap_err();
        assert!(error.starts_with(start) && error.contains(names), "{text}: {error}");
    }
}

proptest::proptest! {
    #[test]
    fn garbage_is_an_error_and_never_a_panic(text in "\\PC{0,200}") {
        let _ = parse(&text);
    }
}

#[test]
fn a_layer_is_left_out_by_its_name_and_with_a_reason() {
    let config = parse("[[without]]\nlayer = \"landlock\"\nreason = \"an old kernel\"\n").unwrap();
    let left = config.left_out();
    assert!(left.len() == 18 && left.iter().all(|protection| protection.layer() == "landlock"), "{left:?}");
    for (layer, reason, why) in [
        ("landlok", "x", "cgroup memory"),
        ("landlock", " ", "needs a reason"),
        ("user namespace", "x", "no layer"),
    ] {
        let text = format!("[[without]]\nlayer = \"{layer}\"\nreason = \"{reason}\"\n");
        let error = parse(&text).unwrap_err();
        assert!(error.contains(why) && error.contains("2:"), "{error}");
    }
}

#[test]
fn directories_are_offered_by_name_and_never_the_whole_host() {
    let parse = |text: &str| HostConfig::parse(Path::new("c"), text);
    let config = parse("[filesystem]\nmodels = \"/srv/models\"\n").unwrap();
    assert_eq!(config.filesystem[&"models".parse().unwrap()].as_path(), Path::new("/srv/models"));
    for bad in ["models = \"/\"", "\"../x\" = \"/srv\"", "x = \"srv\"", "x = \"/srv/../etc\""] {
        assert!(parse(&format!("[filesystem]\n{bad}\n")).is_err(), "{bad}");
    }
}

#[test]
fn what_may_escape_is_accepted_by_its_row_and_with_a_reason() {
    let config = parse("[[accepted]]\nrow = \"files.outside\"\nreason = \"an old kernel\"\n").unwrap();
    assert_eq!(config.accepted[0].row, "files.outside");
    for (row, reason, why) in
        [("files", "x", "no row"), ("files.*", "x", "no row"), ("files.outside", " ", "needs a reason")]
    {
        let error = parse(&format!("[[accepted]]\nrow = \"{row}\"\nreason = \"{reason}\"\n")).unwrap_err();
        assert!(error.contains(why) && error.contains("2:"), "{error}");
    }
}
