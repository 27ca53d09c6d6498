//! What is found, however it is written and cut, and what is not.
#![allow(clippy::unwrap_used, clippy::format_collect)]

use super::*;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE},
};
use cofferdam_base::{Millis, Secret};
use proptest::prelude::*;

const VALUE: &str = "sk-live/Zx81+\"0123456789abcQRSTUVWX?";
const NOW: Millis = Millis(1_000_000_000);

fn known(name: &str, value: &str) -> Known {
    Known { name: name.parse().unwrap(), canary: false, value: Secret::new(value.as_bytes().to_vec()) }
}

fn watch() -> Watch {
    Watch::new(&[known("KEY", VALUE)])
}

fn hex(text: &str) -> String {
    text.bytes().map(|byte| format!("{byte:02x}")).collect()
}

fn finds(watch: &Watch, text: &[u8]) -> bool {
    Scan::default().push(watch, text, NOW).is_some()
}

/// Forms that servers undo, of a text.
fn written(text: &str) -> Vec<String> {
    let mut all = vec![
        text.to_owned(),
        text.chars().rev().collect(),
        hex(text),
        hex(text).to_uppercase(),
        text.bytes().map(|byte| format!("%{byte:02X}")).collect(),
        text.bytes().map(|byte| format!("%{byte:02x}")).collect(),
        text.bytes().map(|byte| format!("\\u{byte:04x}")).collect(),
        text.bytes().map(|byte| format!("\\x{byte:02x}")).collect(),
        serde_json::to_string(text).unwrap(),
        text.replace('/', "\\/").replace('"', "\\\""),
    ];
    for lead in ["", "a", "ab", "user:"] {
        let whole = format!("{lead}{text}tail");
        all.push(STANDARD.encode(&whole));
        all.push(URL_SAFE.encode(&whole));
        all.push(STANDARD.encode(&whole).replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
        let lines = STANDARD.encode(format!("{}{whole}", "x".repeat(40)));
        all.push(lines.as_bytes().chunks(76).map(|line| String::from_utf8_lossy(line) + "\r\n").collect());
    }
    all
}

#[test]
fn a_value_is_found_in_every_form_that_is_promised() {
    let shorter = ["12345678", "Pa55word-0", "exactly12chr"];
    for value in [VALUE].into_iter().chain(shorter) {
        let watch = Watch::new(&[known("KEY", value), known("OTHER", "another-secret-of-theirs")]);
        for form in written(value) {
            let found = Scan::default().push(&watch, format!("{{\"a\":<{form}>}}").as_bytes(), NOW);
            assert_eq!(found.map(|found| found.name.to_string()).as_deref(), Some("KEY"), "{form}");
        }
    }
}

#[test]
fn what_is_not_it_is_not_found() {
    let watch = watch();
    for text in ["", "sk-live", &VALUE[..24], &VALUE[12..], &hex(&VALUE[..20]), "{\"a\": \"sk-live/\"}"] {
        let fresh = Watch::new(&[known("KEY", VALUE)]);
        assert!(!finds(&fresh, text.as_bytes()), "{text}");
    }
    assert!(!finds(&watch, &vec![b'x'; 100_000]));
    assert!(!finds(&Watch::new(&[known("SHORT", "1234567")]), b"1234567"), "too short a value is none");
}

#[test]
fn a_long_value_of_many_lines_is_found_by_its_middle_as_it_is_or_as_others_write_it() {
    let lines: Vec<String> = (0..30u32).map(|n| STANDARD.encode(hex(&format!("{n}-{}", n * 7919)))).collect();
    let value = format!("-----BEGIN KEY-----\n{}\n-----END KEY-----\n", lines.join("\n"));
    let watch = Watch::new(&[known("KEY", &value)]);
    for form in [
        value.clone(),
        value.replace('\n', "\\n"),
        value.replace('\n', "\r\n"),
        value.replace('\n', ""),
        STANDARD.encode(&value),
        hex(&value),
    ] {
        assert!(finds(&watch, form.as_bytes()), "{form}");
    }
    assert!(!finds(&watch, b"-----BEGIN KEY-----\n-----END KEY-----\n"));
}

#[test]
fn pieces_of_one_value_add_up_within_the_hour_and_smaller_ones_or_later_ones_do_not() {
    let pieces = |size: usize, pause: u64| {
        let watch = watch();
        let mut now = NOW;
        VALUE.as_bytes().chunks(size).any(|piece| {
            now = now.plus(pause);
            let text = format!("GET /?part={} HTTP/1.1", String::from_utf8_lossy(piece));
            Scan::default().push(&watch, text.as_bytes(), now).is_some()
        })
    };
    assert!(pieces(PIECE, 0) && pieces(PIECE, 20 * 60 * 1000) && pieces(20, 0));
    assert!(!pieces(PIECE - 1, 0), "too small to count");
    assert!(!pieces(PIECE, 60 * 60 * 1000), "too long ago");
    // Each in a form of its own.
    let watch = watch();
    let parts = [VALUE[..12].to_owned(), hex(&VALUE[12..24]), STANDARD.encode(&VALUE[24..])];
    let found: Vec<bool> = parts.iter().map(|part| finds(&watch, part.as_bytes())).collect();
    assert_eq!(found, [false, false, true]);
}

#[test]
fn what_is_packed_is_found_though_it_breaks_right_behind() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packer, VALUE.as_bytes()).unwrap();
    std::io::Write::flush(&mut packer).unwrap();
    // A block of a kind that there is none of.
    let broken = [packer.get_ref().as_slice(), &[0xff; 8]].concat();
    let mut packed = packed::Packed::new(Coding::None);
    assert!(matches!(packed.push(&watch(), &broken, NOW), packed::Seen::Found(_)));
}

