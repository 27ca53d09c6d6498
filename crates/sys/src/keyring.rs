//! Session keyrings: a key that is left behind on purpose, so that its absence shows that the keyring is another.
//!
//! The threat: a cell that still holds its launcher's session keyring could name, and search, every key in it.

use std::{
    ffi::CString,
    io,
    os::raw::{c_long, c_ulong},
};

/// A key in the session keyring that this process had when it was [planted](Planted::plant).
#[derive(Debug)]
pub struct Planted {
    /// That keyring's number, and the key's; none if it could not be used any more.
    left: Option<(c_long, c_long)>,
    description: CString,
}

/// `KEY_SPEC_SESSION_KEYRING`, as an argument.
const SESSION: c_ulong = (-3_i64).cast_unsigned();
const GET_KEYRING_ID: c_long = 0;
const SET_PERMISSIONS: c_long = 5;
const SEARCH: c_long = 10;
const SET_TIMEOUT: c_long = 15;
const INVALIDATE: c_long = 21;
/// All for who possesses it; its owner may see and search it, and so take it back.
const PERMISSIONS: c_ulong = 0x3f09_0000;
/// When the kernel takes back what its owner did not.
const SECONDS: c_ulong = 60;

impl Planted {
    /// Puts a key that nobody else knows into this process's session keyring, and finds it there. None where the
    /// kernel has no keyrings. A session that was revoked has nothing that could be found.
    pub fn plant() -> io::Result<Option<Self>> {
        let mut bytes = [0; 16];
        rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
        let description = format!("cofferdam:{:032x}", u128::from_ne_bytes(bytes));
        let description = CString::new(description).map_err(io::Error::other)?;
        let keyring = match keyctl(GET_KEYRING_ID, [SESSION, 1, 0, 0]) {
            Ok(keyring) => keyring,
            Err(error) => {
                return match error.raw_os_error() {
                    Some(libc::ENOSYS) => Ok(None),
                    Some(libc::EKEYREVOKED | libc::EKEYEXPIRED) => Ok(Some(Self { left: None, description })),
                    _ => Err(error),
                };
            }
        };
        // SAFETY: three texts that end with a NUL or have their length beside them, and the kernel copies them.
        let key = unsafe {
            let payload = description.as_bytes();
            let (kind, described) = (c"user".as_ptr(), description.as_ptr());
            libc::syscall(libc::SYS_add_key, kind, described, payload.as_ptr(), payload.len(), SESSION)
        };
        let key = positive(key)?;
        keyctl(SET_TIMEOUT, [number(key), SECONDS, 0, 0])?;
        keyctl(SET_PERMISSIONS, [number(key), PERMISSIONS, 0, 0])?;
        let planted = Self { left: Some((keyring, key)), description };
        if planted.search(SESSION)? == key {
            Ok(Some(planted))
        } else {
            Err(io::Error::other("a key is lost"))
        }
    }

    /// What shows that this process still has the keyring in which the key is; nothing if it has another. Takes the
    /// key back.
    pub fn still_there(&self) -> io::Result<Option<String>> {
        let keyring = positive(keyctl(GET_KEYRING_ID, [SESSION, 0, 0, 0])?)?;
        let Some((left, key)) = self.left else { return Ok(None) };
        let found = self.search(SESSION);
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

    fn search(&self, keyring: c_ulong) -> io::Result<c_long> {
        let (kind, described) = (c"user".as_ptr() as c_ulong, self.description.as_ptr() as c_ulong);
        keyctl(SEARCH, [keyring, kind, described, 0])
    }
}

/// The arguments are numbers, or addresses of texts that end with a NUL and live through the call.
fn keyctl(operation: c_long, [a, b, c, d]: [c_ulong; 4]) -> io::Result<c_long> {
    // SAFETY: of the operations above only a search reads memory, as far as the NUL of its texts; none writes any.
    let result = unsafe { libc::syscall(libc::SYS_keyctl, operation, a, b, c, d) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// A key's number. A kernel that says 0 did nothing.
fn positive(serial: c_long) -> io::Result<c_long> {
    match serial {
        0 => Err(io::Error::other("the kernel names no keyring")),
        serial if serial < 0 => Err(io::Error::last_os_error()),
        serial => Ok(serial),
    }
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
        std::thread::spawn(|| {
            new_keyring().unwrap();
            let left = Planted::plant().unwrap().unwrap();
            assert!(left.still_there().unwrap().unwrap().contains("the launcher's"));
            let left = Planted::plant().unwrap().unwrap();
            new_keyring().unwrap();
            assert_eq!(left.still_there().unwrap(), None);
            // It was taken back: its number means nothing any more.
            let (_, key) = left.left.unwrap();
            let again = keyctl(SET_TIMEOUT, [number(key), SECONDS, 0, 0]).unwrap_err();
            assert_eq!(again.raw_os_error(), Some(libc::ENOKEY));
        })
        .join()
        .unwrap();
    }
}
