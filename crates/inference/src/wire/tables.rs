//! What of each API is harmless: a row for each field that a cell may send while the route's provider may
//! neither fetch, run nor keep anything for it.

use super::{
    Api,
    shape::{Fields, Shape},
};
use Shape::{Any, Data, List, Marked, Object, Off, Plain, Texts, Word};

/// The fields of an API's body.
pub(crate) const fn fields(api: Api) -> Fields {
    match api {
        Api::Chat => CHAT,
        Api::Responses => RESPONSES,
        Api::Embeddings => EMBEDDINGS,
        Api::Messages | Api::CountTokens => MESSAGES,
        Api::OllamaChat => OLLAMA_CHAT,
        Api::OllamaGenerate => OLLAMA_GENERATE,
        Api::OllamaEmbed => OLLAMA_EMBED,
        Api::GeminiGenerate | Api::GeminiStream | Api::GeminiCount => GEMINI,
        Api::GeminiEmbed => GEMINI_EMBED,
    }
}

const CHAT: Fields = &[
    ("model", Any),
    ("messages", List(&CHAT_MESSAGE)),
    ("stream", Any),
    ("stream_options", Any),
    ("max_tokens", Any),
    ("max_completion_tokens", Any),
    ("temperature", Any),
    ("top_p", Any),
    ("n", Any),
    ("stop", Any),
    ("seed", Any),
    ("frequency_penalty", Any),
    ("presence_penalty", Any),
    ("logit_bias", Any),
    ("logprobs", Any),
    ("top_logprobs", Any),
    ("response_format", Any),
    ("tools", List(&OPENAI_TOOL)),
    ("tool_choice", Any),
    ("parallel_tool_calls", Any),
    // The older names of the two before.
    ("functions", Any),
    ("function_call", Any),
    ("user", Any),
    ("safety_identifier", Any),
    ("prompt_cache_key", Any),
    ("prompt_cache_retention", Any),
    ("service_tier", Any),
    ("metadata", Any),
    ("reasoning_effort", Any),
    ("verbosity", Any),
    ("modalities", Any),
    ("audio", Any),
    ("prediction", Any),
    // Kept at the provider, or searched for.
    ("store", Off),
    ("web_search_options", Off),
    // Of servers that are compatible: sampling and thinking, all of it within the model.
    ("top_k", Any),
    ("min_p", Any),
    ("top_a", Any),
    ("typical_p", Any),
    ("repetition_penalty", Any),
    ("repeat_penalty", Any),
    ("length_penalty", Any),
    ("min_tokens", Any),
    ("best_of", Any),
    ("ignore_eos", Any),
    ("stop_token_ids", Any),
    ("skip_special_tokens", Any),
    ("add_generation_prompt", Any),
    ("continue_final_message", Any),
    ("chat_template_kwargs", Any),
    ("enable_thinking", Any),
    ("thinking", Any),
    ("reasoning", Any),
    ("include_reasoning", Any),
    ("tool_stream", Any),
    ("guided_json", Any),
    ("guided_choice", Any),
    ("grammar", Any),
    ("cache_prompt", Any),
    ("safe_prompt", Any),
    ("random_seed", Any),
];

const CHAT_MESSAGE: Shape = Object(&[
    ("role", Plain),
    ("content", Texts(&CHAT_PART)),
    ("name", Plain),
    ("tool_calls", Any),
    ("tool_call_id", Plain),
    ("function_call", Any),
    ("refusal", Plain),
    ("reasoning", Any),
    ("reasoning_content", Any),
    ("reasoning_details", Any),
    ("reasoning_text", Any),
    ("annotations", Any),
    ("cache_control", Any),
    // A mark of answers that the provider keeps.
    ("audio", Off),
]);

const CHAT_PART: Shape = Object(&[
    ("type", Word(&["text", "image_url", "input_audio", "file", "refusal"])),
    ("text", Plain),
    ("refusal", Plain),
    ("image_url", Object(&[("url", Data), ("detail", Plain)])),
    ("input_audio", Object(&[("data", Plain), ("format", Plain)])),
    ("file", Object(&[("file_data", Data), ("filename", Plain), ("file_id", Off)])),
    ("cache_control", Any),
]);

const OPENAI_TOOL: Shape = Object(&[
    ("type", Word(&["function", "custom"])),
    ("function", Any),
    ("custom", Any),
    ("cache_control", Any),
]);

