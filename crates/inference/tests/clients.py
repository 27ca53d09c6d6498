"""What the official clients of OpenAI and Anthropic read of translated answers, as one line of JSON."""
import json
import sys

import anthropic
import openai

to_anthropic, to_openai = sys.argv[1:]
chat = openai.OpenAI(base_url=f"{to_anthropic}/v1", api_key="cell", max_retries=0, timeout=30)
messages = anthropic.Anthropic(base_url=to_openai, api_key="cell", max_retries=0, timeout=30)
said = {}


def refused(call):
    try:
        call()
    except (openai.APIStatusError, anthropic.APIStatusError) as error:
        return [error.status_code, str(error.body)]
    return None


ask = {"model": "openclaw", "messages": [{"role": "user", "content": "The weather?"}]}
chat_tools = [{"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object"}}}]

with chat.chat.completions.stream(**ask, tools=chat_tools, stream_options={"include_usage": True}) as stream:
    for _ in stream:
        pass
    whole = stream.get_final_completion()
choice = whole.choices[0]
said["chat_stream"] = {
    "text": choice.message.content,
    "calls": [[call.function.name, json.loads(call.function.arguments)] for call in choice.message.tool_calls],
    "finish": choice.finish_reason,
    "usage": [whole.usage.prompt_tokens, whole.usage.completion_tokens],
}
whole = chat.chat.completions.create(**ask, tools=chat_tools)
said["chat"] = [whole.choices[0].message.content, whole.choices[0].finish_reason, whole.usage.total_tokens]

run = {"model": "openclaw", "max_tokens": 99, "messages": [{"role": "user", "content": "run: id -u"}]}
tools = [{"name": "exec", "input_schema": {"type": "object"}}]
with messages.messages.stream(**run, tools=tools) as stream:
    kinds = [event.type for event in stream]
    whole = stream.get_final_message()
said["messages_stream"] = {
    "kinds": kinds,
    "stop": whole.stop_reason,
    "call": [whole.content[0].name, whole.content[0].input],
    "counts": whole.usage.input_tokens > 0 and whole.usage.output_tokens > 0,
}
again = run["messages"] + [
    {"role": "assistant", "content": whole.model_dump()["content"]},
    {"role": "user", "content": [{"type": "tool_result", "tool_use_id": whole.content[0].id, "content": "1000"}]},
]
answer = messages.messages.create(**{**run, "messages": again}, tools=tools)
said["messages"] = [answer.content[0].text, answer.stop_reason]
said["models"] = [[model.id for model in client.models.list()] for client in (chat, messages)]

url = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}
said["refused"] = [
    refused(lambda: chat.chat.completions.create(model="m", messages=[{"role": "user", "content": [url]}])),
    refused(lambda: chat.responses.create(model="m", input="hi")),
    refused(lambda: messages.messages.count_tokens(model="m", messages=run["messages"])),
    refused(lambda: messages.messages.create(**run, extra_body={"top_k": 3})),
]
print(json.dumps(said))
