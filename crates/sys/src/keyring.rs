//! Session keyrings: a key that is left behind on purpose, so that its absence shows that the keyring is another.
//!
//! The threat: a cell that still holds its launcher's session keyring could name, and search, every key in it.

use std::{
    io,
    os::raw::{c_long, c_ulong},
};

/// A key in the session keyring that this process had when it was [planted](Planted::plant): its process keyring, since
/// a launcher of ours may make no other.
#[derive(Debug)]
pub struct Planted {
    /// The session keyring's number, and the key's; none if it could not be used any more.
    left: Option<(c_long, c_long)>,
}

/// `KEY_SPEC_PROCESS_KEYRING` and `KEY_SPEC_SESSION_KEYRING`, as arguments.
const PROCESS: c_ulong = (-2_i64).cast_unsigned();
const SESSION: c_ulong = (-3_i64).cast_unsigned();
const GET_KEYRING_ID: c_long = 0;
const SET_PERMISSIONS: c_long = 5;
const LINK: c_long = 8;
const SEARCH: c_long = 10;
const SET_TIMEOUT: c_long = 15;
const INVALIDATE: c_long = 21;
/// All for who possesses it; its owner may see and search it, and so take it back.
const PERMISSIONS: c_ulong = 0x3f09_0000;
/// When the kernel takes back what its owner did not.
const SECONDS: c_ulong = 60;

impl Planted {
    /// Puts a key into this process's session keyring, and finds it there. None where the kernel has no keyrings. A
    /// session that was revoked has nothing that could be found. Once a process.
    pub fn plant() -> io::Result<Option<Self>> {
        let keyring = match keyctl(GET_KEYRING_ID, [SESSION, 1, 0, 0]) {
            Ok(keyring) => positive(keyring)?,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENOSYS) => Ok(None),
                    Some(libc::EKEYREVOKED | libc::EKEYEXPIRED) => Ok(Some(Self { left: None })),
                    _ => Err(error),
                };
            }
        };
        let key = positive(keyctl(GET_KEYRING_ID, [PROCESS, 1, 0, 0])?)?;
        keyctl(SET_TIMEOUT, [number(key), SECONDS, 0, 0])?;
        keyctl(SET_PERMISSIONS, [number(key), PERMISSIONS, 0, 0])?;
        keyctl(LINK, [number(key), SESSION, 0, 0])?;
        if search()? == key {
            Ok(Some(Self { left: Some((keyring, key)) }))
        } else {
            Err(io::Error::other("a key is lost"))
        }
    }

    /// What shows that this process still has the keyring in which the key is; nothing if it has another. Takes the
    /// key back.
    pub fn still_there(&self) -> io::Result<Option<String>> {
        let keyring = positive(keyctl(GET_KEYRING_ID, [SESSION, 0, 0, 0])?)?;
        let Some((left, key)) = self.left else { return Ok(None) };
        let found = search();
        let taken_back = keyctl(INVALIDATE, [number(key), 0, 0, 0]);
        if keyring == left {
            return Ok(Some(format!("it is the launcher's, {left}")));
        }
        match found {
            Err(error) if error.raw_os_error() == Some(libc::ENOKEY) => taken_back.map(|_| None),
            Err(error) => Err(error),
            Ok(_) => Ok(Some("a key of the launcher's is found in it".to_owned())),
        }
    }
}

/// A process keyring in this process's session, or one of those in it.
fn search() -> io::Result<c_long> {
    keyctl(SEARCH, [SESSION, c"keyring".as_ptr() as c_ulong, c"_pid".as_ptr() as c_ulong, 0])
}

/// The arguments are numbers, or addresses of texts that end with a NUL and live through the call.
fn keyctl(operation: c_long, [a, b, c, d]: [c_ulong; 4]) -> io::Result<c_long> {
    // SAFETY: of the operations above only a search reads memory, as far as the NUL of its texts; none writes any.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, d) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A keyring's number. A kernel that says 0 did nothing.
fn positive(serial: c_long) -> io::Result<c_long> {
    if serial > 0 { Ok(serial) } else { Err(io::Error::other("the kernel names no keyring")) }
}

fn number(serial: c_long) -> c_ulong {
    serial.cast_unsigned()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::process::new_keyring;

    #[test]
    fn a_key_that_was_left_is_found_until_the_session_is_another() {
        // A thread has credentials of its own.
        let alone = |work: fn()| std::thread::spawn(work).join().unwrap();
        alone(|| {
            new_keyring().unwrap();
            let left = Planted::plant().unwrap().unwrap();
            assert!(left.still_there().unwrap().unwrap().contains("the launcher's"));
        });
        alone(|| {
            new_keyring().unwrap();
            let left = Planted::plant().unwrap().unwrap();
            new_keyring().unwrap();
            assert_eq!(left.still_there().unwrap(), None);
            // It was taken back: its number means nothing any more.
            let (_, key) = left.left.unwrap();
            let again = keyctl(SET_TIMEOUT, [number(key), SECONDS, 0, 0]).unwrap_err();
            assert_eq!(again.raw_os_error(), Some(libc::ENOKEY));
        });
    }
}
