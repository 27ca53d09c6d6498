//! What the ledger promises, on real files, a real full disk and real kills.
#![allow(clippy::unwrap_used)]

use super::*;
use std::{
    fs,
    io::{BufRead, BufReader, Write},
    process::{Command, Stdio},
};

const NOW: Millis = Millis(1_700_000_000_000);
const SMALL: Limits = Limits { segment: 2000, budget: 1000, counted: 5 };
const CHILD: &str = "COFFERDAM_TEST_LEDGER";

fn row(class: Class, tenant: Option<&str>, kind: &str, n: u64) -> NewRow {
    let tenant = tenant.map(|t| TenantId::try_from(t).unwrap());
    NewRow {
        at: NOW,
        class,
        tenant,
        kind: kind.to_owned(),
        body: json!({ "n": n, "text": "a\nb", "x": 0.1 }).into(),
    }
}

fn plain(n: u64) -> NewRow {
    row(Class::A, None, "policy_set", n)
}

fn open(dir: &Path) -> Ledger {
    Ledger::open(dir, NOW).unwrap()
}

fn filled(dir: &Path, rows: u64) -> Ledger {
    let mut ledger = open(dir);
    for n in 1..=rows {
        assert_eq!(ledger.append(&plain(n)).unwrap(), n);
    }
    ledger
}

fn seqs(rows: &[StoredRow]) -> Vec<u64> {
    rows.iter().map(|row| row.seq).collect()
}

#[test]
fn one_byte_changed_anywhere_is_found_at_its_row() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = filled(dir.path(), 8);
    let path = dir.path().join("00000001.log");
    let good = fs::read(&path).unwrap();
    let untouched = ledger.verify().unwrap();
    assert!(untouched.whole && untouched.rows == 8 && untouched.problem.is_empty(), "{untouched:?}");
    let mut before = 0;
    for at in 0..good.len() {
        for flip in [0x01, 0x20] {
            let mut bad = good.clone();
            bad[at] ^= flip;
            fs::write(&path, &bad).unwrap();
            let found = ledger.verify().unwrap();
            assert!(!found.whole && found.rows == before, "byte {at}: {found:?}");
            let place = format!("00000001.log, line {}", before + 1);
            assert!(found.problem.contains(&place), "byte {at}: {found:?}");
        }
        before += u64::from(good[at] == b'\n');
    }
    fs::write(&path, &good).unwrap();
    assert_eq!(ledger.verify().unwrap(), untouched);
}

#[test]
fn rows_taken_off_the_end_are_missed_and_rows_put_there_are_found() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = filled(dir.path(), 3);
    let path = dir.path().join("00000001.log");
    let good = fs::read_to_string(&path).unwrap();
    fs::write(&path, good.split_inclusive('\n').take(2).collect::<String>()).unwrap();
    let found = ledger.verify().unwrap();
    assert!(!found.whole && found.problem.contains("row 2, row 3 was written"), "{found:?}");
    fs::write(&path, format!("{good}{}", good.split_inclusive('\n').next().unwrap())).unwrap();
    assert!(!ledger.verify().unwrap().whole);
    fs::write(&path, &good).unwrap();
    assert!(ledger.verify().unwrap().whole);
}

#[test]
fn a_reader_sees_the_ledger_as_it_was_while_it_is_written_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open_with(dir.path(), NOW, SMALL).unwrap();
    let anna = TenantId::try_from("anna").unwrap();
    let reader = ledger.reader();
    assert_eq!(reader.after(0, None, 9).unwrap(), (vec![], 0));
    for n in 1..=40 {
        ledger.append(&row(Class::A, (n == 3).then_some("anna"), "policy_set", n)).unwrap();
    }
    let reader = ledger.reader();
    let added = std::thread::spawn(move || {
        for n in 41..=400 {
            ledger.append(&plain(n)).unwrap();
        }
        ledger
    });
    while !added.is_finished() {
        assert!(reader.verify().unwrap().whole);
        assert_eq!(seqs(&reader.tail(2, None).unwrap()), [39, 40]);
        assert_eq!(seqs(&reader.after(38, None, 9).unwrap().0), [39, 40]);
    }
    // Who follows one tenant does not read again what was not that tenant's.
    let (rows, through) = reader.after(0, Some(&anna), 9).unwrap();
    assert_eq!((seqs(&rows), through), (vec![3], 40));
    let (rows, through) = reader.after(0, None, 5).unwrap();
    assert_eq!((rows.len(), through), (5, 5));
    let ledger = added.join().unwrap();
    assert!(ledger.end(reader.verify().unwrap()).unwrap().whole);
}

