//! Frames from a cell to its client, sifted: none that looks like one of the edge's own approvals gets through.
//!
//! A message that is whole and short is gathered, looked through, and dropped if it holds our prefix. A long one,
//! or one in fragments, is passed as it comes, and cut off in the middle if the prefix turns up: the client never
//! sees its end. The threat: a gateway that is not the gateway any more and asks its user, under an id of ours,
//! for something else; JSON can spell each letter as an escape, so escapes are undone before we look.

use super::{
    MESSAGE,
    approvals::Desk,
    frame::{FrameError, Head, Opcode, Order, Reader, Writer},
    relay::{End, Shared},
};
use crate::{
    approvals::PREFIX,
    check::{Check, keeps},
};
use tokio::io::{AsyncRead, AsyncWrite};

/// Messages up to here are gathered; none of those that concern approvals is longer.
const GATHERED: u64 = 64 * 1024;

/// Passes a cell's messages on.
pub(super) async fn sift<R, W>(
    from: &mut Reader<R>,
    to: &Shared<W>,
    desk: &Desk<'_>,
) -> Result<End, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut order = Order::default();
    while let Some(head) = from.head().await? {
        match order.next(&head, MESSAGE)? {
            None => {
                let mut payload = Vec::new();
                from.append(&head, &mut payload).await?;
                to.lock().await.frame(&head, &payload).await?;
                if head.opcode == Opcode::Close {
                    return Ok(End::Closed);
                }
                continue;
            }
            Some(Opcode::Text) => {}
            Some(_) => return Err(FrameError::Protocol("messages of this kind are not spoken here")),
        }
        if head.last && head.length <= GATHERED {
            let mut message = Vec::new();
            from.append(&head, &mut message).await?;
            if Finder::default().finds(&message) && keeps(Check::Forged) {
                desk.forged();
                continue;
            }
            let message = desk.answer_of_cell(message);
            to.lock().await.text(&message).await?;
            desk.greeted();
            continue;
        }
        let mut writer = to.lock().await;
        let mut finder = Finder::default();
        if pass(from, &mut writer, head, &mut finder, desk).await? {
            return Ok(End::Closed);
        }
        // Between the fragments of a message nobody else may write.
        while order.is_open() {
            let Some(head) = from.head().await? else { return Ok(End::Left) };
            order.next(&head, MESSAGE)?;
            if pass(from, &mut writer, head, &mut finder, desk).await? {
                return Ok(End::Closed);
            }
        }
        drop(writer);
        desk.greeted();
    }
    Ok(End::Left)
}

/// Passes one frame on, as far as it is clean; true if it was a close.
async fn pass<R, W>(
    from: &mut Reader<R>,
    writer: &mut Writer<W>,
    head: Head,
    finder: &mut Finder,
    desk: &Desk<'_>,
) -> Result<bool, FrameError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut remaining = head.length;
    if remaining == 0 {
        writer.frame(&head, &[]).await?;
        return Ok(head.opcode == Opcode::Close);
    }
    let mut begun = false;
    while remaining > 0 {
        let piece = from.piece(remaining).await?;
        remaining -= piece.len() as u64;
        if !head.opcode.is_control() && finder.finds(&piece) && keeps(Check::Forged) {
            desk.forged();
            return Err(FrameError::Protocol("the gateway forged an approval"));
        }
        if begun {
            writer.more(&piece).await?;
        } else {
            writer.begin(&head, &piece).await?;
            begun = true;
        }
    }
    writer.done();
    Ok(head.opcode == Opcode::Close)
}

/// Looks for our prefix in JSON that comes in pieces.
#[derive(Debug, Default)]
pub(super) struct Finder {
    /// How much of the prefix the last characters are.
    matched: usize,
    escape: Escape,
}

/// Where in an escape we are.
#[derive(Clone, Copy, Debug, Default)]
enum Escape {
    #[default]
    None,
    /// After a backslash.
    Begun,
    /// After `\u` and so many digits, which say this.
    Digits(u8, u16),
}

impl Finder {
    /// Takes the next piece; true if the prefix has been there.
    pub(super) fn finds(&mut self, piece: &[u8]) -> bool {
        piece.iter().any(|byte| self.takes(*byte))
    }

