#![allow(clippy::unwrap_used)]
//! Opening what is whole, refusing what is not, and the backup that mends it.

use super::{ApprovalRow, NewTenantRow, State, migrate};
use crate::{
    Error,
    ledger::{Class, Kind, Ledger, NewRow},
};
use cofferdam_base::{
    Millis, TenantId,
    ipc::launcher::{Limits, RuntimeRef},
};
use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

const DAY: u64 = 86_400_000;
const SECOND: &str = "CREATE TABLE second (a INTEGER) STRICT;";

fn acme() -> TenantId {
    TenantId::try_from("acme").unwrap()
}

fn new_approval() -> ApprovalRow {
    ApprovalRow {
        id: 0,
        tenant: acme(),
        destination: cofferdam_base::Destination {
            host: cofferdam_base::Host::Name("api.example.com".parse().unwrap()),
            port: 443.try_into().unwrap(),
            protocol: cofferdam_base::Protocol::Https,
        },
        why: String::new(),
        asked: Millis(1),
        state: "waiting".to_owned(),
        over: false,
        answer: String::new(),
        answered: None,
        revision: 1,
        request: "null".to_owned(),
        count: 1,
        approver: String::new(),
    }
}

fn new_tenant() -> NewTenantRow {
    NewTenantRow {
        id: acme(),
        runtime: RuntimeRef::Command("echo".to_owned()),
        limits: Limits::default(),
        desired: "\"stopped\"".to_owned(),
        created: Millis(1),
        data_key: "key".to_owned(),
        policy: "version: 1\n".to_owned(),
    }
}

/// A host of one tenant; its directory.
fn host(now: u64) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut state = State::open(dir.path(), Millis(now)).unwrap();
    state.change_quietly(|tables| tables.create_tenant(&new_tenant())).unwrap();
    dir
}

fn tenants(state: &State) -> usize {
    state.read().tenants().unwrap().len()
}

fn backups(dir: &Path) -> Vec<PathBuf> {
    let mut paths: Vec<_> =
        fs::read_dir(dir.join("backups")).unwrap().map(|entry| entry.unwrap().path()).collect();
    paths.sort();
    paths
}

/// Runs the command that an error names.
#[expect(clippy::disallowed_methods, reason = "what an operator would type")]
fn mend(error: &Error) {
    let text = error.to_string();
    let command = text.split_once("mend it with: ").unwrap().1;
    let done = std::process::Command::new("sh").args(["-c", command]).status().unwrap();
    assert!(done.success(), "{command}");
}

#[test]
fn a_database_that_lived_is_backed_up_once_a_day_and_a_new_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    drop(State::open(dir.path(), Millis(1)).unwrap());
    assert!(backups(dir.path()).is_empty());
    for (now, count) in [(2, 1), (DAY, 1), (DAY + 2, 2)] {
        drop(State::open(dir.path(), Millis(now)).unwrap());
        assert_eq!(backups(dir.path()).len(), count, "at {now}");
    }
    for day in 2..20 {
        drop(State::open(dir.path(), Millis(day * DAY + 2)).unwrap());
    }
    let kept = backups(dir.path());
    assert_eq!(kept.len(), 7);
    let newest = format!("state-{}-{}.db", migrate::ALL.len(), 19 * DAY + 2);
    assert!(kept.iter().any(|path| path.ends_with(&newest)), "{kept:?}");
    assert_eq!(fs::metadata(&kept[0]).unwrap().permissions().mode() & 0o777, 0o600);
}