#[test]
fn a_torn_end_is_cut_off_and_told_of() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 3));
    let path = dir.path().join("00000001.log");
    let good = fs::read(&path).unwrap();
    let last = good[..good.len() - 1].iter().rposition(|b| *b == b'\n').unwrap() + 1;
    for end in last + 1..good.len() {
        fs::write(&path, &good[..end]).unwrap();
        let ledger = open(dir.path());
        let rows = ledger.after(0, None, 9).unwrap();
        assert_eq!(seqs(&rows), [1, 2, 3]);
        assert_eq!((rows[2].kind.as_str(), &rows[2].body), ("recovered", &json!({ "bytes": end - last })));
        assert!(ledger.verify().unwrap().whole);
    }
    let mut damaged = good.clone();
    damaged[last + 5] ^= 1;
    fs::write(&path, &damaged).unwrap();
    assert_eq!(open(dir.path()).tail(1, None).unwrap()[0].body, json!({ "bytes": good.len() - last }));
    // Control: what is whole stays as it is.
    fs::write(&path, &good).unwrap();
    let ledger = open(dir.path());
    assert_eq!((ledger.rows(), fs::read(&path).unwrap()), (3, good));
}

#[test]
fn a_chain_broken_in_the_middle_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    drop(filled(dir.path(), 5));
    let path = dir.path().join("00000001.log");
    let good = fs::read(&path).unwrap();
    let mut bad = good.clone();
    let third = good.split_inclusive(|b| *b == b'\n').take(2).map(<[u8]>::len).sum::<usize>();
    bad[third + 10] ^= 1;
    fs::write(&path, &bad).unwrap();
    match Ledger::open(dir.path(), NOW) {
        Err(Error::LedgerBroken { segment, line, why: _ }) => {
            assert_eq!((segment.as_str(), line), ("00000001.log", 3));
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(fs::read(&path).unwrap(), bad);
    fs::write(&path, &good).unwrap();
    assert_eq!(open(dir.path()).rows(), 5);
}

#[test]
fn segments_rotate_and_the_chain_goes_on() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open_with(dir.path(), NOW, SMALL).unwrap();
    for n in 1..=3000 {
        let rows = [row(Class::A, (n % 3 == 0).then_some("anna"), "policy_set", n), plain(n)];
        assert_eq!(ledger.append_all(&rows).unwrap(), 2 * n);
    }
    let anna = TenantId::try_from("anna").unwrap();
    let look = |ledger: &Ledger| {
        assert!(ledger.segments.len() > 100 && ledger.verify().unwrap().whole);
        assert_eq!(seqs(&ledger.after(0, None, usize::MAX).unwrap()), (1..=6000).collect::<Vec<_>>());
        assert_eq!(seqs(&ledger.tail(u32::MAX, None).unwrap()), (1..=6000).collect::<Vec<_>>());
        for seq in [1, 1023, 1024, 1025, 4000, 5998] {
            assert_eq!(seqs(&ledger.after(seq, None, 2).unwrap()), [seq + 1, seq + 2]);
        }
        assert!(ledger.after(6000, None, 2).unwrap().is_empty() && ledger.tail(0, None).unwrap().is_empty());
        assert_eq!(seqs(&ledger.tail(2, Some(&anna)).unwrap()), [5993, 5999]);
        assert_eq!(seqs(&ledger.after(5, Some(&anna), 2).unwrap()), [11, 17]);
    };
    look(&ledger);
    drop(ledger);
    look(&Ledger::open_with(dir.path(), NOW, SMALL).unwrap());
    // A missing segment is a broken chain; a torn line is forgiven in the last segment only.
    let second = dir.path().join("00000002.log");
    let good = fs::read(&second).unwrap();
    fs::write(&second, &good[..good.len() - 1]).unwrap();
    let refused = |e: Result<Ledger, Error>| matches!(e, Err(Error::LedgerBroken { segment, .. }) if segment == "00000002.log");
    assert!(refused(Ledger::open_with(dir.path(), NOW, SMALL)));
    fs::remove_file(&second).unwrap();
    assert!(refused(Ledger::open_with(dir.path(), NOW, SMALL)));
    fs::write(&second, &good).unwrap();
    look(&Ledger::open_with(dir.path(), NOW, SMALL).unwrap());
}

