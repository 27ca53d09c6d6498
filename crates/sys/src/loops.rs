//! Files as block devices, and the growth of the file system in one.
//!
//! The threat: one image mounted twice, which would destroy it. A device keeps the very open file that it was made
//! from, and that file is locked: nobody attaches it a second time before the kernel has let go of the first. And
//! nothing stays: a device is gone with its last user.

use crate::process::check;
use rustix::fs::{FlockOperation, Mode, OFlags};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

/// Of `<linux/loop.h>`.
const LOOP_CTL_GET_FREE: libc::c_ulong = 0x4c82;
const LOOP_CONFIGURE: libc::c_ulong = 0x4c0a;
const LOOP_GET_STATUS64: libc::c_ulong = 0x4c05;
const LOOP_SET_CAPACITY: libc::c_ulong = 0x4c07;
const AUTOCLEAR: u32 = 4;
const DIRECT_IO: u32 = 16;
/// Of `fs/ext4/ext4.h`: `_IOW('f', 16, __u64)`.
const EXT4_IOC_RESIZE_FS: libc::c_ulong = 0x4008_6610;
/// The major number of these devices.
const MAJOR: u32 = 7;
const CONTROL: &str = "/dev/loop-control";

/// `struct loop_info64`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Info {
    device: u64,
    inode: u64,
    rdevice: u64,
    offset: u64,
    size_limit: u64,
    number: u32,
    encrypt_type: u32,
    encrypt_key_size: u32,
    flags: u32,
    file_name: [u8; 64],
    crypt_name: [u8; 64],
    encrypt_key: [u8; 32],
    init: [u64; 2],
}

/// `struct loop_config`.
#[repr(C)]
#[derive(Clone, Copy)]
struct Config {
    fd: u32,
    block_size: u32,
    info: Info,
    reserved: [u64; 8],
}

const EMPTY: Info = Info {
    device: 0,
    inode: 0,
    rdevice: 0,
    offset: 0,
    size_limit: 0,
    number: 0,
    encrypt_type: 0,
    encrypt_key_size: 0,
    flags: 0,
    file_name: [0; 64],
    crypt_name: [0; 64],
    encrypt_key: [0; 32],
    init: [0; 2],
};

/// A device over a file; it is gone when this and every mount of it are.
#[derive(Debug)]
pub struct Device {
    /// Held while it is mounted.
    _descriptor: OwnedFd,
    /// What a mount names as its source.
    pub path: PathBuf,
}

/// Are there such devices at all?
pub fn available() -> bool {
    Path::new(CONTROL).exists()
}

/// Makes a device over a file that is open for writing. `WouldBlock` while another has it.
pub fn attach(image: OwnedFd) -> io::Result<Device> {
    rustix::fs::flock(&image, FlockOperation::NonBlockingLockExclusive)?;
    let control = rustix::fs::open(CONTROL, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let info = Info { flags: AUTOCLEAR | DIRECT_IO, ..EMPTY };
    let config = Config { fd: image.as_raw_fd().cast_unsigned(), block_size: 0, info, reserved: [0; 8] };
    for _ in 0..TRIES {
        // SAFETY: the command takes no argument and gives a number.
        let number = unsafe { libc::ioctl(control.as_raw_fd(), LOOP_CTL_GET_FREE) };
        check(number)?;
        let path = PathBuf::from(format!("/dev/loop{number}"));
        let descriptor = rustix::fs::open(&path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
        // SAFETY: the structure is of the shape that the command reads, and lives through the call.
        let made = unsafe { libc::ioctl(descriptor.as_raw_fd(), LOOP_CONFIGURE, &raw const config) };
        match check(made) {
            Ok(()) => return Ok(Device { _descriptor: descriptor, path }),
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no loop device stays free"))
}

const TRIES: u32 = 32;

/// Lets the device below a mounted directory see that its file has grown. The device must be over that very file.
pub fn grown(mounted: BorrowedFd<'_>, image: BorrowedFd<'_>) -> io::Result<()> {
    let device = rustix::fs::fstat(mounted)?.st_dev;
    if rustix::fs::major(device) != MAJOR {
        return Err(io::Error::other("it lies on no loop device"));
    }
    let path = format!("/dev/loop{}", rustix::fs::minor(device));
    let descriptor = rustix::fs::open(path, OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?;
    let mut info = EMPTY;
    // SAFETY: the structure is of the shape that the command writes.
    check(unsafe { libc::ioctl(descriptor.as_raw_fd(), LOOP_GET_STATUS64, &raw mut info) })?;
    if info.inode != rustix::fs::fstat(image)?.st_ino {
        return Err(io::Error::other("it lies in another image"));
    }
    // SAFETY: the command takes no argument.
    check(unsafe { libc::ioctl(descriptor.as_raw_fd(), LOOP_SET_CAPACITY, 0) })
}

/// Grows a mounted ext4 to so many of its blocks. A number that it has already changes nothing.
pub fn grow_ext4(mounted: BorrowedFd<'_>, blocks: u64) -> io::Result<()> {
    // SAFETY: the command reads one number.
    check(unsafe { libc::ioctl(mounted.as_raw_fd(), EXT4_IOC_RESIZE_FS, &raw const blocks) })
}
