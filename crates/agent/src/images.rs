//! Images that a person or a tool shows the model: what is one, how it is kept, how it is sent.
//!
//! Their bytes are a stranger's. They are looked at no further than their first bytes, which say their type; a provider
//! reads them. A URL is never fetched: it would be a request that nobody's policy was asked for.

use crate::store::{Error, Message, Session, Store};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Deserialize;
use serde_json::{Value, json};

/// The largest, in bytes. Source: upstream's own cap.
pub(crate) const LARGEST: usize = 6 * 1024 * 1024;
/// Of one message.
const MOST: usize = 8;
/// Of one request, as text: the warden takes 10 MiB in all.
const SENT: usize = 9_000_000;
/// How many tokens one is, about.
pub(crate) const TOKENS: u64 = 1_500;

/// An image.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) mime: &'static str,
    pub(crate) bytes: Vec<u8>,
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image").field("mime", &self.mime).field("bytes", &self.bytes.len()).finish()
    }
}

/// What a client puts beside a message.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Attachment {
    #[serde(default, rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    file_name: Option<String>,
    #[serde(default)]
    content: Value,
}

impl Image {
    /// Reads one; the error says what is wrong.
    pub(crate) fn new(bytes: Vec<u8>) -> Result<Self, String> {
        if bytes.len() > LARGEST {
            return Err(format!("the image is longer than {LARGEST} bytes: make it smaller"));
        }
        let mime = kind(&bytes).ok_or("it is no png, jpeg, gif or webp image")?;
        Ok(Self { mime, bytes })
    }

    fn decoded(text: &str) -> Result<Self, String> {
        // Before it is decoded: so much room is not made for it.
        if text.len() > LARGEST.div_ceil(3) * 4 {
            return Err(format!("the image is longer than {LARGEST} bytes: make it smaller"));
        }
        Self::new(STANDARD.decode(text).map_err(|_| "it is no base64")?)
    }

    /// One of a `data:` URL.
    pub(crate) fn of_url(url: &str) -> Result<Self, String> {
        match url.trim().split_once(',') {
            Some((head, text)) if head.starts_with("data:") && head.ends_with(";base64") => Self::decoded(text.trim()),
            _ => Err("only `data:` URLs with base64 are read, and nothing is fetched: put the image itself there, or \
                      let the agent fetch it with its tools"
                .to_owned()),
        }
    }
}

/// What a client put beside a message, as images.
pub(crate) fn attached(all: &[Attachment]) -> Result<Vec<Image>, String> {
    let one = |(at, attachment): (usize, &Attachment)| {
        let name =
            [&attachment.file_name, &attachment.kind].into_iter().flatten().find(|name| !name.is_empty());
        let name = name.cloned().unwrap_or_else(|| format!("attachment-{}", at + 1));
        let text = attachment.content.as_str().ok_or("its content must be a base64 text".to_owned());
        let image = text.and_then(|text| match text.trim() {
            url if url.starts_with("data:") => Image::of_url(url),
            text => Image::decoded(text),
        });
        image.map_err(|why| {
            format!(
                "attachment {name:?}: {why}; other files go into the workspace, where the agent reads them"
            )
        })
    };
    bounded(all.iter().enumerate().map(one).collect::<Result<_, _>>()?)
}

/// Not too many.
pub(crate) fn bounded(images: Vec<Image>) -> Result<Vec<Image>, String> {
    if images.len() > MOST {
        return Err(format!("one message has at most {MOST} images"));
    }
    Ok(images)
}

/// The type of an image, by its first bytes.
fn kind(bytes: &[u8]) -> Option<&'static str> {
    match bytes {
        [0x89, b'P', b'N', b'G', 0x0d, 0x0a, 0x1a, 0x0a, ..] => Some("image/png"),
        [0xff, 0xd8, 0xff, ..] => Some("image/jpeg"),
        [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..] => Some("image/gif"),
        [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Some("image/webp"),
        _ => None,
    }
}