#[test]
fn long_rows_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path());
    for n in 1..=5 {
        let body = json!("x".repeat(100_000));
        ledger.append(&NewRow { body: body.clone().into(), ..plain(n) }).unwrap();
        ledger.append(&plain(n)).unwrap();
        assert_eq!(ledger.tail(2, None).unwrap()[0].body, body);
    }
    assert_eq!(seqs(&ledger.tail(7, None).unwrap()), [4, 5, 6, 7, 8, 9, 10]);
}

#[test]
fn an_opened_ledger_knows_the_last_record_of_each_warden() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = open(dir.path());
    let record = |tenant, kind, boot: u64, seq: u64| NewRow {
        body: json!({ "boot": boot, "seq": seq, "by": "default" }).into(),
        ..row(Class::B, Some(tenant), kind, 0)
    };
    let bodies = [json!([1]), json!("boot"), json!(null), json!(1.5), json!({ "boot": "x", "seq": -1 })];
    ledger.append_all(&[record("anna", "allow", 7, 1), record("anna", "deny", 8, 3)]).unwrap();
    ledger.append_all(&[record("bert", "use", 9, 1), record("bert", "edge", 1, 99)]).unwrap();
    for body in bodies {
        ledger.append(&NewRow { body: body.into(), ..row(Class::B, Some("anna"), "allow", 0) }).unwrap();
    }
    drop(ledger);
    let told: Vec<_> = open(dir.path()).told().iter().map(|(t, told)| (t.to_string(), *told)).collect();
    assert_eq!(told, [("anna".to_owned(), (8, 3)), ("bert".to_owned(), (9, 1))]);
}

#[test]
fn two_cannot_have_one_ledger_open() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = open(dir.path());
    assert!(matches!(Ledger::open(dir.path(), NOW), Err(Error::Io { .. })));
    drop(ledger);
    open(dir.path());
}

#[test]
fn rows_over_a_tenants_daily_budget_are_counted_and_its_neighbours_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let mut ledger = Ledger::open_with(dir.path(), NOW, SMALL).unwrap();
    let rows: Vec<_> = (0..18).map(|n| row(Class::B, Some("loud"), "deny", n)).collect();
    ledger.append_all(&rows).unwrap();
    let kinds = |ledger: &Ledger, kind: &str| {
        ledger
            .after(0, None, usize::MAX)
            .unwrap()
            .into_iter()
            .filter(|row| row.kind == kind)
            .collect::<Vec<_>>()
    };
    let kept = kinds(&ledger, "deny").len() as u64;
    assert!((3..10).contains(&kept), "{kept}");
    let counted = kinds(&ledger, "counted");
    assert_eq!(counted.len() as u64, (18 - kept) / 5);
    assert_eq!(counted[0].body["counted"], 5);
    // Controls: a neighbour, what the edge saw at the same tenant's door, and class A of the same tenant.
    let seen = ledger.rows();
    assert_eq!(ledger.append(&row(Class::B, Some("loud"), "edge_refused", 1)).unwrap(), seen + 1);
    let before = ledger.rows();
    ledger.append(&row(Class::B, Some("quiet"), "deny", 1)).unwrap();
    assert_eq!(ledger.append(&row(Class::A, Some("loud"), "kill", 1)).unwrap(), before + 2);
    // Opening it again does not give a new budget, a row that says that it is of another day does not either.
    drop(ledger);
    let mut ledger = Ledger::open_with(dir.path(), NOW, SMALL).unwrap();
    let tomorrow = NOW.plus(86_400_000);
    for at in [NOW, tomorrow, tomorrow] {
        let over = NewRow { at, ..row(Class::B, Some("loud"), "deny", 9) };
        ledger.append(&over).unwrap();
    }
    assert!(kinds(&ledger, "deny").len() as u64 <= kept + 2);
    let over = ledger.rows();
    assert_eq!(ledger.append(&row(Class::B, Some("loud"), "deny", 9)).unwrap(), over);
    // The next day tells of the rest, and the tenant may write again.
    ledger.opened.0 = tomorrow;
    assert_eq!(ledger.append(&row(Class::B, Some("loud"), "deny", 10)).unwrap(), over + 2);
    let last = ledger.tail(2, None).unwrap();
    assert_eq!((last[0].kind.as_str(), last[1].kind.as_str()), ("counted", "deny"));
    assert!(ledger.verify().unwrap().whole);
}

