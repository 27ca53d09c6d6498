//! What the frames of a WebSocket's client say (RFC 6455 §5): their payloads without masks, one after the other, so
//! that a message in several frames is read as one.

use zeroize::Zeroizing;

/// The longest header of a frame.
const HEADER: usize = 14;
/// How much is unmasked in one step.
const STEP: usize = 16 * 1024;

/// One connection, as far as it was read.
#[derive(Debug, Default)]
pub(super) struct Frames {
    /// The header that has begun.
    header: Vec<u8>,
    mask: [u8; 4],
    /// How much of the payload is still to come, and where in the mask it goes on.
    left: u64,
    at: usize,
}

impl Frames {
    /// Reads on, and tells what is said.
    pub(super) fn read(&mut self, mut bytes: &[u8], mut told: impl FnMut(&[u8])) {
        while !bytes.is_empty() {
            if self.left == 0 {
                self.header.push(bytes[0]);
                bytes = &bytes[1..];
                self.begin();
                continue;
            }
            let length = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len()).min(STEP);
            let (here, rest) = bytes.split_at(length);
            let unmask = |(n, byte): (usize, &u8)| byte ^ self.mask[(self.at + n) % 4];
            let text = Zeroizing::new(here.iter().enumerate().map(unmask).collect::<Vec<u8>>());
            told(&text);
            self.at = (self.at + length) % 4;
            self.left -= length as u64;
            bytes = rest;
        }
    }

    /// Begins a payload once its header is whole.
    fn begin(&mut self) {
        let Some(second) = self.header.get(1) else { return };
        let masked = second & 0x80 != 0;
        let extended = match second & 0x7f {
            126 => 2,
            127 => 8,
            _ => 0,
        };
        let whole = 2 + extended + if masked { 4 } else { 0 };
        if self.header.len() < whole.min(HEADER) {
            return;
        }
        let number = |bytes: &[u8]| bytes.iter().fold(0u64, |all, byte| all << 8 | u64::from(*byte));
        self.left =
            if extended == 0 { u64::from(second & 0x7f) } else { number(&self.header[2..2 + extended]) };
        self.mask = [0; 4];
        if masked {
            self.mask.copy_from_slice(&self.header[2 + extended..whole]);
        }
        self.at = 0;
        self.header.clear();
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A frame of a client.
    pub(crate) fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [7, 250, 0, 99];
        let mut bytes = vec![first];
        match payload.len() {
            length @ 0..126 => bytes.push(0x80 | length.to_le_bytes()[0]),
            length @ 126..65536 => {
                bytes.push(0x80 | 0x7e);
                bytes.extend(&length.to_be_bytes()[6..]);
            }
            length => {
                bytes.push(0x80 | 0x7f);
                bytes.extend(length.to_be_bytes());
            }
        }
        bytes.extend(mask);
        bytes.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, mask)| byte ^ mask));
        bytes
    }

    #[test]
    fn payloads_are_read_without_their_masks_however_they_are_cut() {
        let long = vec![b'y'; 70_000];
        let parts: [&[u8]; 5] = [b"hello", b"", &long[..200], b"x", &long];
        let stream: Vec<u8> = parts.iter().flat_map(|payload| frame(0x82, payload)).collect();
        for size in [1, 2, 7, 1000, stream.len()] {
            let (mut frames, mut said) = (Frames::default(), Vec::new());
            for piece in stream.chunks(size) {
                frames.read(piece, |text| said.extend_from_slice(text));
            }
            assert_eq!(said, parts.concat());
        }
    }
}
