"""Media in a request's messages: within it, or at public addresses where the service allows it."""

from typing import Any

import pytest

from appliance.gateway.plane.media import is_public_https
from tests.plane.bodies import refusal, sent
from tests.plane.parts import chat, request, shard


def part(kind: str, url: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": [{"type": kind, kind: url}]}]


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1/x",
        "https://example.com/x.png",
        "file:///etc/passwd",
        "//127.0.0.1/",
        " data:image/png;base64,",
        "ftp://x",
        "",
    ],
)
@pytest.mark.parametrize("kind", ["image_url", "audio_url", "video_url"])
def test_url_that_an_engine_would_fetch_is_refused(kind: str, url: str) -> None:
    for value in (url, {"url": url}, [url]):
        body = chat(messages=part(kind, value))
        assert refusal(request(shard()), body).param == "messages"
        escaped = body.replace(b"_url", b"\\u005furl")
        assert refusal(request(shard()), escaped).param == "messages"


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"image_embeds": "x"}]}],
        [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}, "uuid": "1"}]}],
        [{"role": "user", "content": [{"type": "image_url", "uuid": "1"}]}],
        [{"role": "tool", "content": [[{"image_url": "http://x"}]]}],
    ],
)
def test_tensors_and_ids_of_kept_media_are_refused(messages: Any) -> None:
    assert refusal(request(shard()), chat(messages=messages)).param == "messages"


def test_media_within_the_request_and_words_about_media_pass() -> None:
    content = [
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}},
        {"type": "text", "text": '"image_url": "http://x"'},
    ]
    tools = [{"type": "function", "function": {"parameters": {"properties": {"image_url": {"type": "string"}}}}}]
    body = chat(messages=[{"role": "user", "content": content}], tools=tools)
    assert sent(request(shard()), body)["messages"][0]["content"] == content


@pytest.mark.parametrize(
    ("url", "public"),
    [
        ("https://example.com/a.png", True),
        ("https://example.com:8443/a?b#c", True),
        ("https://93.184.215.14/", True),
        ("http://example.com/", False),
        ("https://localhost/", False),
        ("https://localhost./", False),
        ("https://db.internal/", False),
        ("https://printer.local/", False),
        ("https://intranet/", False),
        ("https://127.0.0.1/", False),
        ("https://127.1/", False),
        ("https://2130706433/", False),
        ("https://0x7f.0.0.1/", False),
        ("https://10.0.0.1:443/", False),
        ("https://169.254.169.254/latest", False),
        ("https://[::1]/", False),
        ("https://[::ffff:127.0.0.1]/", False),
        ("https://user@example.com/", False),
        ("https://example.com\\@127.0.0.1/", False),
        ("https://example.com@127.0.0.1/", False),
        ("https://exam\nple.com/", False),
    ],
)
def test_public_https(url: str, public: object) -> None:
    assert is_public_https(url) is public
    service = shard(remote_media=True)
    body = chat(messages=part("image_url", {"url": url}))
    if public:
        assert sent(request(service), body)
    else:
        assert refusal(request(service), body).param == "messages"