const RESPONSES: Fields = &[
    ("model", Any),
    ("input", Texts(&RESPONSES_ITEM)),
    ("instructions", Plain),
    ("stream", Any),
    ("stream_options", Any),
    ("max_output_tokens", Any),
    ("max_tool_calls", Any),
    ("temperature", Any),
    ("top_p", Any),
    ("top_logprobs", Any),
    ("tools", List(&RESPONSES_TOOL)),
    ("tool_choice", Any),
    ("parallel_tool_calls", Any),
    ("reasoning", Any),
    ("text", Any),
    ("truncation", Any),
    ("include", Any),
    ("metadata", Any),
    ("user", Any),
    ("safety_identifier", Any),
    ("prompt_cache_key", Any),
    ("prompt_cache_retention", Any),
    ("service_tier", Any),
    // Kept at the provider, or taken from what it keeps.
    ("store", Off),
    ("background", Off),
    ("previous_response_id", Off),
    ("conversation", Off),
    ("prompt", Off),
];

const RESPONSES_ITEM: Shape = Marked(
    // With neither it would be a reference to what the provider keeps.
    &["type", "role"],
    &[
        (
            "type",
            Word(&[
                "message",
                "function_call",
                "function_call_output",
                "custom_tool_call",
                "custom_tool_call_output",
                "reasoning",
            ]),
        ),
        ("role", Word(&["user", "assistant", "system", "developer"])),
        ("id", Plain),
        ("status", Plain),
        ("phase", Plain),
        ("content", Texts(&RESPONSES_PART)),
        ("name", Plain),
        ("arguments", Plain),
        ("input", Plain),
        ("call_id", Plain),
        ("output", Texts(&RESPONSES_PART)),
        ("summary", Any),
        ("encrypted_content", Plain),
    ],
);

const RESPONSES_PART: Shape = Object(&[
    ("type", Word(&["input_text", "output_text", "reasoning_text", "refusal", "input_image", "input_file"])),
    ("text", Plain),
    ("refusal", Plain),
    ("image_url", Data),
    ("detail", Plain),
    ("file_data", Data),
    ("filename", Plain),
    ("annotations", Any),
    ("logprobs", Any),
    ("file_id", Off),
    ("file_url", Off),
]);

const RESPONSES_TOOL: Shape = Object(&[
    ("type", Word(&["function", "custom"])),
    ("name", Plain),
    ("description", Plain),
    ("parameters", Any),
    ("strict", Plain),
    ("format", Any),
]);

const EMBEDDINGS: Fields = &[
    ("model", Any),
    ("input", Any),
    ("encoding_format", Any),
    ("dimensions", Any),
    ("user", Any),
    ("input_type", Any),
    ("truncate_prompt_tokens", Any),
];

const MESSAGES: Fields = &[
    ("model", Any),
    ("messages", List(&MESSAGE)),
    ("system", Texts(&INNER_BLOCK)),
    ("max_tokens", Any),
    ("stream", Any),
    ("stop_sequences", Any),
    ("temperature", Any),
    ("top_p", Any),
    ("top_k", Any),
    ("thinking", Any),
    ("tools", List(&ANTHROPIC_TOOL)),
    ("tool_choice", Any),
    ("metadata", Any),
    ("service_tier", Any),
    ("cache_control", Any),
    ("context_management", Any),
    ("output_config", Any),
    ("output_format", Any),
    // Dialled, or run, by the provider.
    ("mcp_servers", List(&Off)),
    ("container", Off),
];

const MESSAGE: Shape = Object(&[("role", Plain), ("content", Texts(&BLOCK))]);

const BLOCK: Shape = Object(&[
    (
        "type",
        Word(&["text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking"]),
    ),
    ("text", Plain),
    ("source", SOURCE),
    ("title", Plain),
    ("context", Plain),
    ("citations", Any),
    ("id", Plain),
    ("name", Plain),
    ("input", Any),
    // Who called the tool: the model, or code that the provider ran.
    ("caller", Object(&[("type", Word(&["direct"]))])),
    ("tool_use_id", Plain),
    ("content", Texts(&INNER_BLOCK)),
    ("is_error", Plain),
    ("thinking", Plain),
    ("signature", Plain),
    ("data", Plain),
    ("cache_control", Any),
]);

/// A block within a tool's result, or of the system's text.
const INNER_BLOCK: Shape = Object(&[
    ("type", Word(&["text", "image", "document"])),
    ("text", Plain),
    ("source", SOURCE),
    ("title", Plain),
    ("context", Plain),
    ("citations", Any),
    ("cache_control", Any),
]);

const SOURCE: Shape = Object(&[
    ("type", Word(&["base64", "text", "content"])),
    ("media_type", Plain),
    ("data", Plain),
    ("content", Texts(&SOURCE_BLOCK)),
]);

