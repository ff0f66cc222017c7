"""What `spin caption` sends to a server and takes from it."""

import socket
import threading
from contextlib import suppress
from pathlib import Path

import pytest
from PIL import Image

from spin.errors import ModelError, ParamsError
from spin.tools.caption.endpoint import KEY, EndpointCaptioner
from tests.data.images import picture
from tests.tools.captioners import Endpoint

SECRET = "sk-0123456789abcdef"


def served_by(endpoint: Endpoint, url: str = "", workers: int = 1) -> EndpointCaptioner:
    return EndpointCaptioner(url or endpoint.url, "some-vlm", None, 99, workers)


def test_an_image_goes_small_and_without_its_metadata(endpoint: Endpoint, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x010F] = "a camera"
    picture(0, (3000, 1500)).save(tmp_path / "a.jpg", exif=exif)
    with Image.open(tmp_path / "a.jpg") as opened:
        opened.load()
        assert served_by(endpoint)([opened]) == ["caption 0"]
    sent = endpoint.image(0)
    assert sent.size == (1024, 512)
    assert not dict(sent.getexif())
    assert endpoint.paths == ["/v1/chat/completions"]
    assert {name: endpoint.asked[0][name] for name in ("model", "max_tokens", "temperature")} == {
        "model": "some-vlm",
        "max_tokens": 99,
        "temperature": 0,
    }
    assert endpoint.keys == [None]
    for url in (endpoint.url + "/", endpoint.url + "/chat/completions"):
        served_by(endpoint, url)([picture(0)])
    assert set(endpoint.paths) == {"/v1/chat/completions"}


def test_captions_come_in_the_order_of_the_images(endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: str(endpoint.image(number).width)
    images = [picture(index, (40 + index, 20)) for index in range(12)]
    assert served_by(endpoint, workers=4)(images) == [str(40 + index) for index in range(12)]


def test_the_key_is_sent_and_stands_in_no_message(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv(KEY, f"{SECRET}\n")
    endpoint.answer = lambda number: (403 if number else 400, f"the key {SECRET} may not\x1b[2J")
    assert served_by(endpoint)([picture(0)]) == [""], "a server refuses an image, not the run"
    with pytest.raises(ModelError, match=r"HTTP 403: the key \*\*\* may not \[2J\)") as refused:
        served_by(endpoint)([picture(0)])
    assert endpoint.keys == [f"Bearer {SECRET}"] * 2
    assert "HTTP 400: the key *** may not" in caplog.text
    assert SECRET not in caplog.text + str(refused.value)
    monkeypatch.setenv(KEY, "kéy")
    with pytest.raises(ParamsError, match=f"{KEY} must be a key of printable ASCII") as wrong:
        served_by(endpoint)
    assert "kéy" not in str(wrong.value)


def test_a_redirect_is_not_followed(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY, SECRET)
    endpoint.headers["Location"] = "/elsewhere"
    for status in (302, 307):
        endpoint.answer = lambda number, status=status: (status, "over there")
        with pytest.raises(ModelError, match=f"HTTP {status}"):
            served_by(endpoint)([picture(0)])
    assert endpoint.paths == ["/v1/chat/completions"] * 2


def test_a_busy_server_is_asked_again_and_a_dead_one_is_one_sentence(endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: (503, "busy") if number < 2 else "at last"
    assert served_by(endpoint)([picture(0)]) == ["at last"]
    assert len(endpoint.asked) == 3
    endpoint.answer = lambda number: (429, "too many")
    with pytest.raises(ModelError, match="HTTP 429: too many"):
        served_by(endpoint)([picture(0)])
    assert len(endpoint.asked) == 6
    with pytest.raises(
        ModelError, match=r"--endpoint must answer at http://127\.0\.0\.1:1/v1/chat/completions"
    ):
        served_by(endpoint, "http://127.0.0.1:1/v1")([picture(0)])


def test_a_refusal_that_breaks_off_still_says_where_and_what(endpoint: Endpoint) -> None:
    endpoint.headers["Transfer-Encoding"] = "chunked"  # and no chunk comes
    for answer, said in (
        ((403, "for"), "HTTP 403: and what it says of it breaks off"),
        ("cut", "IncompleteRead"),
    ):
        endpoint.answer = lambda number, answer=answer: answer
        with pytest.raises(ModelError, match=rf"must answer at {endpoint.url}/chat.* \({said}"):
            served_by(endpoint)([picture(0)])
    endpoint.answer = lambda number: (400, "filtered")
    assert served_by(endpoint)([picture(0)]) == [""]


@pytest.mark.parametrize(
    "beginning", [b"HTTP/1.0 200 ", b"HTTP/1.0 200 OK\r\n\r\n{", b"HTTP/1.0 403 No\r\n\r\n"]
)
def test_a_server_that_drips_is_given_up(beginning: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr("spin.tools.caption.endpoint.TIMEOUT", 0.5)
    ended = threading.Event()

    def drip() -> None:
        connection, _ = listening.accept()
        with connection, suppress(OSError):
            connection.sendall(beginning)
            while not ended.wait(0.05):
                connection.sendall(b" ")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=drip)
        server.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/v1"
        try:
            with pytest.raises(ModelError, match=rf"{url}.* \(it takes longer than 0\.5 seconds\)"):
                EndpointCaptioner(url, "some-vlm", None, 99, 1)([picture(0)])
        finally:
            ended.set()
            server.join()


def test_an_answer_that_nests_too_deeply_is_one_sentence(endpoint: Endpoint) -> None:
    endpoint.answer = lambda number: (201, "[" * 100_000)
    with pytest.raises(ModelError, match=rf"must answer at {endpoint.url}.*maximum recursion depth"):
        served_by(endpoint)([picture(0)])


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "ftp://host/v1", "http://", "http://h:x/v1", "http://[::1/v1"]
)
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ParamsError, match="--endpoint must be a server's address"):
        EndpointCaptioner(url, "some-vlm", None, 99, 1)