/// A name of a host or a header loses capitals on the way, and no more.
#[test]
fn a_value_is_found_in_small_letters_too() {
    assert!(finds(&watch(), VALUE.to_ascii_lowercase().as_bytes()));
}

#[test]
fn a_header_of_gzip_may_be_long_and_one_that_never_ends_is_unreadable() {
    let packed = |name: usize, text: &str| {
        let builder = flate2::GzBuilder::new().filename(vec![b'n'; name]);
        let mut packer = builder.write(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut packer, text.as_bytes()).unwrap();
        packed::Packed::new(Coding::None).push(&watch(), &packer.finish().unwrap(), NOW)
    };
    assert!(matches!(packed(15_000, VALUE), packed::Seen::Found(_)));
    assert_eq!(packed(15_000, "nothing of it"), packed::Seen::Nothing);
    assert_eq!(packed(20_000, "nothing of it"), packed::Seen::Unreadable);
}

#[test]
fn gzip_with_flags_that_nobody_uses_is_unpacked_as_others_do() {
    let mut packer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    std::io::Write::write_all(&mut packer, VALUE.as_bytes()).unwrap();
    let mut packed = packer.finish().unwrap();
    packed[3] |= 0x80;
    let found = packed::Packed::new(Coding::None).push(&watch(), &packed, NOW);
    assert!(matches!(found, packed::Seen::Found(_)), "{found:?}");
}

#[test]
fn messages_of_grpc_that_are_packed_are_looked_through_or_refused() {
    for (coding, known) in [("identity", true), ("gzip", true), ("deflate", false), ("snappy", false)] {
        let mut headers = http::HeaderMap::new();
        headers.insert("grpc-encoding", coding.parse().unwrap());
        assert_eq!(Coding::of(&headers).is_some(), known, "{coding}");
    }
}

/// Else a cell would find a value out piece by piece, and each piece letter by letter.
#[test]
fn a_guess_that_is_right_is_answered_like_a_wrong_one_until_three_quarters_are_known() {
    let enough = (VALUE.len() * 3).div_ceil(4);
    // From a beginning that everybody knows, letter by letter, in every form and more than once.
    let watch = watch();
    for length in 1..enough {
        for form in written(&VALUE[..length]) {
            assert!(!finds(&watch, form.as_bytes()) && !finds(&watch, form.as_bytes()), "{form}");
        }
    }
    assert!(finds(&watch, &VALUE.as_bytes()[..enough]), "the positive control");
    // Pieces from anywhere: what was sent before counts once, and one that is wrong adds nothing.
    let watch = self::watch();
    for piece in [0..12, 12..24, 6..18, 3..24, 0..24, 12..24] {
        assert!(!finds(&watch, &VALUE.as_bytes()[piece.clone()]), "{piece:?}");
    }
    assert!(!finds(&watch, format!("{}0000", &VALUE[18..26]).as_bytes()));
    assert!(!finds(&watch, &VALUE.as_bytes()[14..26]), "two more are 26 of 36");
    assert!(finds(&watch, &VALUE.as_bytes()[15..27]));
}

proptest! {
    #[test]
    fn however_a_stream_is_cut_it_is_found_before_it_is_out(
        before in "[ -~\r\n]{0,200}", after in "[ -~\r\n]{0,40}", form in 0usize..26,
        cuts in prop::collection::vec(1usize..40, 0..400),
    ) {
        let watch = watch();
        let text = format!("{before}{}{after}", written(VALUE)[form]);
        let (mut scan, mut rest) = (Scan::default(), text.as_bytes());
        let mut cuts = cuts.into_iter();
        let mut found = false;
        while !rest.is_empty() && !found {
            let (chunk, more) = rest.split_at(cuts.next().unwrap_or(rest.len()).min(rest.len()));
            rest = more;
            found = scan.push(&watch, chunk, NOW).is_some();
        }
        // An escape that the text before leaves open may take a character of the form with it.
        prop_assert!(found || before.contains(['\\', '%']), "{:?}", text);
    }

    #[test]
    fn nothing_but_what_is_known_is_found(text in "[ -~\r\n]{0,400}") {
        prop_assert!(!finds(&watch(), text.as_bytes()));
    }
}

/// What a cell had sent of a value counts on, whatever else is looked for since, and a piece that was stopped does not.
#[test]
fn neither_new_values_nor_a_piece_that_was_stopped_make_what_was_sent_forgotten() {
    let (first, rest) = VALUE.as_bytes().split_at(VALUE.len() * 6 / 10);
    let before = Watch::new(&[known("KEY", VALUE)]);
    assert!(!finds(&before, first));
    let after =
        Watch::new(&[known("OTHER", "another-secret-of-theirs"), known("KEY", VALUE)]).remembering(&before);
    for _ in 0..2 {
        assert!(finds(&after, rest), "the rest is stopped, each time");
    }
    assert!(!finds(&Watch::new(&[known("KEY", VALUE)]), rest), "by itself it is too little");
}
