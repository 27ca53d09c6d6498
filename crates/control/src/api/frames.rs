//! The framing of `tenant exec` after the upgrade, for both ends.
//!
//! The request is `POST /api/v1/tenants/{id}/exec` with `Connection: Upgrade`, `Upgrade: cofferdam-exec` and
//! the header [`REQUEST_HEADER`] that holds an [`ExecRequest`] as JSON in base64url without padding. The
//! answer is 101 and then frames both ways: one byte of kind, the length as big-endian u32, the payload.
//! A longer frame than [`MAX_FRAME`] or an unknown kind ends the connection: the other end is hostile or
//! broken.

use serde::{Deserialize, Serialize};

/// The name in `Upgrade`.
pub const PROTOCOL: &str = "cofferdam-exec";

/// The header that carries the request.
pub const REQUEST_HEADER: &str = "cofferdam-exec";

/// The header of an import that says what tenant is to be made: a [`super::types::NewTenant`], likewise.
pub const IMPORT_HEADER: &str = "cofferdam-import";

/// The longest payload of a frame, in bytes.
pub const MAX_FRAME: usize = 64 * 1024;

/// Bytes of a frame's head.
pub const HEAD: usize = 5;

/// What to run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ExecRequest {
    /// Program and arguments; never empty.
    pub argv: Vec<String>,
    /// Give it a terminal: stdout and stderr are one then.
    #[serde(default)]
    pub terminal: bool,
    /// The terminal's size at the start: rows, columns.
    #[serde(default)]
    pub size: Option<(u16, u16)>,
    /// Leave terminal control sequences in its output.
    #[serde(default)]
    pub raw: bool,
}

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// Bytes for the command's standard input. Client to server.
    Stdin = 0,
    /// Bytes of its standard output. Server to client.
    Stdout = 1,
    /// Bytes of its standard error. Server to client.
    Stderr = 2,
    /// It ended: one byte, its exit status, or 128 + the signal. The server's last frame.
    Exit = 3,
    /// The terminal's new size: rows and columns, big-endian u16 each. Client to server.
    Size = 4,
    /// No more input. Empty. Client to server.
    StdinEnd = 5,
    /// It could not be run: an [`super::types::ErrorBody`]. The server's last frame instead of `Exit`.
    Failed = 6,
}

/// Why bytes are no frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The kind is none of ours.
    #[error("{0} is no kind of frame")]
    Kind(u8),
    /// The payload would be longer than [`MAX_FRAME`].
    #[error("a frame of {0} bytes is longer than {MAX_FRAME}")]
    Long(u32),
}

impl TryFrom<u8> for Kind {
    type Error = FrameError;

    fn try_from(byte: u8) -> Result<Self, FrameError> {
        [Self::Stdin, Self::Stdout, Self::Stderr, Self::Exit, Self::Size, Self::StdinEnd, Self::Failed]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
            .ok_or(FrameError::Kind(byte))
    }
}

/// The head of a frame of this kind and length.
///
/// # Errors
/// The payload is longer than [`MAX_FRAME`].
pub fn head(kind: Kind, length: usize) -> Result<[u8; HEAD], FrameError> {
    let short = u32::try_from(length).ok().filter(|_| length <= MAX_FRAME);
    let [a, b, c, d] = short.ok_or(FrameError::Long(u32::MAX))?.to_be_bytes();
    Ok([kind as u8, a, b, c, d])
}

/// The kind and payload length that a head announces.
///
/// # Errors
/// It is not the head of a frame.
pub fn parse_head(head: [u8; HEAD]) -> Result<(Kind, usize), FrameError> {
    let [kind, a, b, c, d] = head;
    let kind = Kind::try_from(kind)?;
    let length = u32::from_be_bytes([a, b, c, d]);
    usize::try_from(length)
        .ok()
        .filter(|l| *l <= MAX_FRAME)
        .map(|l| (kind, l))
        .ok_or(FrameError::Long(length))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_head_reads_back_and_others_are_refused() {
        let bytes = head(Kind::Stderr, 70).unwrap();
        assert_eq!(bytes, [2, 0, 0, 0, 70]);
        assert_eq!(parse_head(bytes).unwrap(), (Kind::Stderr, 70));
        assert_eq!(parse_head([9, 0, 0, 0, 0]), Err(FrameError::Kind(9)));
        assert_eq!(parse_head([0, 1, 0, 0, 1]), Err(FrameError::Long(0x0100_0001)));
        assert!(head(Kind::Stdin, MAX_FRAME + 1).is_err());
        assert!(head(Kind::Stdin, MAX_FRAME).is_ok());
    }
}