#[test]
fn a_truncated_database_is_refused_and_the_command_that_is_named_brings_the_backup_back() {
    let dir = host(1);
    drop(State::open(dir.path(), Millis(2)).unwrap());
    let path = dir.path().join("state.db");
    let length = fs::metadata(&path).unwrap().len();
    for cut in [0, 50, 4096, length - 4096, length - 1] {
        fs::OpenOptions::new().write(true).open(&path).unwrap().set_len(cut).unwrap();
        let error = State::open(dir.path(), Millis(3)).unwrap_err();
        assert!(matches!(error, Error::Truncated { newest_backup: Some(_), .. }), "cut to {cut}: {error}");
        assert_eq!(fs::metadata(&path).unwrap().len(), cut, "nothing is mended unasked");
        mend(&error);
        assert_eq!(tenants(&State::open(dir.path(), Millis(3)).unwrap()), 1);
    }
}

#[test]
fn damage_and_a_missing_file_name_the_newest_backup_that_is_whole() {
    let dir = host(1);
    drop(State::open(dir.path(), Millis(2)).unwrap());
    let whole = backups(dir.path()).remove(0);
    let path = dir.path().join("state.db");
    fs::write(dir.path().join(format!("backups/state-3-{}.db", 2 * DAY)), "no database").unwrap();
    fs::write(dir.path().join(format!("backups/state-3-{}.db", 3 * DAY)), "").unwrap();
    fs::write(&path, "this is another program's file, and long enough to be one of ours".repeat(99)).unwrap();
    for _ in 0..2 {
        let error = State::open(dir.path(), Millis(3)).unwrap_err();
        let Error::Corrupt { newest_backup, .. } = &error else { panic!("{error}") };
        assert_eq!(newest_backup.as_ref(), Some(&whole));
        let _ = fs::remove_file(&path);
    }
    mend(&State::open(dir.path(), Millis(3)).unwrap_err());
    assert_eq!(tenants(&State::open(dir.path(), Millis(3)).unwrap()), 1);
}

#[test]
fn an_older_schema_is_backed_up_first_and_then_brought_forward() {
    let dir = host(1);
    let schemas = [migrate::ALL, &[SECOND]].concat();
    let state = State::open_with(dir.path(), Millis(5), &schemas).unwrap();
    assert_eq!(tenants(&state), 1);
    let second = "SELECT count(*) FROM sqlite_schema WHERE name = 'second'";
    assert_eq!(state.connection.query_row(second, [], |row| row.get::<_, i64>(0)).unwrap(), 1);
    drop(state);
    let backup = backups(dir.path()).remove(0);
    assert_eq!(backup.file_name().unwrap().to_str().unwrap(), format!("state-{}-5.db", migrate::ALL.len()));
    let old = tempfile::tempdir().unwrap();
    fs::copy(&backup, old.path().join("state.db")).unwrap();
    let old = State::open(old.path(), Millis(6)).unwrap();
    assert_eq!(tenants(&old), 1);
    assert_eq!(old.connection.query_row(second, [], |row| row.get::<_, i64>(0)).unwrap(), 0);
}

#[test]
fn a_migration_that_fails_changes_nothing() {
    let dir = host(1);
    let schemas = [migrate::ALL, &["CREATE TABLE second (a); CREATE TABLE second (b);"]].concat();
    State::open_with(dir.path(), Millis(5), &schemas).unwrap_err();
    assert_eq!(tenants(&State::open(dir.path(), Millis(6)).unwrap()), 1);
}

#[test]
fn a_newer_or_another_schema_and_another_programs_database_are_refused() {
    let dir = host(1);
    let newer = [migrate::ALL, &[SECOND]].concat();
    drop(State::open_with(dir.path(), Millis(2), &newer).unwrap());
    let error = State::open(dir.path(), Millis(3)).unwrap_err();
    let known = u32::try_from(migrate::ALL.len()).unwrap();
    assert!(matches!(error, Error::NewerSchema { found, known: k, .. } if (found, k) == (known + 1, known)));
    let mut other = newer.clone();
    other[0] = "CREATE TABLE first (a);";
    let error = State::open_with(dir.path(), Millis(3), &other).unwrap_err();
    assert!(error.to_string().contains("its schema is not the one"), "{error}");
    assert_eq!(tenants(&State::open_with(dir.path(), Millis(3), &newer).unwrap()), 1);

    let foreign = tempfile::tempdir().unwrap();
    let made = rusqlite::Connection::open(foreign.path().join("state.db")).unwrap();
    made.execute_batch("CREATE TABLE music (title TEXT)").unwrap();
    drop(made);
    let error = State::open(foreign.path(), Millis(1)).unwrap_err();
    assert!(error.to_string().contains("its tables are not those of this program"), "{error}");
}

