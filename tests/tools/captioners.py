"""Tiny random captioning models in the hub's layout, and a server that stands in for one of OpenAI's kind."""

import base64
import io
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from PIL import Image

WORDS = ["a", "red", "blue", "dog", "cat", "on", "the", "grass", "hill", "with", "two", "hats"]


def write_blip(folder: Path) -> Path:
    """A BLIP of one layer whose captions depend on the image."""
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    torch.manual_seed(0)
    signs = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]", *WORDS]
    words = {word: index for index, word in enumerate(signs)}
    tokenizer = BertTokenizerFast(vocab=words, bos_token="[DEC]")
    shared = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    special = {"bos_token_id": 5, "pad_token_id": 0, "eos_token_id": 3, "sep_token_id": 3}
    text = {**shared, **special, "vocab_size": len(signs), "encoder_hidden_size": 16, "projection_dim": 8}
    config = BlipConfig(
        text_config={**text, "max_position_embeddings": 256},
        vision_config={**shared, "image_size": 16, "patch_size": 8},
        projection_dim=8,
        image_text_hidden_size=8,
    )
    model = BlipForConditionalGeneration(config)
    with torch.no_grad():
        model.text_decoder.cls.predictions.bias[: -len(WORDS)] = -99.0  # it never falls silent
    _save(model, folder)
    BlipProcessor(BlipImageProcessor(size={"height": 16, "width": 16}), tokenizer).save_pretrained(folder)
    return folder


def write_florence(folder: Path) -> Path:
    """A Florence-2 of two stages and one layer whose captions depend on the image."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BartConfig,
        CLIPImageProcessor,
        Florence2Config,
        Florence2ForConditionalGeneration,
        Florence2Processor,
        PreTrainedTokenizerFast,
    )

    torch.manual_seed(0)
    signs = ["<s>", "<pad>", "</s>", "<unk>", "<image>", *WORDS]
    words = Tokenizer(models.WordLevel({word: index for index, word in enumerate(signs)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    special = {"bos_token": "<s>", "pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    extra = {"image_token": "<image>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, extra_special_tokens=extra, **special)
    layers: dict[str, Any] = {f"{side}_layers": 1 for side in ("encoder", "decoder")}
    layers |= {f"{side}_attention_heads": 2 for side in ("encoder", "decoder")}
    layers |= {f"{side}_ffn_dim": 16 for side in ("encoder", "decoder")}
    numbers = {"bos_token_id": 0, "pad_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 2}
    text = BartConfig(vocab_size=len(signs), d_model=16, max_position_embeddings=256, **layers, **numbers)
    stages = {"depths": [1, 1], "patch_size": [7, 3], "patch_stride": [4, 2], "patch_padding": [3, 1]}
    stages |= {"embed_dim": [8, 16], "num_heads": [2, 2], "num_groups": [2, 2]}
    vision = {**stages, "patch_prenorm": [False, True], "window_size": 4, "projection_dim": 16}
    config = Florence2Config(text_config=text, vision_config=vision, image_token_id=4)
    _save(Florence2ForConditionalGeneration(config), folder)
    images = CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False)
    images.image_seq_length = 17
    Florence2Processor(images, tokenizer).save_pretrained(folder)
    return folder


def _save(model: Any, folder: Path) -> None:
    """With weights so large that what is said depends on what is seen."""
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(0, 0.7)
    model.save_pretrained(folder)


class Endpoint:
    """What the server was asked, and what it answers: a text, or a status with a text."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.keys: list[str | None] = []
        self.answer: Callable[[int], str | tuple[int, str]] = lambda number: f"caption {number}"
        self.headers: dict[str, str] = {}

    def image(self, number: int) -> Image.Image:
        """The image of a request."""
        url = self.asked[number]["messages"][0]["content"][1]["image_url"]["url"]
        kind, _, data = url.partition(",")
        assert kind == "data:image/jpeg;base64"
        return Image.open(io.BytesIO(base64.b64decode(data)))


@contextmanager
def serving() -> Iterator[Endpoint]:
    """A server on localhost for the time of the block."""
    endpoint = Endpoint()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            number = len(endpoint.asked)
            endpoint.asked.append(body)
            endpoint.paths.append(self.path)
            endpoint.keys.append(self.headers["Authorization"])
            answer = endpoint.answer(number)
            status, text = answer if isinstance(answer, tuple) else (200, answer)
            reply = {"choices": [{"message": {"role": "assistant", "content": text}}]}
            self.send_response(status)
            for name, value in endpoint.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write((json.dumps(reply) if status == 200 else text).encode())

        def do_GET(self) -> None:
            endpoint.paths.append(f"GET {self.path}")

        def log_message(self, *_: object) -> None:
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    endpoint.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield endpoint
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


MODELS = {"blip": write_blip, "florence2": write_florence}
NUM_PHOTOS = 20
SHORT = ["--max-tokens", "8"]
