#![allow(clippy::unwrap_used)]

use super::*;
use cofferdam_base::{Secret, SecretName, TenantId, ipc::warden::SealedSecret};
use proptest::prelude::*;
use std::{fs, os::unix::fs::PermissionsExt};

fn tenant(id: &str) -> TenantId {
    TenantId::try_from(id).unwrap()
}

fn name(name: &str) -> SecretName {
    SecretName::try_from(name).unwrap()
}

fn secret(bytes: &[u8]) -> Secret<Vec<u8>> {
    Secret::new(bytes.to_vec())
}

#[test]
fn a_placeholder_is_of_one_key_tenant_and_name_and_stays_with_them() {
    let (key, other) = (DataKey::generate().unwrap(), DataKey::generate().unwrap());
    let made = key.placeholder(&tenant("acme"), &name("KEY"));
    assert_eq!(made, key.placeholder(&tenant("acme"), &name("KEY")));
    for another in [
        key.placeholder(&tenant("globex"), &name("KEY")),
        key.placeholder(&tenant("acme"), &name("KEY2")),
        other.placeholder(&tenant("acme"), &name("KEY")),
    ] {
        assert_ne!(made, another);
    }
}

#[test]
fn a_secret_opens_at_its_place_and_nowhere_else() {
    let key = DataKey::generate().unwrap();
    let (acme, globex) = (tenant("acme"), tenant("globex"));
    let sealed = key.seal_secret(&acme, &name("KEY"), 3, "bearer", &secret(b"sk-1")).unwrap();
    assert_eq!(key.open_secret(&acme, &sealed).unwrap().expose(), b"sk-1");

    let moved = [
        (&globex, sealed.clone()),
        (&acme, SealedSecret { name: name("OTHER"), ..sealed.clone() }),
        (&acme, SealedSecret { version: 4, ..sealed.clone() }),
        (&acme, SealedSecret { purpose: "header".into(), ..sealed.clone() }),
    ];
    for (tenant, moved) in moved {
        let error = key.open_secret(tenant, &moved).err().unwrap();
        assert!(matches!(error, Error::SecretDoesNotOpen { .. }), "{error}");
    }
    let neighbour = DataKey::generate().unwrap();
    assert!(matches!(neighbour.open_secret(&acme, &sealed), Err(Error::SecretDoesNotOpen { .. })));
}

#[test]
fn fields_cannot_lend_each_other_bytes() {
    let key = DataKey::generate().unwrap();
    let acme = tenant("acme");
    let context = Context { tenant: &acme, name: &name("ab"), version: 1, purpose: "c" };
    let envelope = key.seal(context, &secret(b"x")).unwrap();
    assert!(key.open(context, &envelope).is_ok());
    let shifted = Context { tenant: &acme, name: &name("a"), version: 1, purpose: "bc" };
    assert!(key.open(shifted, &envelope).is_err());
}

#[test]
fn an_envelope_altered_at_any_byte_does_not_open() {
    let key = DataKey::generate().unwrap();
    let (acme, name) = (tenant("acme"), name("KEY"));
    let context = Context { tenant: &acme, name: &name, version: 1, purpose: "bearer" };
    let envelope = key.seal(context, &secret(b"sk-of-some-length")).unwrap();
    assert!(key.open(context, &envelope).is_ok());
    for at in 0..envelope.len() {
        for bit in 0..8 {
            let mut altered = envelope.clone();
            altered[at] ^= 1 << bit;
            assert!(key.open(context, &altered).is_err(), "byte {at}, bit {bit}");
        }
        assert!(key.open(context, &envelope[..at]).is_err(), "cut at {at}");
    }
}

#[test]
fn a_data_key_comes_back_through_its_wrap_text() {
    let master = MasterKey::generate().unwrap();
    let key = DataKey::generate().unwrap();
    let text = master.wrap(&tenant("acme"), 1, &key).unwrap().to_string();
    let wrapped: WrappedDataKey = text.parse().unwrap();
    assert_eq!(wrapped.to_string(), text);
    assert_eq!(master.unwrap(&tenant("acme"), &wrapped).unwrap().raw(), key.raw());
}

#[test]
fn a_wrap_opens_for_its_tenant_and_version_only() {
    let master = MasterKey::generate().unwrap();
    let wrapped = master.wrap(&tenant("acme"), 1, &DataKey::generate().unwrap()).unwrap();
    assert!(master.unwrap(&tenant("acme"), &wrapped).is_ok());
    assert!(matches!(master.unwrap(&tenant("globex"), &wrapped), Err(Error::DataKeyDoesNotOpen { .. })));
    let other: WrappedDataKey = wrapped.to_string().replacen("ck1.1.", "ck1.2.", 1).parse().unwrap();
    assert!(matches!(master.unwrap(&tenant("acme"), &other), Err(Error::DataKeyDoesNotOpen { .. })));
}

