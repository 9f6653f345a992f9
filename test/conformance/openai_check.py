"""Manual check of the official Python SDK against a running gateway; see docs/operations.md."""

import os

import openai

client = openai.OpenAI(base_url=os.environ["TALLYGATE_URL"], api_key=os.environ["TALLYGATE_KEY"])
model = client.models.list().data[0].id
question = [{"role": "user", "content": "What is the capital of France?"}]


def stream(**extra):
    return client.chat.completions.create(
        model=model, messages=question, max_tokens=24, stream=True, **extra
    )


plain = client.chat.completions.create(model=model, messages=question, max_tokens=24)
print("plain answer:", plain.choices[0].message.content, plain.usage.total_tokens, "tokens")
assert plain.usage.completion_tokens > 0

chunks = list(stream())
print("stream:", "".join(c.choices[0].delta.content or "" for c in chunks))
assert all(c.usage is None for c in chunks) and all(c.choices for c in chunks)

chunks = list(stream(stream_options={"include_usage": True}))
print("stream with usage:", chunks[-1].usage.total_tokens, "tokens")
assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens > 0

try:
    client.chat.completions.create(model="no-such-model", messages=question)
    raise SystemExit("unknown model was served")
except openai.NotFoundError as error:
    print("unknown model:", error.code)
    assert error.code == "model_not_found"

try:
    client.with_options(api_key="tg_wrong_key").models.list()
    raise SystemExit("bad key was served")
except openai.AuthenticationError as error:
    print("bad key:", error.code)
    assert error.code == "invalid_api_key"

aborted = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Tell a long story."}], max_tokens=400, stream=True
)
for count, _ in enumerate(aborted):
    if count == 5:
        aborted.close()
        break
print("abort: closed after 5 chunks")