/// A block within a document.
const SOURCE_BLOCK: Shape = Object(&[
    ("type", Word(&["text", "image"])),
    ("text", Plain),
    ("source", Object(&[("type", Word(&["base64"])), ("media_type", Plain), ("data", Plain)])),
    ("cache_control", Any),
]);

const ANTHROPIC_TOOL: Shape = Object(&[
    // All but the first are known to the model, and run by its client.
    ("type", Word(&["custom", "bash_*", "text_editor_*", "computer_*", "memory_*"])),
    ("name", Plain),
    ("description", Plain),
    ("input_schema", Any),
    ("input_examples", Any),
    ("strict", Plain),
    ("eager_input_streaming", Plain),
    ("cache_control", Any),
    ("display_width_px", Plain),
    ("display_height_px", Plain),
    ("display_number", Plain),
    ("enable_zoom", Plain),
    ("max_characters", Plain),
]);

const OLLAMA_CHAT: Fields = &[
    ("model", Any),
    ("messages", List(&OLLAMA_MESSAGE)),
    ("tools", List(&OLLAMA_TOOL)),
    ("stream", Any),
    ("format", Any),
    ("options", Any),
    ("think", Any),
    ("keep_alive", Any),
    ("truncate", Any),
    ("shift", Any),
    ("logprobs", Any),
    ("top_logprobs", Any),
];

const OLLAMA_MESSAGE: Shape = Object(&[
    ("role", Plain),
    ("content", Plain),
    ("thinking", Plain),
    // Base64, never an address.
    ("images", List(&Plain)),
    ("tool_calls", Any),
    ("tool_name", Plain),
    ("tool_call_id", Plain),
    ("name", Plain),
]);

const OLLAMA_TOOL: Shape = Object(&[("type", Word(&["function"])), ("function", Any)]);

const OLLAMA_GENERATE: Fields = &[
    ("model", Any),
    ("prompt", Plain),
    ("suffix", Plain),
    ("images", List(&Plain)),
    ("system", Plain),
    ("template", Plain),
    ("context", Any),
    ("raw", Any),
    ("stream", Any),
    ("format", Any),
    ("options", Any),
    ("think", Any),
    ("keep_alive", Any),
    ("truncate", Any),
    ("shift", Any),
    ("logprobs", Any),
    ("top_logprobs", Any),
];

const OLLAMA_EMBED: Fields = &[
    ("model", Any),
    ("input", Any),
    ("truncate", Any),
    ("options", Any),
    ("keep_alive", Any),
    ("dimensions", Any),
];

/// Google reads each key in both spellings.
const GEMINI: Fields = &[
    ("model", Any),
    ("contents", List(&CONTENT)),
    ("systemInstruction", CONTENT),
    ("system_instruction", CONTENT),
    ("tools", List(&GEMINI_TOOL)),
    ("toolConfig", Any),
    ("tool_config", Any),
    ("generationConfig", Any),
    ("generation_config", Any),
    ("safetySettings", Any),
    ("safety_settings", Any),
    ("labels", Any),
    // Kept at the provider, or a second request within the first.
    ("store", Off),
    ("cachedContent", Off),
    ("cached_content", Off),
    ("generateContentRequest", Off),
    ("generate_content_request", Off),
];

const CONTENT: Shape = Object(&[("role", Plain), ("parts", List(&PART))]);

const PART: Shape = Object(&[
    ("text", Plain),
    ("inlineData", BLOB),
    ("inline_data", BLOB),
    ("functionCall", Any),
    ("function_call", Any),
    ("functionResponse", FUNCTION_RESPONSE),
    ("function_response", FUNCTION_RESPONSE),
    ("thought", Plain),
    ("thoughtSignature", Plain),
    ("thought_signature", Plain),
    ("videoMetadata", Any),
    ("video_metadata", Any),
]);

const BLOB: Shape =
    Object(&[("mimeType", Plain), ("mime_type", Plain), ("data", Plain), ("displayName", Plain)]);

const FUNCTION_RESPONSE: Shape = Object(&[
    ("id", Plain),
    ("name", Plain),
    ("response", Any),
    ("willContinue", Plain),
    ("will_continue", Plain),
    ("scheduling", Plain),
]);

const GEMINI_TOOL: Shape = Object(&[("functionDeclarations", Any), ("function_declarations", Any)]);

const GEMINI_EMBED: Fields = &[
    ("model", Any),
    ("content", CONTENT),
    ("taskType", Any),
    ("task_type", Any),
    ("title", Any),
    ("outputDimensionality", Any),
    ("output_dimensionality", Any),
];