#[test]
fn a_wrong_master_key_says_so_and_changes_nothing() {
    let (right, wrong) = (MasterKey::generate().unwrap(), MasterKey::generate().unwrap());
    let wrapped = right.wrap(&tenant("acme"), 1, &DataKey::generate().unwrap()).unwrap();
    let before = wrapped.to_string();
    let error = wrong.unwrap(&tenant("acme"), &wrapped).unwrap_err();
    assert!(matches!(error, Error::WrongMasterKey { .. }));
    assert!(error.to_string().starts_with("wrong master key"));
    assert_eq!(wrapped.to_string(), before);
    assert!(right.unwrap(&tenant("acme"), &wrapped).is_ok());
}

#[test]
fn a_wrap_altered_at_any_byte_is_refused() {
    let master = MasterKey::generate().unwrap();
    let text = master.wrap(&tenant("acme"), 1, &DataKey::generate().unwrap()).unwrap().to_string();
    for at in 0..text.len() {
        let mut altered = text.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        let opened = String::from_utf8(altered)
            .unwrap()
            .parse::<WrappedDataKey>()
            .and_then(|wrapped| master.unwrap(&tenant("acme"), &wrapped));
        assert!(opened.is_err(), "byte {at}");
    }
}

#[test]
fn a_data_key_passes_a_descriptor_as_exactly_32_bytes() {
    let key = DataKey::generate().unwrap();
    let mut pipe = Vec::new();
    key.write_to(&mut pipe).unwrap();
    assert_eq!(DataKey::read_from(pipe.as_slice()).unwrap().raw(), key.raw());
    assert!(DataKey::read_from(&pipe[..31]).is_err());
    assert!(DataKey::read_from([0; 33].as_slice()).is_err());
    assert_eq!(DataKey::from_raw(Secret::new(*key.raw())).unwrap().raw(), key.raw());
}

fn key_file(content: &[u8], mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    fs::write(&path, content).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    (dir, path)
}

#[test]
fn a_key_file_of_32_bytes_or_64_hex_digits_is_read() {
    let (_raw, raw) = key_file(&[0xab; 32], 0o400);
    let (_hex, hex) = key_file("aB".repeat(32).as_bytes(), 0o400);
    let (_line, line) = key_file(format!("{}\n", "ab".repeat(32)).as_bytes(), 0o400);
    let id = MasterKey::from_file(&raw).unwrap().id();
    assert_eq!(MasterKey::from_file(&hex).unwrap().id(), id);
    assert_eq!(MasterKey::from_file(&line).unwrap().id(), id);
    for bad in [&b""[..], &[1; 31], &[1; 33], &[b'a'; 63], &[b'g'; 64], &[b'a'; 66], &[b'a'; 4096]] {
        let (_dir, path) = key_file(bad, 0o400);
        assert!(matches!(MasterKey::from_file(&path), Err(Error::KeyLength { .. })), "{}", bad.len());
    }
}

#[test]
fn a_key_file_that_others_may_touch_is_refused_with_what_to_type() {
    let (_dir, path) = key_file(&[1; 32], 0o400);
    assert!(MasterKey::from_file(&path).is_ok());
    for mode in [0o600, 0o440, 0o404, 0o644, 0o500] {
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let error = MasterKey::from_file(&path).unwrap_err().to_string();
        assert!(error.contains("chmod 0400"), "{error}");
    }
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).unwrap();
    let foreign = rustix::process::geteuid().as_raw() + 1;
    let error = MasterKey::from_file_of(&path, foreign).unwrap_err();
    assert!(matches!(error, Error::KeyFileOwner { .. }) && error.to_string().contains("chown"));
    let link = path.with_extension("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(MasterKey::from_file(&link), Err(Error::KeyFileKind(_))));
    assert!(matches!(MasterKey::from_file(path.parent().unwrap()), Err(Error::KeyFileKind(_))));
}

#[test]
fn a_generated_key_is_written_once_and_reads_back() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let key = MasterKey::generate().unwrap();
    key.write_new(&path).unwrap();
    assert_eq!(MasterKey::from_file(&path).unwrap().id(), key.id());
    assert!(matches!(MasterKey::generate().unwrap().write_new(&path), Err(Error::KeyFileWrite { .. })));
    assert_eq!(MasterKey::from_file(&path).unwrap().id(), key.id());
}