#[test]
fn on_a_full_disk_a_stop_is_durable_and_a_start_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=9m none \"$COFFERDAM_TEST_STATE\" || exit 77; exec \"$@\"";
    let this = std::env::current_exe().unwrap();
    #[expect(clippy::disallowed_methods, reason = "a test runs itself, to mount")]
    let output = std::process::Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh", this.to_str().unwrap()])
        .args(["--exact", "state::tests::child_fills_its_disk", "--ignored", "--nocapture"])
        .env("COFFERDAM_TEST_STATE", dir.path())
        .output()
        .unwrap();
    if matches!(output.status.code(), Some(77 | 1)) {
        eprintln!("SKIPPED: no disk of its own to fill (needs root)");
        return;
    }
    let said = String::from_utf8_lossy(&output.stdout);
    let complained = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 passed"), "{said}\n{complained}");
}

#[test]
#[ignore = "another test runs it as a child, on a small disk"]
fn child_fills_its_disk() {
    let Some(dir) = std::env::var_os("COFFERDAM_TEST_STATE") else { return };
    let dir = Path::new(&dir);
    let mut state = State::open(dir, Millis(1)).unwrap();
    let mut ledger = Ledger::open(&dir.join("ledger"), Millis(1)).unwrap();
    state.change_quietly(|tables| tables.create_tenant(&new_tenant())).unwrap();
    let mut greedy = fs::File::create(dir.join("greedy")).unwrap();
    while std::io::Write::write_all(&mut greedy, &[1; 512]).is_ok() {}
    let mut wish = |desired: &str, kind: &str| {
        let row = NewRow {
            at: Millis(2),
            class: Class::A,
            tenant: Some(acme()),
            kind: kind.to_owned(),
            body: serde_json::json!({}).into(),
        };
        state.change_if(&mut ledger, &row, |tables| tables.set_desired(&acme(), desired, "\"deleted\""))
    };
    // The ledger has blocks for some more rows of any kind.
    let refused = (0..100_000).find_map(|_| wish("\"running\"", "tenant_start").err());
    assert!(matches!(refused, Some(Error::DiskFull)), "{refused:?}");
    // Often enough that the log was copied into the database in between.
    for _ in 0..2000 {
        wish("\"stopped\"", "tenant_stop").unwrap();
    }
    assert!(matches!(wish("\"running\"", "tenant_start"), Err(Error::DiskFull)));
    assert_eq!(state.read().tenants().unwrap()[0].desired, "\"stopped\"");
    assert!(ledger.verify().unwrap().whole);
    // Killed here: the next start finds it so, with the disk as full.
    drop((state, ledger));
    assert_eq!(State::open(dir, Millis(3)).unwrap().read().tenants().unwrap()[0].desired, "\"stopped\"");
}

