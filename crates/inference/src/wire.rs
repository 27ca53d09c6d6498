//! The wires of model providers: which APIs there are, what of them is harmless, and the translation between
//! OpenAI's chat completions and Anthropic's messages.
//!
//! An API that the provider speaks passes with its fields as they were written ([`tables`] lists those that a
//! cell may send). The two others are translated, request, answer and stream; what one of them cannot say is
//! an error that names the field:
//!
//! | chat completions | messages | how |
//! |---|---|---|
//! | `messages` of `system`, `developer` | `system` | only before all others |
//! | `messages` of `user`, `assistant` | the same | neighbours of one role become one turn; empty texts are left out |
//! | `messages` of `tool` | `tool_result` | a failed one says so in its text; images in it are refused |
//! | `text`, `image_url` with `data:` | `text`, `image` in base64 | other parts and blocks are refused |
//! | `tool_calls`, several too | `tool_use` | arguments have to be an object; text after a call is refused |
//! | `tools`, `strict` | `tools`, `strict` | functions only |
//! | `tool_choice`: `auto`, `none`, `required`, a function | `auto`, `none`, `any`, `tool` | |
//! | `parallel_tool_calls` | `disable_parallel_tool_use` | |
//! | `max_tokens`, `max_completion_tokens` | `max_tokens` | 4096 where it is needed and not said |
//! | `temperature`, `top_p`, `stop`, `user`, `stream` | with `stop_sequences`, `metadata.user_id` | a temperature above 1 is refused |
//! | `finish_reason`: `stop`, `length`, `tool_calls`, `content_filter` | `end_turn`, `max_tokens`, `tool_use`, `refusal` | a stop sequence is `stop` |
//! | `usage` | `usage` | cached tokens are part of the one's prompt, beside the other's |
//! | errors | errors | the text passes |
//!
//! Left out, since they change no word of the answer: `cache_control`, `prompt_cache_key`,
//! `prompt_cache_retention`, `safety_identifier`, an image's `detail`, and what a model thought, in a
//! history and in an answer. Every other field is refused, unless it says what holds anyway (`n: 1`).

pub(crate) mod api;
mod chat;
mod chat_answer;
mod fields;
mod json;
mod messages;
mod messages_answer;
pub(crate) mod shape;
pub(crate) mod tables;
mod talk;
mod translate;

pub(crate) use api::{Api, gemini_model};
pub(crate) use fields::{Fault, Object};
pub(crate) use talk::Talk;
pub(crate) use translate::Translator;

#[cfg(test)]
mod tests;
