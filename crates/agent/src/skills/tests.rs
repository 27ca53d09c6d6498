#![allow(clippy::unwrap_used)]

use super::*;

struct Home(tempfile::TempDir);

impl Home {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn at(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, head: &str) {
        let dir = self.at(path);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("SKILL.md"), format!("---\n{head}\n---\nthe body\n")).unwrap();
    }

    fn find(&self, shelf: &Shelf, config: &Config) -> Found {
        let (workspace, managed, offered) = (self.at("ws"), self.at("state/skills"), self.at("offered"));
        shelf.find(&Places { workspace: &workspace, managed: &managed, offered: &offered, config })
    }
}

fn config(text: &str) -> Config {
    Config::parse(text).unwrap()
}

#[test]
fn of_two_skills_of_one_name_the_nearer_one_counts_and_says_what_it_hides() {
    let home = Home::new();
    for (place, what) in [
        ("ws/skills/group/notes", "from the workspace"),
        ("ws/.agents/skills/notes", "from the project"),
        ("state/skills/notes", "managed"),
        ("offered/notes", "offered"),
        ("more/notes", "extra"),
    ] {
        home.write(place, &format!("description: {what}"));
    }
    home.write("offered/other", "name: Other Thing\ndescription: offered");
    home.write("more/last", "description: extra");
    let extra = config(&json!({ "skills": { "load": { "extraDirs": [home.at("more")] } } }).to_string());
    let (shelf, none) = (Shelf::default(), Config::default());
    let found = home.find(&shelf, &extra);
    let names: Vec<_> = found.skills.iter().map(|skill| (&*skill.name, skill.source)).collect();
    assert_eq!(
        names,
        [("Other Thing", Source::Bundled), ("last", Source::Extra), ("notes", Source::Workspace)]
    );
    assert_eq!(found.skills[2].front.description, "from the workspace");
    assert_eq!(found.skills[2].hidden.len(), 4);
    let (status, broken) = found.status(&extra);
    assert_eq!((&status[2]["source"], &status[2]["writable"]), (&json!("openclaw-workspace"), &json!(true)));
    assert_eq!((&status[0]["bundled"], status[2]["hides"].as_array().unwrap().len()), (&json!(true), 4));
    assert!(broken.is_empty(), "{broken:?}");
    // What changed is read again, and what is gone is not there.
    home.write("ws/skills/group/notes", "description: changed since");
    fs::remove_dir_all(home.at("offered/other")).unwrap();
    let found = home.find(&shelf, &none);
    assert_eq!((found.skills.len(), &*found.skills[0].front.description), (1, "changed since"));
    assert_eq!(shelf.0.lock().unwrap().len(), 4);
}

#[test]
fn a_planted_skill_does_not_take_the_place_of_one_that_the_cell_cannot_write() {
    let home = Home::new();
    home.write("ws/skills/deploy", "description: planted");
    home.write("ws/skills/Deploy", "description: planted too");
    home.write("offered/deploy", "description: the operator's");
    home.write("offered/notes", "description: the operator's");
    home.write("ws/skills/own", "description: own");
    let none = Config::default();
    let Found { mut skills, broken } = home.find(&Shelf::default(), &none);
    let mut theirs = skills.iter().find(|it| it.name == "notes").unwrap().clone();
    (theirs.name, theirs.writable) = ("deploy".to_owned(), false);
    skills.push(theirs);
    let found = Found { skills: counting(skills), broken };
    let deploy = found.skills.iter().find(|it| it.name == "deploy").unwrap();
    assert_eq!((deploy.source, deploy.hidden.len()), (Source::Bundled, 1));
    let commands = found.commands(&none);
    let called = commands.iter().find(|it| it.name == "deploy").unwrap();
    assert_eq!((called.skill.source, &*called.skill.name), (Source::Bundled, "deploy"));
    assert!(commands.iter().any(|it| it.name == "deploy_2" && it.skill.name == "Deploy"));
}

