//! Capabilities: kept over one exec while a cell is built, then gone for good.
//!
//! The threat: a set that is forgotten. A process has five (effective, permitted, inheritable, ambient,
//! bounding), and the bits that let uid 0 regain them; [`drop_all`] empties all five and locks the bits.

use crate::process::{check, check_long};
use std::{io, ptr};

const VERSION_3: u32 = 0x2008_0522;
/// The kernel refuses numbers past its last; 63 is the last that its format can hold.
const LAST: libc::c_ulong = 63;
/// `SECBIT_NOROOT`, `NO_SETUID_FIXUP`, `NO_CAP_AMBIENT_RAISE` and their locks; `KEEP_CAPS` locked off.
const LOCKED: libc::c_ulong = 0b1110_1111;

#[repr(C)]
struct Header {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Half {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// Makes every permitted capability effective, inheritable and ambient. Makes system calls only.
pub(crate) fn keep_over_exec() -> io::Result<()> {
    let mut halves = [Half::default(); 2];
    let mut header = Header { version: VERSION_3, pid: 0 };
    // SAFETY: version 3 reads and writes two halves.
    check_long(unsafe { libc::syscall(libc::SYS_capget, ptr::from_mut(&mut header), halves.as_mut_ptr()) })?;
    for half in &mut halves {
        half.effective = half.permitted;
        half.inheritable = half.permitted;
    }
    // SAFETY: as above.
    check_long(unsafe { libc::syscall(libc::SYS_capset, ptr::from_mut(&mut header), halves.as_ptr()) })?;
    for number in 0..=LAST {
        let half = halves[usize::from(number >= 32)];
        if half.permitted >> (number % 32) & 1 == 1 {
            // SAFETY: numbers only.
            check(unsafe {
                libc::prctl(
                    libc::PR_CAP_AMBIENT,
                    libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs()),
                    number,
                    0,
                    0,
                )
            })?;
        }
    }
    Ok(())
}

/// Makes every permitted capability effective again, after a change of uid that kept them.
pub fn raise_own() -> io::Result<()> {
    keep_over_exec()
}

/// Empties every set, locks the bits with which uid 0 would regain them, and forbids gaining by exec.
/// Needs CAP_SETPCAP for the bounding set and the bits; [`drop_own`] does without.
pub fn drop_all() -> io::Result<()> {
    drop_bounding()?;
    // SAFETY: numbers only.
    check(unsafe { libc::prctl(libc::PR_SET_SECUREBITS, LOCKED, 0, 0, 0) })?;
    drop_own()
}

/// Empties the bounding set, so that no exec gives a capability back. Needs CAP_SETPCAP, and changes nothing of
/// what this process may do now.
pub fn drop_bounding() -> io::Result<()> {
    for number in 0..=LAST {
        // SAFETY: numbers only.
        unsafe {
            if libc::prctl(libc::PR_CAPBSET_READ, number, 0, 0, 0) == 1 {
                check(libc::prctl(libc::PR_CAPBSET_DROP, number, 0, 0, 0))?;
            }
        }
    }
    Ok(())
}

/// Empties the effective, permitted, inheritable and ambient sets and forbids gaining by exec.
pub fn drop_own() -> io::Result<()> {
    // SAFETY: numbers, and version 3 reads two halves.
    unsafe {
        check(libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::c_ulong::from(libc::PR_CAP_AMBIENT_CLEAR_ALL.unsigned_abs()),
            0,
            0,
            0,
        ))?;
        let mut header = Header { version: VERSION_3, pid: 0 };
        let none = [Half::default(); 2];
        check_long(libc::syscall(libc::SYS_capset, ptr::from_mut(&mut header), none.as_ptr()))?;
        check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    }
}