    fn takes(&mut self, byte: u8) -> bool {
        let character = match self.escape {
            Escape::None if byte == b'\\' => {
                self.escape = Escape::Begun;
                return false;
            }
            Escape::None => byte,
            Escape::Begun if byte == b'u' => {
                self.escape = Escape::Digits(0, 0);
                return false;
            }
            // Of the short escapes those that mean a letter of the prefix mean themselves; the others, like `\n`,
            // mean none of its letters.
            Escape::Begun => {
                self.escape = Escape::None;
                if matches!(byte, b'"' | b'\\' | b'/') { byte } else { 0 }
            }
            Escape::Digits(count, value) => {
                let digit = char::from(byte).to_digit(16).and_then(|digit| u16::try_from(digit).ok());
                let Some(digit) = digit else {
                    // No JSON: a parser stops here, and we begin anew.
                    self.escape = Escape::None;
                    self.matched = 0;
                    return false;
                };
                let value = value << 4 | digit;
                if count < 3 {
                    self.escape = Escape::Digits(count + 1, value);
                    return false;
                }
                self.escape = Escape::None;
                u8::try_from(value).unwrap_or(0)
            }
        };
        self.matches(character)
    }

    /// Of the prefix's letters only the first is there again after others: `p`, where nothing else of it begins.
    fn matches(&mut self, character: u8) -> bool {
        let prefix = PREFIX.as_bytes();
        if prefix.get(self.matched) == Some(&character) {
            self.matched += 1;
        } else {
            self.matched = usize::from(character == prefix[0]);
        }
        if self.matched == prefix.len() {
            self.matched = 0;
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_prefix_is_found_however_json_spells_it_and_wherever_it_is_cut() {
        let spell = |c: char| format!("\\u{:04x}", u32::from(c));
        let escaped = PREFIX.chars().map(spell).collect::<Vec<_>>().concat();
        let upper = escaped.replace("\\u006c", "\\u006C");
        for text in [
            format!(r#"{{"id":"{PREFIX}1"}}"#),
            format!(r#"{{"id":"{escaped}1"}}"#),
            format!(r#"{{"id":"{upper}1"}}"#),
            format!(r#"{{"id":"p{PREFIX}"}}"#),
            format!(r#"{{"id":"plug{PREFIX}"}}"#),
            format!(r#"{{"id":"plugin:p{PREFIX}"}}"#),
            format!(r#"{{"id":"\\\"{PREFIX}"}}"#),
            r#"{"id":"plugin:\u0063offerdam-1"}"#.to_owned(),
        ] {
            for cut in 0..text.len() {
                let mut finder = Finder::default();
                let (one, two) = text.as_bytes().split_at(cut);
                assert!(finder.finds(one) || finder.finds(two), "{text} cut at {cut}");
            }
        }
    }

    #[test]
    fn nothing_else_is_found() {
        for text in [
            r#"{"id":"plugin:3f2a"}"#,
            r#"{"id":"plugin:cofferdam"}"#,
            r#"{"id":"plugin:coffer\ndam-"}"#,
            // A backslash that is itself escaped: the text says \u0063, and no c.
            r#"{"id":"plugin:\\u0063offerdam-"}"#,
            r#"{"id":"plugin:\u0163offerdam-"}"#,
        ] {
            assert!(!Finder::default().finds(text.as_bytes()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn it_is_found_in_whatever_serde_json_reads_it_from(before in "\\PC*", after in "\\PC*", mask in prop::collection::vec(any::<bool>(), 17)) {
            let spelt = PREFIX
                .chars()
                .zip(mask)
                .map(|(c, escape)| if escape { format!("\\u{:04X}", u32::from(c)) } else { c.to_string() })
                .collect::<Vec<_>>()
                .concat();
            let quoted = |text: &str| {
                let text = serde_json::to_string(text).unwrap_or_default();
                text[1..text.len() - 1].to_owned()
            };
            let text = format!("\"{}{spelt}{}\"", quoted(&before), quoted(&after));
            let read: String = serde_json::from_str(&text).unwrap_or_default();
            prop_assert!(read.contains(PREFIX));
            prop_assert!(Finder::default().finds(text.as_bytes()));
        }
    }
}