#[test]
fn a_change_is_there_with_its_row_or_not_at_all() {
    let dir = host(1);
    let mut state = State::open(dir.path(), Millis(2)).unwrap();
    let mut ledger = Ledger::open(&dir.path().join("ledger"), Millis(2)).unwrap();
    let row = NewRow {
        at: Millis(2),
        class: Class::A,
        tenant: Some(acme()),
        kind: "tenant_start".to_owned(),
        body: serde_json::json!({}).into(),
    };
    let wish =
        |desired: &'static str| move |t: &super::Tables<'_>| t.set_desired(&acme(), desired, "\"deleted\"");
    state.change_if(&mut ledger, &row, wish("\"running\"")).unwrap().unwrap();
    assert_eq!(ledger.rows(), 1);
    state
        .change(&mut ledger, &row, |tables| {
            wish("\"stopped\"")(tables)?;
            Err::<(), _>(Error::Conflict("no".to_owned()))
        })
        .unwrap_err();
    assert_eq!((ledger.rows(), state.read().tenants().unwrap()[0].desired.as_str()), (1, "\"running\""));
    // What is being deleted is wanted no other way any more.
    for (desired, changed) in [("\"deleted\"", true), ("\"running\"", false), ("\"deleted\"", true)] {
        assert_eq!(
            state.change_if(&mut ledger, &row, wish(desired)).unwrap().is_some(),
            changed,
            "{desired}"
        );
    }
    assert_eq!(ledger.rows(), 3);
}

#[test]
fn a_row_whose_change_a_kill_kept_from_happening_is_called_undone_once() {
    let dir = tempfile::tempdir().unwrap();
    let wish = |kind: Kind| NewRow {
        at: Millis(2),
        class: Class::A,
        tenant: Some(acme()),
        kind: kind.as_str().to_owned(),
        body: serde_json::json!({}).into(),
    };
    let open = || {
        let state = State::open(dir.path(), Millis(1)).unwrap();
        (state, Ledger::open(&dir.path().join("ledger"), Millis(1)).unwrap())
    };
    let last = |ledger: &Ledger| {
        let row = ledger.tail(1, None).unwrap().remove(0);
        (row.kind, row.body["row"].as_u64())
    };
    let (mut state, mut ledger) = open();
    assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), 0);
    // The very first change: only its row came to the disk.
    ledger.append(&wish(Kind::TenantCreated)).unwrap();
    drop((state, ledger));
    let (mut state, mut ledger) = open();
    assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), 1);
    assert_eq!(last(&ledger), ("undone".to_owned(), Some(1)));
    // What happened, and rows that tell of no change, are left alone.
    let made = wish(Kind::TenantCreated);
    state.change(&mut ledger, &made, |tables| tables.create_tenant(&new_tenant())).unwrap();
    ledger.append(&wish(Kind::StopCell)).unwrap();
    ledger.append(&NewRow { class: Class::B, ..wish(Kind::Deny) }).unwrap();
    drop((state, ledger));
    let (mut state, mut ledger) = open();
    assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), 0);
    let seq = ledger.append(&wish(Kind::PolicySet)).unwrap();
    ledger.append(&wish(Kind::StopCell)).unwrap();
    drop((state, ledger));
    for found in [1, 0] {
        let (mut state, mut ledger) = open();
        assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), found);
        assert_eq!(last(&ledger), ("undone".to_owned(), Some(seq)));
    }
}