#[test]
fn what_a_cell_owns_it_can_change_whatever_its_mode() {
    let home = Home::new();
    home.write("ws/skills/locked", "description: d");
    home.write("offered/theirs", "description: d");
    let dir = home.at("ws/skills/locked");
    let (file, nobody) = (dir.join("SKILL.md"), rustix::fs::Uid::from_raw(65_534));
    let is_root = rustix::process::geteuid().is_root();
    for (path, mode) in [(home.at(""), 0o755), (file.clone(), 0o444), (dir, 0o555)] {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    }
    let asks = || {
        // Nothing is locked for root: then it is another one who owns it and asks.
        if is_root {
            std::os::unix::fs::chown(&file, Some(nobody.as_raw()), None).unwrap();
            rustix::thread::set_thread_res_uid(nobody, nobody, nobody).unwrap();
        }
        home.find(&Shelf::default(), &Config::default()).skills
    };
    let skills = std::thread::scope(|scope| scope.spawn(asks).join()).unwrap();
    let writable: Vec<_> = skills.iter().map(|it| (&*it.name, it.writable)).collect();
    assert_eq!(writable, [("locked", true), ("theirs", !is_root)]);
}

#[test]
fn what_a_skill_wants_decides_whether_it_is_offered() {
    let home = Home::new();
    let write = |name: &str, metadata: &str| {
        home.write(
            &format!("offered/{name}"),
            &format!("description: d\nmetadata: {{openclaw: {{{metadata}}}}}"),
        );
    };
    write("a-plain", "emoji: x");
    write("b-bin", "requires: {bins: [sh]}");
    write("c-no-bin", "requires: {bins: [sh, no-such-program]}");
    write("d-any", "requires: {anyBins: [no-such-program, sh]}");
    write("e-no-any", "requires: {anyBins: [no-such-program, ../sh]}");
    write("f-env", "requires: {env: [PATH]}");
    write("g-no-env", "requires: {env: [NO_SUCH_VARIABLE]}");
    write("h-config", "requires: {config: [skills.allowBundled]}");
    write("i-no-config", "requires: {config: [mcp.servers, nothing.of.it]}");
    write("j-os", "os: [darwin], always: true");
    write("k-always", "always: true, requires: {bins: [no-such-program]}");
    write("l-keyed", "skillKey: other");
    let all: Vec<String> =
        home.find(&Shelf::default(), &Config::default()).skills.iter().map(|it| it.name.clone()).collect();
    assert_eq!(all.len(), 12);
    let mut allowed = all.clone();
    allowed.retain(|name| name != "a-plain");
    let config = config(
        &json!({ "skills": { "allowBundled": allowed, "entries": { "other": { "enabled": false } } } })
            .to_string(),
    );
    let found = home.find(&Shelf::default(), &config);
    let offered: Vec<_> = found.offered(&config).map(|skill| &*skill.name).collect();
    assert_eq!(offered, ["b-bin", "d-any", "f-env", "h-config", "k-always"]);
    let (status, _) = found.status(&config);
    let of = |name: &str| status.iter().find(|it| it["name"] == name).unwrap();
    assert_eq!(of("c-no-bin")["missing"]["bins"], json!(["no-such-program"]));
    assert_eq!(of("g-no-env")["missing"]["env"], json!(["NO_SUCH_VARIABLE"]));
    assert_eq!(
        (&of("a-plain")["blockedByAllowlist"], &of("l-keyed")["disabled"]),
        (&json!(true), &json!(true))
    );
    assert_eq!(of("j-os")["platformIncompatible"], true);
}

