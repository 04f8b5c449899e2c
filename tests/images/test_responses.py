import json

from hypothesis import given
from hypothesis import strategies as st
from transformers_engine.responses import ChatAnswer, CompletionAnswer, event
from transformers_engine.sequence import Delta, FinishReason

CHAT = ChatAnswer(id="chatcmpl-1", model="m", prompt_tokens=7, created=5)
LAST = Delta("end", 3, FinishReason.LENGTH)


@given(st.text())
def test_an_event_is_one_line_and_reads_back(text: str) -> None:
    framed = event({"text": text})
    assert framed.startswith(b"data: ")
    assert framed.endswith(b"\n\n")
    body = framed.removeprefix(b"data: ").removesuffix(b"\n\n")
    assert b"\n" not in body
    assert b"\r" not in body
    assert json.loads(body) == {"text": text}


def test_a_whole_answer() -> None:
    body = CHAT.whole("hello", LAST)
    assert body["object"] == "chat.completion"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello"},
            "logprobs": None,
            "finish_reason": "length",
        }
    ]
    assert body["usage"] == {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}


def test_chunks_carry_usage_only_where_asked() -> None:
    assert "usage" not in CHAT.chunk(LAST, usage=False)
    assert CHAT.chunk(LAST, usage=True)["usage"]["completion_tokens"] == 3
    assert CHAT.closing(LAST)["choices"] == []


def test_only_a_chat_opens_with_a_role() -> None:
    assert CHAT.opening(usage=False)["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert CompletionAnswer(id="cmpl-1", model="m", prompt_tokens=1).opening(usage=False) is None


def test_a_completion_has_text() -> None:
    body = CompletionAnswer(id="cmpl-1", model="m", prompt_tokens=1).chunk(LAST, usage=False)
    assert body["object"] == "text_completion"
    assert body["choices"][0]["text"] == "end"
