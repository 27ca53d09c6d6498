//! Where the messages of gRPC end, so that one that is whole need not wait for the next.
//!
//! Each has five bytes before it: a flag, 0 or 1, and its length. No secret has such a flag in it, so none reaches
//! over the end of a message. Where another byte stands the stream is no gRPC, whatever its head says, and breaks off.

use crate::http::BodyError;

/// What is before a message: a flag, and its length in four bytes.
const PREFIX: usize = 5;

/// One stream.
#[derive(Debug, Default)]
pub(super) struct Messages {
    /// The prefix that has begun.
    prefix: Vec<u8>,
    /// How much of the message is still to come.
    left: usize,
}

impl Messages {
    /// Reads on: does a message end with these bytes?
    pub(super) fn read(&mut self, mut bytes: &[u8]) -> Result<bool, BodyError> {
        while let Some((first, rest)) = bytes.split_first() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                self.left -= here;
                bytes = &bytes[here..];
                continue;
            }
            if self.prefix.is_empty() && *first > 1 {
                return Err("an answer of gRPC has something else between its messages".into());
            }
            self.prefix.push(*first);
            bytes = rest;
            if self.prefix.len() == PREFIX {
                let length = self.prefix.drain(..).skip(1);
                self.left = length.fold(0, |length, byte| length << 8 | usize::from(byte));
            }
        }
        Ok(self.left == 0 && self.prefix.is_empty())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn message(text: &str) -> Vec<u8> {
        let length = u32::try_from(text.len()).unwrap().to_be_bytes();
        [&[0], &length[..], text.as_bytes()].concat()
    }

    #[test]
    fn the_end_of_a_message_is_known_however_it_is_cut_and_anything_else_is_refused() {
        let texts = ["one", "", "a longer one\0\u{1}"];
        let stream: Vec<u8> = texts.iter().flat_map(|text| message(text)).collect();
        let mut ends = vec![];
        let mut messages = Messages::default();
        for at in 0..stream.len() {
            if messages.read(&stream[at..=at]).unwrap() {
                ends.push(at + 1);
            }
        }
        assert_eq!(ends, [8, 13, stream.len()]);
        for size in 1..stream.len() {
            let mut messages = Messages::default();
            let whole: Vec<bool> = stream.chunks(size).map(|piece| messages.read(piece).unwrap()).collect();
            let ended = (1..=whole.len()).map(|n| ends.contains(&(n * size).min(stream.len())));
            assert_eq!(whole, ended.collect::<Vec<_>>(), "{size}");
        }
        assert!(Messages::default().read(b"\x02").is_err());
        assert!(Messages::default().read(&[message("one"), b"sk-live".to_vec()].concat()).is_err());
    }
}