#[test]
fn a_file_that_is_no_skill_is_named_and_stops_nobody() {
    let home = Home::new();
    home.write("elsewhere/secret", "description: not yours");
    home.write("ws/skills/good", "description: good");
    let dir = |name: &str| {
        let dir = home.at("ws/skills").join(name);
        fs::create_dir_all(&dir).unwrap();
        dir.join("SKILL.md")
    };
    fs::write(dir("huge"), vec![b'x'; 300_000]).unwrap();
    fs::write(dir("binary"), b"---\ndescription: \xff\xfe\n---\n").unwrap();
    fs::create_dir(dir("directory")).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, dir("pipe"), rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR)
        .unwrap();
    std::os::unix::fs::symlink("/dev/zero", dir("device")).unwrap();
    std::os::unix::fs::symlink(home.at("elsewhere/secret/SKILL.md"), dir("link")).unwrap();
    std::os::unix::fs::symlink(home.at("elsewhere"), home.at("ws/skills/out")).unwrap();
    std::os::unix::fs::symlink(home.at("ws/skills"), home.at("ws/skills/loop")).unwrap();
    std::os::unix::fs::symlink("no-such-file", dir("dangling")).unwrap();
    fs::write(dir("empty"), "").unwrap();
    let found = home.find(&Shelf::default(), &Config::default());
    assert_eq!(found.skills.iter().map(|it| &*it.name).collect::<Vec<_>>(), ["good"]);
    let (_, broken) = found.status(&Config::default());
    let why = |name: &str| {
        let of =
            broken.iter().find(|it| it["filePath"].as_str().unwrap().contains(&format!("ws/skills/{name}")));
        of.unwrap_or_else(|| panic!("{name}: {broken:?}"))["reason"].as_str().unwrap().to_owned()
    };
    for (name, said) in [
        ("huge", "at most 256000"),
        ("binary", "no UTF-8"),
        ("directory", "no regular file"),
        ("pipe", "no regular file"),
        ("device", "leads out"),
        ("link", "leads out"),
        ("out", "leads out"),
        ("dangling", "No such file"),
        ("empty", "does not begin"),
    ] {
        assert!(why(name).contains(said), "{name}: {}", why(name));
    }
    // So many that nobody looks at all of them.
    for number in 0..LOOKED + 10 {
        fs::create_dir(home.at("ws/skills").join(format!("x{number}"))).unwrap();
    }
    let (_, broken) = home.find(&Shelf::default(), &Config::default()).status(&Config::default());
    assert!(broken.iter().any(|it| it["reason"].as_str().unwrap().contains("not looked at")), "{broken:?}");
}

#[test]
fn a_model_is_told_names_descriptions_and_places_within_a_cap() {
    let home = Home::new();
    assert!(home.find(&Shelf::default(), &Config::default()).prompt(&Config::default()).is_none());
    home.write("ws/skills/one", "name: one <b>\ndescription: \"first & best\"");
    home.write("ws/skills/two", "description: second\ndisable-model-invocation: true");
    home.write("ws/skills/help", "description: third\nuser-invocable: false");
    let none = Config::default();
    let found = home.find(&Shelf::default(), &none);
    let text = found.prompt(&none).unwrap();
    assert!(text.contains("<name>one &lt;b&gt;</name><description>first &amp; best</description>"), "{text}");
    assert!(text.contains("ws/skills/one/SKILL.md</location>") && !text.contains("second"), "{text}");
    assert!(text.contains("<skill writable=\"yes\">") && !text.contains("the body"), "{text}");
    let commands: Vec<_> = found.commands(&none).iter().map(|it| it.name.clone()).collect();
    assert_eq!(commands, ["one_b", "two"]);
    for number in 0..120 {
        home.write(&format!("ws/skills/many/s{number:03}"), &format!("description: {}", "long ".repeat(100)));
    }
    home.write("ws/skills/new", "description: as the command");
    let found = home.find(&Shelf::default(), &none);
    let text = found.prompt(&none).unwrap();
    assert!(text.chars().count() <= CHARACTERS && text.contains("skills are listed"), "{}", text.len());
    assert!(found.commands(&none).iter().any(|it| it.name == "new_2"));
    let roomy = config(r#"{"skills":{"limits":{"maxSkillsPromptChars":60000,"maxSkillsInPrompt":4}}}"#);
    let text = found.prompt(&roomy).unwrap();
    assert!(text.contains("4 of 123 skills are listed") && text.contains(&"long ".repeat(99)), "{text}");
}