#[test]
fn an_approval_whose_end_a_loss_of_power_took_is_ended_again_from_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let open = || {
        let state = State::open(dir.path(), Millis(1)).unwrap();
        (state, Ledger::open(&dir.path().join("ledger"), Millis(1)).unwrap())
    };
    let row = |kind: Kind| NewRow {
        at: Millis(2),
        class: Class::A,
        tenant: Some(acme()),
        kind: kind.as_str().to_owned(),
        body: serde_json::json!({}).into(),
    };
    let states = |state: &State| -> Vec<_> {
        state.read().approvals(true).unwrap().into_iter().map(|row| (row.state, row.over)).collect()
    };
    let (mut state, mut ledger) = open();
    state.settle(&mut ledger, Millis(1)).unwrap();
    let made = row(Kind::TenantCreated);
    state.change(&mut ledger, &made, |tables| tables.create_tenant(&new_tenant())).unwrap();
    let asked = row(Kind::ApprovalAsked);
    let id = state.change(&mut ledger, &asked, |tables| tables.add_approval(&new_approval())).unwrap();
    // What is flushed with every change is there after a loss of power; what came after it need not be.
    let flushed: Vec<_> =
        ["state.db", "state.db-wal"].map(|name| (name, fs::read(dir.path().join(name)).unwrap())).into();
    let granted = row(Kind::ApprovalGranted);
    let used = ApprovalRow { id, state: "used".to_owned(), over: true, ..new_approval() };
    state.end_approval(&mut ledger, &granted, id, "used", |tables| tables.set_approval(&used)).unwrap();
    let how = |state: &State| -> i64 {
        state.connection.query_row("PRAGMA synchronous", [], |row| row.get(0)).unwrap()
    };
    assert_eq!(how(&state), 1, "one flush, that of the row");
    assert_eq!(states(&state), [("used".to_owned(), true)]);
    drop((state, ledger));
    for (name, bytes) in flushed {
        fs::write(dir.path().join(name), bytes).unwrap();
    }
    let _ = fs::remove_file(dir.path().join("state.db-shm"));
    let (mut state, mut ledger) = open();
    assert_eq!(states(&state), [("waiting".to_owned(), false)], "the end is lost");
    assert_eq!(state.settle(&mut ledger, Millis(3)).unwrap(), 0, "and nothing is called undone");
    assert_eq!(states(&state), [("used".to_owned(), true)]);
    assert_eq!(how(&state), 2, "every other change is flushed");
    // One of which there is no approval was not made.
    let lost = State::end_approval(&mut state, &mut ledger, &granted, 99, "used", |_| -> Result<(), Error> {
        Err(Error::Malformed("nothing"))
    });
    assert!(lost.is_err());
    ledger.append(&super::chain::telling(&granted, 99, "used")).unwrap();
    drop((state, ledger));
    let (mut state, mut ledger) = open();
    assert_eq!(state.settle(&mut ledger, Millis(3)).unwrap(), 1);
}

#[test]
fn a_database_of_the_schema_before_calls_nothing_undone() {
    let dir = tempfile::tempdir().unwrap();
    let mut old = State::open_with(dir.path(), Millis(1), &migrate::ALL[..1]).unwrap();
    let mut ledger = Ledger::open(&dir.path().join("ledger"), Millis(1)).unwrap();
    old.change_quietly(|tables| tables.create_tenant(&new_tenant())).unwrap();
    let row = NewRow {
        at: Millis(1),
        class: Class::A,
        tenant: Some(acme()),
        kind: Kind::TenantCreated.as_str().to_owned(),
        body: serde_json::json!({}).into(),
    };
    ledger.append(&row).unwrap();
    drop(old);
    let mut state = State::open(dir.path(), Millis(2)).unwrap();
    assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), 0);
    ledger.append(&row).unwrap();
    assert_eq!(state.settle(&mut ledger, Millis(2)).unwrap(), 1);
}

#[test]
fn what_was_deleted_is_in_no_file_but_the_backups() {
    let dir = host(1);
    let mut state = State::open(dir.path(), Millis(2)).unwrap();
    let marks = ["first-envelope-of-a-secret", "second-envelope-of-a-secret"];
    let found = |mark: &str| {
        ["state.db", "state.db-wal"].iter().any(|file| {
            let bytes = fs::read(dir.path().join(file)).unwrap_or_default();
            bytes.windows(mark.len()).any(|window| window == mark.as_bytes())
        })
    };
    let secret = |version, envelope: &str| super::SecretRow {
        name: "KEY".parse().unwrap(),
        version,
        purpose: "model".to_owned(),
        envelope: envelope.to_owned(),
        at: Millis(1),
    };
    for (version, mark) in (1..).zip(marks) {
        state.change_quietly(|tables| tables.set_secret(&acme(), &secret(version, mark))).unwrap();
        state.scrub();
    }
    assert_eq!(marks.map(found), [false, true], "a new value leaves nothing of the old one");
    state.change_quietly(|tables| tables.forget_tenant(&acme())).unwrap();
    state.scrub();
    assert_eq!(marks.map(found), [false, false]);
}
