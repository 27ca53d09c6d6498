//! Takes terminal control sequences out of what a cell wrote, byte by byte, across any split.
//!
//! The threat: output that moves the cursor, renames the window, fills the clipboard or makes the operator's
//! terminal type. What stays: printable bytes, UTF-8, newline, carriage return before a newline, tab.

/// A text of somebody else's making as one line of at most so many characters: without control characters,
/// and without those that change the direction of what follows or show nothing.
pub(crate) fn line(text: &str, most: usize) -> String {
    let shown = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{ad}' | '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
            && !matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
    };
    text.chars().filter(shown).take(most).collect()
}

/// Where the filter stands in the stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// Plain text.
    #[default]
    Text,
    /// After a carriage return: shown only if a newline follows, else it would overwrite the line.
    Return,
    /// After 0xC2: a C1 control may follow.
    Lead,
    /// After ESC.
    Escape,
    /// Within a control sequence, until its final byte.
    Control,
    /// Within a string (OSC, DCS, APC, PM, SOS), until BEL or ST.
    String,
    /// Within a string after ESC.
    StringEscape,
    /// Within a string after 0xC2.
    StringLead,
    /// After ESC and intermediates, until the final byte.
    Intermediate,
}

/// A filter for one stream.
#[derive(Debug, Default)]
pub(crate) struct Plain(At);

impl Plain {
    /// Appends what is plain in `input` to `output`.
    pub(crate) fn filter(&mut self, input: &[u8], output: &mut Vec<u8>) {
        for byte in input {
            self.0 = next(self.0, *byte, output);
        }
    }
}

#[expect(clippy::match_same_arms, reason = "the order of the arms is the grammar")]
fn next(at: At, byte: u8, output: &mut Vec<u8>) -> At {
    match (at, byte) {
        // CAN and SUB end whatever was begun.
        (_, 0x18 | 0x1a) => At::Text,
        (At::String, 0x1b) => At::StringEscape,
        (At::String, 0x07) | (At::StringEscape, b'\\') | (At::StringLead, 0x9c) => At::Text,
        (At::String | At::StringEscape | At::StringLead, 0xc2) => At::StringLead,
        (At::String | At::StringLead, _) => At::String,
        (_, 0x1b) => At::Escape,
        // Any other escape ends the string and begins anew.
        (At::Escape | At::StringEscape, b'[') => At::Control,
        (At::Escape | At::StringEscape, b']' | b'P' | b'_' | b'^' | b'X') => At::String,
        (At::Escape | At::StringEscape | At::Intermediate, 0x20..=0x2f) => At::Intermediate,
        (At::Control, 0x20..=0x3f) => At::Control,
        (At::Control, 0x40..=0x7e) | (At::Escape | At::StringEscape | At::Intermediate, 0x30..=0x7e) => {
            At::Text
        }
        // A byte that fits no sequence is text again; so is a C0 control, which is dropped there.
        (At::Lead, 0x80..=0x9f) => match byte {
            0x9b => At::Control,
            0x90 | 0x98 | 0x9d | 0x9e | 0x9f => At::String,
            _ => At::Text,
        },
        (At::Lead, _) => {
            output.push(0xc2);
            text(byte, output)
        }
        (At::Return, b'\n') => {
            output.extend_from_slice(b"\r\n");
            At::Text
        }
        _ => text(byte, output),
    }
}

fn text(byte: u8, output: &mut Vec<u8>) -> At {
    match byte {
        b'\r' => At::Return,
        0xc2 => At::Lead,
        b'\n' | b'\t' | 0x20..=0x7e | 0x80..=0xff => {
            output.push(byte);
            At::Text
        }
        _ => At::Text,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn plain(input: &[u8]) -> Vec<u8> {
        let mut output = Vec::new();
        Plain::default().filter(input, &mut output);
        output
    }

    #[test]
    fn text_in_any_language_stays_and_sequences_go() {
        for (input, expected) in [
            ("grün\t日本\r\n", "grün\t日本\r\n"),
            ("\x1b[31mred\x1b[0m", "red"),
            ("\x1b]0;title\x07x", "x"),
            ("\x1b]52;c;ZXZpbA==\x1b\\x", "x"),
            ("\x1bP1$q\x1b\\x", "x"),
            ("\x1b(Bx\x1b7y", "xy"),
            ("a\u{9b}31mb\u{9d}0;t\u{9c}c", "abc"),
            ("over\rwritten", "overwritten"),
            ("\x08\x07\x00x\x7f", "x"),
            ("\u{a0}é", "\u{a0}é"),
        ] {
            assert_eq!(String::from_utf8(plain(input.as_bytes())).unwrap(), expected, "{input:?}");
        }
    }

    #[test]
    fn a_line_keeps_its_words_and_nothing_that_moves_what_is_shown() {
        for (text, expected) in [
            ("grün, 日本", "grün, 日本"),
            ("a\x1b[2Jb\nc\r\u{9b}d", "a[2Jbcd"),
            ("evil\u{202e}moc.elgoog", "evilmoc.elgoog"),
            ("a\u{200b}b\u{2066}c\u{feff}\u{e0041}", "abc"),
            ("123456", "12345"),
        ] {
            assert_eq!(line(text, if text == "123456" { 5 } else { 99 }), expected, "{text:?}");
        }
    }

    #[test]
    fn a_sequence_cut_anywhere_goes_all_the_same() {
        let input = "a\x1b[1;31mb\x1b]0;t\x1b\\c\u{9b}2Jd".as_bytes();
        for cut in 0..input.len() {
            let (mut filter, mut output) = (Plain::default(), Vec::new());
            filter.filter(&input[..cut], &mut output);
            filter.filter(&input[cut..], &mut output);
            assert_eq!(output, b"abcd", "cut at {cut}");
        }
    }
}