/// This program again, as one ignored test that is given a directory.
fn child(program: &str, before: &[&str], test: &str, dir: &Path) -> Command {
    #[expect(clippy::disallowed_methods, reason = "a test runs itself, to be killed or to mount")]
    let mut command = Command::new(program);
    command.args(before).args(["--exact", &format!("ledger::tests::{test}"), "--ignored", "--nocapture"]);
    command.env(CHILD, dir).stdin(Stdio::null());
    command
}

fn this() -> String {
    std::env::current_exe().unwrap().to_str().unwrap().to_owned()
}

#[test]
fn a_kill_in_the_middle_of_writing_leaves_no_gap_and_loses_nothing_that_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    for round in 0..6 {
        let mut writer = child(&this(), &[], "child_writes_until_killed", dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut acknowledged = 0;
        let mut seen = 0;
        for line in BufReader::new(writer.stdout.take().unwrap()).lines() {
            // The harness writes to the same pipe; our lines end with a number after "wrote".
            let line = line.unwrap();
            let Some((_, seq)) = line.rsplit_once("wrote ") else { continue };
            acknowledged = seq.parse().unwrap();
            seen += 1;
            if seen == 20 + round {
                writer.kill().unwrap();
            }
        }
        writer.wait().unwrap();
        assert!(seen >= 20 + round, "the child wrote only {seen} times");
        let ledger = open(dir.path());
        assert!(ledger.rows() >= acknowledged, "{} of {acknowledged}", ledger.rows());
        assert!(ledger.verify().unwrap().whole);
        let rows = ledger.after(0, None, usize::MAX).unwrap();
        assert_eq!(seqs(&rows), (1..=ledger.rows()).collect::<Vec<_>>());
    }
}

#[test]
#[ignore = "another test runs it as a child"]
fn child_writes_until_killed() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let mut ledger = open(Path::new(&dir));
    // The budget is no matter here: rows of no tenant.
    for n in 0..100_000 {
        let rows: Vec<_> = (0..100).map(|i| row(Class::B, None, "allow", n * 100 + i)).collect();
        let seq = ledger.append_all(&rows).unwrap();
        writeln!(io::stdout(), "wrote {seq}").unwrap();
    }
}

