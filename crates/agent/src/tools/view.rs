//! `view_image`: a file, shown to the model.

use super::{About, Bench, Output, files::open, now};
use crate::images::{self, Image, LARGEST};
use serde::Deserialize;
use serde_json::json;
use std::io::Read as _;

pub(super) const TOOLS: [About; 1] = [About {
    name: "view_image",
    group: "media",
    label: "View an image",
    description: "Look at an image file (png, jpeg, gif, webp).",
    parameters: r#"{"type":"object","properties":{"path":{"type":"string"}},"required":["path"]}"#,
    parallel: true,
    run: |bench, arguments| now(bench, arguments, view),
}];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct View {
    path: String,
}

fn view(bench: &Bench<'_>, asked: &View) -> Output {
    let Some(run) = bench.run else {
        return Output::error("an image is shown to a model: only its runs have one");
    };
    if asked.path.contains("://") {
        return Output::error("nothing is fetched here: download it into a file, and view that");
    }
    let mut bytes = Vec::new();
    let read = open(&bench.path(&asked.path))
        .and_then(|(file, _)| file.take(LARGEST as u64 + 1).read_to_end(&mut bytes));
    if let Err(error) = read {
        return Output::error(format!("cannot read {}: {error}", asked.path));
    }
    let image = match Image::new(bytes) {
        Ok(image) => image,
        Err(why) => return Output::error(format!("{}: {why}", asked.path)),
    };
    match images::keep(&bench.gateway.store, &run.session_key, &image) {
        Ok(block) => Output {
            text: format!("{}: {}, {} bytes. It follows.", asked.path, image.mime, image.bytes.len()),
            is_error: false,
            details: json!({ "image": block }),
        },
        Err(error) => Output::error(error.to_string()),
    }
}