/// Keeps an image, and gives what stands for it in a message.
pub(crate) fn keep(store: &Store, session_key: &str, image: &Image) -> Result<Value, Error> {
    let id = store.put_image(session_key, image)?;
    Ok(
        json!({ "type": "image", "mimeType": image.mime, "omitted": true, "bytes": image.bytes.len(), "id": id }),
    )
}

/// How many a message has.
pub(crate) fn count(message: &Message) -> u64 {
    blocks(&message.body).filter(|block| block["type"] == "image").count() as u64
}

fn blocks(body: &Value) -> impl DoubleEndedIterator<Item = &Value> {
    body["content"].as_array().map(Vec::as_slice).unwrap_or_default().iter()
}

/// Puts the images themselves where they are named, the newest first, as far as one request takes them.
pub(crate) fn fill(store: &Store, session: &Session, messages: &mut [Message]) -> Result<(), Error> {
    let mut room = SENT;
    for message in messages.iter_mut().rev() {
        let content = message.body["content"].as_array_mut();
        let images = content.into_iter().flatten().rev().filter(|block| block["type"] == "image");
        for block in images {
            let (size, id) =
                (block["bytes"].as_u64().unwrap_or(u64::MAX), block["id"].as_str().unwrap_or_default());
            let size = usize::try_from(size).unwrap_or(usize::MAX).div_ceil(3).saturating_mul(4);
            if size > room {
                continue;
            }
            if let Some((mime, bytes)) = store.image(&session.key, id)? {
                room -= size;
                block["url"] = format!("data:{mime};base64,{}", STANDARD.encode(bytes)).into();
            }
        }
    }
    Ok(())
}

/// The images of a message, as parts of what is sent.
pub(crate) fn parts(message: &Message) -> Vec<Value> {
    let one = |block: &Value| match &block["url"] {
        Value::String(url) => json!({ "type": "image_url", "image_url": { "url": url } }),
        _ => json!({ "type": "text", "text": "[an image that is not sent again]" }),
    };
    blocks(&message.body).filter(|block| block["type"] == "image").map(one).collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_image_is_known_by_its_first_bytes_and_bounded() {
        for (bytes, mime) in [
            (&b"\x89PNG\r\n\x1a\n..."[..], Some("image/png")),
            (b"\xff\xd8\xff\xe0", Some("image/jpeg")),
            (b"GIF89a", Some("image/gif")),
            (b"RIFF....WEBPVP8 ", Some("image/webp")),
            (b"RIFF....WAVE", None),
            (b"<svg/>", None),
            (b"", None),
        ] {
            assert_eq!(Image::new(bytes.to_vec()).ok().map(|image| image.mime), mime);
        }
        let mut long = b"GIF89a".to_vec();
        long.resize(LARGEST, 0);
        assert!(Image::decoded(&STANDARD.encode(&long)).is_ok());
        long.push(0);
        assert!(Image::decoded(&STANDARD.encode(&long)).unwrap_err().contains("longer than"));
        for (url, why) in [
            ("https://example.com/a.png", "nothing is fetched"),
            ("data:image/png,abc", "nothing is fetched"),
            ("data:image/png;base64,R0lGODlh!", "no base64"),
            ("data:image/png;base64,PHN2Zy8+", "no png"),
        ] {
            assert!(Image::of_url(url).unwrap_err().contains(why), "{url}");
        }
        assert_eq!(Image::of_url("data:image/png;base64,R0lGODlh").unwrap().mime, "image/gif");
    }

    proptest::proptest! {
        /// Whatever is there, nothing panics, and what is taken is an image.
        #[test]
        fn no_attachment_panics(text in "(data:[a-z/;]{0,20},?)?[A-Za-z0-9+/=]{0,40}", name in "\\PC{0,8}") {
            let attachment = Attachment { kind: None, file_name: Some(name), content: text.into() };
            if let Ok(images) = attached(&[attachment]) {
                proptest::prop_assert!(images.iter().all(|image| kind(&image.bytes) == Some(image.mime)));
            }
        }
    }
}
