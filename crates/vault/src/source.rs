//! Where a master key comes from: a file of mode 0400, or the standard output of a command.
//!
//! The threat is a key that others can read, and a key cut short by accident: anything but exactly 32
//! bytes is refused.

use crate::{Error, KEY_LEN, MasterKey, key::Key};
use rustix::fs::OFlags;
use std::{
    fs::OpenOptions,
    io::{Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt},
    path::Path,
    process::{Command, Stdio},
};
use zeroize::Zeroizing;

/// Longer than any accepted key, so that "too long" is seen as such.
const MOST: u64 = 256;

impl MasterKey {
    /// Reads a key file: regular, not a link, mode 0400, owned by the process's user.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        Self::from_file_of(path, rustix::process::geteuid().as_raw())
    }

    /// Reads a key file that `owner` owns; else like [`Self::from_file`].
    pub fn from_file_of(path: &Path, owner: u32) -> Result<Self, Error> {
        let failed = |source| Error::KeyFile { path: path.to_owned(), source };
        // O_NONBLOCK, so that a FIFO in the key's place is refused instead of waited for.
        let flags = OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let opened = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path);
        let file = match opened {
            Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
                return Err(Error::KeyFileKind(path.to_owned()));
            }
            opened => opened.map_err(failed)?,
        };
        let metadata = file.metadata().map_err(failed)?;
        if !metadata.is_file() {
            return Err(Error::KeyFileKind(path.to_owned()));
        }
        if metadata.uid() != owner {
            return Err(Error::KeyFileOwner {
                path: path.to_owned(),
                owner: metadata.uid(),
                expected: owner,
            });
        }
        let mode = metadata.permissions().mode() & 0o7777;
        if mode != 0o400 {
            return Err(Error::KeyFileMode { path: path.to_owned(), mode });
        }
        parse(&read(file).map_err(failed)?, &path.display().to_string())
    }

    /// Runs a command with an empty environment and takes the key from its standard output. It waits for as
    /// long as the command runs; its complaints go to our standard error.
    #[expect(clippy::disallowed_methods, reason = "the operator's own key source, named in cofferdam.toml")]
    pub fn from_command(argv: &[String]) -> Result<Self, Error> {
        let program = argv.first().map_or("", String::as_str);
        if !Path::new(program).is_absolute() {
            return Err(Error::KeyCommandPath(program.to_owned()));
        }
        let failed = |source| Error::KeyCommand { program: program.to_owned(), source };
        let mut child = Command::new(program)
            .args(&argv[1..])
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit())
            .spawn()
            .map_err(failed)?;
        // Dropping the read end at the limit ends a command that never stops writing.
        let output = child.stdout.take().map(read);
        let status = child.wait().map_err(failed)?;
        let output = output.unwrap_or_else(|| Ok(Zeroizing::default())).map_err(failed)?;
        if !status.success() && (output.len() as u64) < MOST {
            return Err(Error::KeyCommandFailed { program: program.to_owned(), status });
        }
        parse(&output, &format!("the output of {program}"))
    }

    /// Writes the key as hex to a new file of mode 0400. An existing file is left alone and refused. The file
    /// is there whole or not at all, whatever interrupts this: half a key would lock everybody out.
    pub fn write_new(&self, path: &Path) -> Result<(), Error> {
        let mut text = Zeroizing::new(Vec::with_capacity(2 * KEY_LEN + 1));
        for byte in self.bytes() {
            text.extend([byte >> 4, byte & 15].map(|nibble| HEX[usize::from(nibble)]));
        }
        text.push(b'\n');
        write_whole(path, &text).map_err(|source| Error::KeyFileWrite { path: path.to_owned(), source })
    }
}

/// Writes a new file of mode 0400: beside it, synced, and renamed into a name that nothing has.
pub fn write_whole(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    match std::fs::remove_file(beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o400).open(beside)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    let (here, flags) = (rustix::fs::CWD, rustix::fs::RenameFlags::NOREPLACE);
    if let Err(error) = rustix::fs::renameat_with(here, beside, here, path, flags) {
        std::fs::remove_file(beside)?;
        return Err(error.into());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    std::fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

/// Fills `bytes` from exactly twice as many hex digits.
pub(crate) fn unhex(digits: &[u8], bytes: &mut [u8]) -> bool {
    let nibble = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    digits.len() == 2 * bytes.len()
        && bytes.iter_mut().zip(digits.chunks_exact(2)).all(|(byte, pair)| {
            nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| *byte = high << 4 | low).is_some()
        })
}

fn read(reader: impl Read) -> std::io::Result<Zeroizing<Vec<u8>>> {
    // Reserved once, so that growing leaves no copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(512));
    reader.take(MOST).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn parse(bytes: &[u8], source_name: &str) -> Result<MasterKey, Error> {
    let mut raw = Box::new([0; KEY_LEN]);
    let digits = bytes.strip_suffix(b"\n").unwrap_or(bytes);
    if bytes.len() == KEY_LEN {
        raw.copy_from_slice(bytes);
    } else if !unhex(digits, raw.as_mut_slice()) {
        zeroize::Zeroize::zeroize(raw.as_mut_slice());
        let got = match bytes.len() as u64 {
            MOST => format!("{MOST} bytes or more"),
            count => format!("{count} bytes"),
        };
        return Err(Error::KeyLength { source_name: source_name.to_owned(), got });
    }
    Key::new(raw).map(MasterKey::from_key)
}

const HEX: &[u8; 16] = b"0123456789abcdef";