#[test]
fn a_command_gives_the_key_from_an_empty_environment() {
    let run = |script: &str| {
        MasterKey::from_command(&["/bin/sh", "-c", script].map(str::to_owned)).map(|key| key.id())
    };
    let hex = "ab".repeat(32);
    let (_dir, path) = key_file(&[0xab; 32], 0o400);
    let expected = MasterKey::from_file(&path).unwrap().id();
    // The shell itself sets PWD, SHLVL and _; HOME and CARGO come from us or not at all.
    assert_eq!(run(&format!("[ -z \"$HOME$CARGO\" ] && echo {hex}")).unwrap(), expected);
    assert!(matches!(run("exit 3"), Err(Error::KeyCommandFailed { .. })));
    assert!(matches!(run(&format!("echo {hex}; exit 1")), Err(Error::KeyCommandFailed { .. })));
    assert!(matches!(run("echo short"), Err(Error::KeyLength { .. })));
    assert!(matches!(run("while :; do echo endless; done"), Err(Error::KeyLength { .. })));
    assert!(matches!(MasterKey::from_command(&[]), Err(Error::KeyCommandPath(_))));
    assert!(matches!(MasterKey::from_command(&["echo".into()]), Err(Error::KeyCommandPath(_))));
}

#[test]
fn debug_shows_no_key_bytes() {
    let (_dir, path) = key_file(&[0xab; 32], 0o400);
    let master = MasterKey::from_file(&path).unwrap();
    assert!(!format!("{master:?}").contains("abab"));
    assert_eq!(format!("{:?}", DataKey::generate().unwrap()), "DataKey(…)");
}

proptest! {
    #[test]
    fn every_value_comes_back(plaintext: Vec<u8>, version: u32, purpose in ".{0,40}") {
        let key = DataKey::generate().unwrap();
        let (acme, name) = (tenant("acme"), name("KEY"));
        let context = Context { tenant: &acme, name: &name, version, purpose: &purpose };
        let envelope = key.seal(context, &secret(&plaintext)).unwrap();
        let opened = key.open(context, &envelope).unwrap();
        prop_assert_eq!(opened.expose(), &plaintext);
        let again = key.seal(context, &secret(&plaintext)).unwrap();
        prop_assert_ne!(envelope, again, "a nonce is used once");
    }

    #[test]
    fn no_garbage_panics_or_opens(garbage: Vec<u8>, text in ".{0,200}") {
        let key = DataKey::generate().unwrap();
        let (acme, name) = (tenant("acme"), name("KEY"));
        let context = Context { tenant: &acme, name: &name, version: 1, purpose: "p" };
        prop_assert!(key.open(context, &garbage).is_err());
        if let Ok(wrapped) = text.parse::<WrappedDataKey>() {
            prop_assert!(MasterKey::generate().unwrap().unwrap(&acme, &wrapped).is_err());
        }
    }
}

#[test]
fn a_key_file_is_there_whole_or_not_at_all() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("master.key");
    let beside = dir.path().join("master.key.new");
    // What a kill left of an earlier try is in nobody's way.
    fs::write(&beside, "").unwrap();
    let key = MasterKey::generate().unwrap();
    key.write_new(&path).unwrap();
    assert!(!beside.exists());
    assert_eq!(MasterKey::from_file(&path).unwrap().id(), key.id());
    // Where something is already, nothing changes and nothing is left.
    let written = fs::read(&path).unwrap();
    assert!(MasterKey::generate().unwrap().write_new(&path).is_err());
    assert_eq!((fs::read(&path).unwrap(), beside.exists()), (written, false));
}

#[test]
fn a_derived_key_follows_from_its_key_and_its_purpose_and_is_neither() {
    let raw = || DataKey::from_raw(Secret::new([5; KEY_LEN])).unwrap();
    let derived = |key: &DataKey, purpose| *key.derive(purpose).unwrap().expose();
    assert_eq!(derived(&raw(), "a"), derived(&raw(), "a"));
    assert_ne!(derived(&raw(), "a"), derived(&raw(), "b"));
    assert_ne!(derived(&raw(), "a"), derived(&DataKey::generate().unwrap(), "a"));
    assert_ne!(derived(&raw(), "a"), [5; KEY_LEN]);
}

#[test]
fn a_secret_of_the_host_opens_under_its_name_and_its_key_alone() {
    let key = MasterKey::generate().unwrap();
    let sealed = key.seal_host("upstream-proxy", &secret(b"ann:word")).unwrap();
    assert_eq!(key.open_host("upstream-proxy", &sealed).unwrap().expose(), b"ann:word");
    assert!(!sealed.windows(4).any(|part| part == b"word"));
    assert!(key.open_host("another", &sealed).is_err());
    assert!(MasterKey::generate().unwrap().open_host("upstream-proxy", &sealed).is_err());
}
