"""A captioning model behind a server that speaks OpenAI's chat completions, such as vLLM, llama.cpp or Ollama.

An image is sent as a JPEG of at most 1024 pixels without its metadata: no place or camera leaves the machine. The key comes
from the environment variable SPIN_CAPTION_KEY and stands in no message.
"""

import base64
import io
import json
import logging
import os
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from functools import partial
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from PIL import Image

from spin.errors import ModelError, ParamsError
from spin.runtime.threads import map_ordered, within
from spin.tools.caption.written import one_line

logger = logging.getLogger(__name__)

KEY = "SPIN_CAPTION_KEY"
INSTRUCTION = "Describe this image in one sentence, as a caption to train a text-to-image model with. Answer with the caption alone."
LONGEST_SIDE = 1024
TIMEOUT = 600.0
"""Seconds for a whole answer; a large model on a CPU takes minutes."""
MAX_BYTES = 1 << 20
WAITS = (1.0, 5.0, 20.0)
"""Seconds before a request is made again that a busy or restarting server turned away."""
BUSY = (429, 500, 502, 503, 504)
REFUSED_IMAGE = (400, 413, 422)
"""Answers to an image that a server does not take, such as one that its filter stops; the next one may pass."""


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """A redirect would take the key and the images to another server."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


class EndpointCaptioner:
    """RGB images -> captions, some requests at a time."""

    def __init__(self, url: str, model: str, prompt: str | None, max_tokens: int, workers: int) -> None:
        """Raises `ParamsError` for what is no address of a server, and for a key that no header can hold."""
        if not _is_address(url):
            shown = "one with a password or a query" if "@" in url or "?" in url else url
            raise ParamsError(
                f"--endpoint must be a server's address such as http://localhost:8000/v1, got {shown}; correct it."
            )
        self._url = url.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._asked = {"model": model, "max_tokens": max_tokens, "temperature": 0}
        self._instruction, self._workers = prompt or INSTRUCTION, workers
        self._key = os.environ.get(KEY, "").strip()
        if not (self._key.isascii() and self._key.isprintable()):
            raise ParamsError(f"{KEY} must be a key of printable ASCII signs, got others; correct it.")
        self._opener = urllib.request.build_opener(_NoRedirects)

    def __call__(self, images: Sequence[Image.Image]) -> list[str]:
        """Caption some images; raises `ModelError` if the server does not answer as it should."""
        return [caption for _, caption in map_ordered(self._caption, images, self._workers)]

    def _caption(self, image: Image.Image) -> str:
        content = [
            {"type": "text", "text": self._instruction},
            {"type": "image_url", "image_url": {"url": _data_url(image)}},
        ]
        body = {**self._asked, "messages": [{"role": "user", "content": content}]}
        for wait in (*WAITS, None):
            try:
                refused, answer = within(TIMEOUT, partial(self._post, json.dumps(body).encode()))
                if refused is None:
                    return self._text_of(json.loads(answer))
            except (
                OSError,
                ValueError,
                HTTPException,
                RecursionError,
            ) as error:  # no server, no HTTP, no JSON
                raise self._error(self._said(str(getattr(error, "reason", error)))) from None
            said = self._said(answer.decode("utf-8", "replace"))
            if refused in REFUSED_IMAGE:
                logger.warning("an image was refused (HTTP %d: %s)", refused, said)
                return ""
            if refused not in BUSY or wait is None:
                raise self._error(f"HTTP {refused}: {said}")
            time.sleep(wait)
        raise AssertionError("the last try returns or raises")

    def _post(self, body: bytes) -> tuple[int | None, bytes]:
        """The answer's bytes, after the status of one that refuses."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        request = urllib.request.Request(self._url, body, headers)
        try:
            with self._opener.open(request, timeout=TIMEOUT) as response:
                return None, response.read(MAX_BYTES)
        except urllib.error.HTTPError as error:
            try:
                return error.code, error.read(MAX_BYTES)
            except (OSError, HTTPException):
                return error.code, b"and what it says of it breaks off"

    def _text_of(self, reply: Any) -> str:
        try:
            text = reply["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            raise ValueError("its answer has no choices with a message") from None
        return text if isinstance(text, str) else ""

    def _said(self, text: str) -> str:
        """What a server said, on one line, without the key that it may repeat."""
        return one_line(text.replace(self._key, "***") if self._key else text)[:200]

    def _error(self, reason: str) -> ModelError:
        return ModelError(
            f"--endpoint must answer at {self._url}, but it does not ({reason}); start the server or correct the address, "
            f"--model or {KEY}, then run the same command: it goes on."
        )


def _is_address(url: str) -> bool:
    try:
        parts = urlsplit(url)
        numbered = parts.port is None or parts.port > 0
    except ValueError:
        return False
    plain = "@" not in parts.netloc and not parts.query and url.isprintable() and " " not in url
    return numbered and plain and parts.scheme in ("http", "https") and bool(parts.hostname)


def _data_url(image: Image.Image) -> str:
    small = image.copy()
    small.thumbnail((LONGEST_SIDE, LONGEST_SIDE))
    stream = io.BytesIO()
    small.save(stream, format="JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"
