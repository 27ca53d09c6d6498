//! What must hold of anything that a cell sends, however it is cut: a known value is found, and nothing hangs or breaks.

use super::{
    Known, Scan, Watch,
    frames::Frames,
    packed::{Coding, Packed, Seen},
};
use cofferdam_base::{Millis, Secret};

const SECRET: &str = "sk-live/0123456789+abc";

/// The first byte says how it is packed; in the rest `#` stands for the secret.
pub fn outward(bytes: &[u8]) {
    let Some((kind, rest)) = bytes.split_first() else { return };
    let one = |byte: &u8| if *byte == b'#' { SECRET.as_bytes().to_vec() } else { vec![*byte] };
    let text: Vec<u8> = rest.iter().flat_map(one).collect();
    let cuts: Vec<usize> = bytes.iter().map(|byte| usize::from(*byte % 16) + 1).collect();
    let pieces = cut(&text, &cuts);
    let (whole, parts) = (scanned(&[&text]), scanned(&pieces));
    assert_eq!(whole, parts, "it depends on how it is cut");
    assert!(whole || !text.windows(SECRET.len()).any(|here| here == SECRET.as_bytes()));

    let coding = [Coding::None, Coding::Gzip, Coding::Deflate][usize::from(*kind % 3)];
    let unpacked = |pieces: &[&[u8]]| {
        let (watch, mut packed) = (watch(), Packed::new(coding));
        pieces.iter().any(|piece| matches!(packed.push(&watch, piece, Millis(1)), Seen::Found(_)))
    };
    let (whole, parts) = (unpacked(&[&text]), unpacked(&pieces));
    assert!(coding == Coding::None || whole == parts, "what is unpacked depends on how it is cut");

    let said = |pieces: &[&[u8]]| {
        let (mut frames, mut said) = (Frames::default(), Vec::new());
        for piece in pieces {
            frames.read(piece, |text| said.extend_from_slice(text));
        }
        said
    };
    assert_eq!(said(&[&text]), said(&pieces));
}

fn watch() -> Watch {
    let name = "KEY".parse().expect("a literal");
    Watch::new(&[Known { name, canary: false, value: Secret::new(SECRET.as_bytes().to_vec()) }])
}

fn scanned(pieces: &[&[u8]]) -> bool {
    let (watch, mut scan) = (watch(), Scan::default());
    pieces.iter().any(|piece| scan.push(&watch, piece, Millis(1)).is_some())
}

fn cut<'a>(text: &'a [u8], cuts: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), text);
    for length in cuts.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, more) = rest.split_at((*length).min(rest.len()));
        pieces.push(piece);
        rest = more;
    }
    pieces
}