#[test]
fn a_full_disk_takes_denials_and_kills_and_nothing_half() {
    let dir = tempfile::tempdir().unwrap();
    let script = "mount -t tmpfs -o size=6m none \"$COFFERDAM_TEST_LEDGER\" || exit 77; exec \"$@\"";
    let this = this();
    let before = ["-m", "sh", "-c", script, "sh", &this];
    let output = child("unshare", &before, "child_fills_its_disk", dir.path()).output();
    let skipped = match &output {
        Err(error) => Some(error.to_string()),
        Ok(output) if matches!(output.status.code(), Some(77 | 1)) => {
            Some(String::from_utf8_lossy(&output.stderr).into_owned())
        }
        Ok(_) => None,
    };
    if let Some(why) = skipped {
        writeln!(io::stderr(), "SKIPPED: no disk of its own to fill (needs root): {why}").unwrap();
        return;
    }
    let output = output.unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && said.contains("1 passed"),
        "{said}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
#[ignore = "another test runs it as a child, on a small disk"]
fn child_fills_its_disk() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let dir = Path::new(&dir);
    let mut ledger = open(dir);
    fs::write(dir.join("filler"), vec![1; 3 * 1024 * 1024]).unwrap();
    let large =
        |n| NewRow { body: json!("x".repeat(100_000)).into(), ..row(Class::A, None, "policy_set", n) };
    let full = |done: Result<u64, Error>| matches!(done, Err(Error::DiskFull));
    let path = dir.join("00000001.log");
    let mut written = 0;
    let refused = loop {
        let before = fs::metadata(&path).unwrap().len();
        // Two in a batch: the disk fills up in the middle of one.
        match ledger.append_all(&[large(1), large(2)]) {
            Ok(seq) => written = seq,
            Err(error) => {
                assert_eq!(fs::metadata(&path).unwrap().len(), before, "a part of a batch stayed");
                break error;
            }
        }
    };
    assert!(matches!(refused, Error::DiskFull), "{refused}");
    assert!(written > 2 && ledger.rows() == written && ledger.verify().unwrap().whole);
    // A tenant takes every byte that the disk still gives, and what is kept back is not among them.
    let mut greedy = File::create(dir.join("greedy")).unwrap();
    while greedy.write_all(&[1; 512]).is_ok() {}
    // What is essential is taken, what is not is not, and no part of a batch that has both.
    for n in 1..=100 {
        assert_eq!(ledger.append(&row(Class::B, Some("anna"), "deny", n)).unwrap(), written + n);
    }
    assert_eq!(ledger.append(&row(Class::A, Some("anna"), "stop_cell", 0)).unwrap(), written + 101);
    assert!(full(ledger.append(&row(Class::B, Some("anna"), "allow", 0))));
    assert!(full(ledger.append_all(&[row(Class::B, None, "deny", 0), row(Class::B, None, "allow", 0)])));
    ledger.opened.0 = NOW.plus(5_000);
    assert!(full(ledger.append(&row(Class::B, Some("anna"), "allow", 0))), "still full");
    // A flood of denials ends before the room for a stop does.
    let long = NewRow { body: json!("x".repeat(10_000)).into(), ..row(Class::B, None, "deny", 0) };
    let flood = (1..100_000).find(|_| full(ledger.append(&long))).unwrap();
    let written = written + flood - 1;
    // So it is after it was opened again.
    drop(ledger);
    let mut ledger = open(dir);
    assert!(full(ledger.append(&long)));
    assert_eq!(ledger.append(&row(Class::A, Some("anna"), "tenant_stop", 0)).unwrap(), written + 102);
    // When there is room again, every row is taken.
    fs::remove_file(dir.join("filler")).unwrap();
    ledger.opened.0 = NOW.plus(5_000);
    assert_eq!(ledger.append(&row(Class::B, Some("anna"), "allow", 0)).unwrap(), written + 103);
    assert!(ledger.verify().unwrap().whole);
}

#[test]
fn a_full_disk_takes_what_is_refused_or_taken_away_and_nothing_that_is_given() {
    let given =
        ["approval_granted", "approval_used", "allow", "use", "start_cell", "token_issued", "key_released"];
    let taken = ["deny", "edge_refused", "tenant_stop", "stop_cell", "tenant_delete", "approval_denied"];
    let words: std::collections::BTreeSet<_> = Kind::ALL.iter().map(|kind| kind.as_str()).collect();
    assert_eq!(words.len(), Kind::ALL.len(), "no two kinds have one word");
    for kind in Kind::ALL {
        let word = kind.as_str();
        assert!(word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{word}");
        assert!(!(kind.is_essential() && given.contains(&word)), "{word}");
        assert!(kind.is_essential() || !taken.contains(&word), "{word}");
    }
    assert!(given.iter().chain(&taken).all(|word| words.contains(word)));
}
