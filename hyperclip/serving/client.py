"""A client for the server, of Python's standard library alone; it imports no torch.

    client = Client("http://127.0.0.1:8000")
    answer = client.segment(Path("photo.jpg").read_bytes(), "dog; road, street; sky")
    again = client.segment(answer["image_hash"], "cat; road")  # nothing is uploaded or encoded

As a program it has a server pre-label images for Label Studio: tasks to import, with masks as
predictions, and the labelling interface for its project.

    python -m hyperclip.serving.client photos/*.jpg --vocabulary "dog; road" --output labels/
"""

import base64
import hashlib
import http.client
import json
import os
import sys
import urllib.parse
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..runtime.files import need_output_folder, user_path, write_text
from ..runtime.program import program_parser, run_program

SENT = 1000
"""So many images are remembered as sent."""
VARIABLE = "HYPERCLIP_KEY"


class Refused(ValueError):
    """The server's reason: the status of HTTP, the kind, and a message of one line."""

    def __init__(self, status: int, kind: str, message: str) -> None:
        super().__init__(message)
        self.status, self.kind = status, kind


class Client:
    """Asks a server; threads may share it.

    Args:
        address: "http://HOST:PORT", or https. key: that the server wants, if any.
        seconds: to wait for an answer.
    Raises:
        ValueError: another address.
    """

    def __init__(
        self, address: str = "http://127.0.0.1:8000", key: str = "", seconds: float = 120
    ) -> None:
        parts = urllib.parse.urlsplit(address)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"address: got {address!r}, expected http://HOST:PORT")
        self._kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[
            parts.scheme
        ]
        self._place, self._seconds = parts.netloc.rpartition("@")[2], seconds
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._sent: OrderedDict[str, None] = OrderedDict()

    def segment(
        self, image: bytes | str, vocabulary: str | Sequence[str], **options: Any
    ) -> dict[str, Any]:
        """The answer as JSON: classes with their shares, and masks, see docs/serving.md.

        Args:
            image: the content of a file, or the ``image_hash`` of an answer. What was sent before
                is asked by its hash, and sent again if the server does not have it any more.
            options: other fields of a request.
        Raises:
            Refused: what the server refuses. OSError: it is not reached.
        """
        content, _ = self._ask(image, vocabulary, options)
        answer: dict[str, Any] = json.loads(content)
        return answer

    def labels(self, image: bytes | str, vocabulary: str | Sequence[str], **options: Any) -> bytes:
        """The label map as a PNG file: class indices, 255 for no class. See :meth:`segment`."""
        content, _ = self._ask(image, vocabulary, {**options, "output": "png"})
        return content

    def health(self) -> dict[str, Any]:
        """What the server says of itself; raises as :meth:`segment`."""
        answer: dict[str, Any] = json.loads(self._send("GET", "/health")[0])
        return answer

    def metrics(self) -> dict[str, float]:
        """The server's counters by their names with labels; raises as :meth:`segment`."""
        lines = self._send("GET", "/metrics")[0].decode().splitlines()
        pairs = (line.rpartition(" ") for line in lines if not line.startswith("#"))
        return {name: float(value) for name, _, value in pairs}

    def _ask(
        self, image: bytes | str, vocabulary: str | Sequence[str], options: dict[str, Any]
    ) -> tuple[bytes, str]:
        words = vocabulary if isinstance(vocabulary, str) else list(vocabulary)
        fields: dict[str, Any] = {"vocabulary": words, **options}
        name = image if isinstance(image, str) else hashlib.sha256(image).hexdigest()
        if isinstance(image, str) or name in self._sent:
            try:
                return self._send("POST", "/segment", {**fields, "image_hash": name})
            except Refused as refused:
                if refused.kind != "unknown_image" or isinstance(image, str):
                    raise
        fields["image"] = base64.b64encode(image).decode("ascii")
        answer = self._send("POST", "/segment", fields)
        self._sent[name] = None
        while len(self._sent) > SENT:
            self._sent.popitem(last=False)
        return answer

    def _send(
        self, method: str, path: str, fields: dict[str, Any] | None = None
    ) -> tuple[bytes, str]:
        """The content of an answer and its type."""
        body = None if fields is None else json.dumps(fields).encode()
        headers = {**self._headers, **({"Content-Type": "application/json"} if fields else {})}
        with self._connection() as connection:
            try:
                connection.request(method, path, body, headers)
            except (BrokenPipeError, ConnectionResetError):
                pass  # refused before all of it was sent: the reason is there to be read
            response = connection.getresponse()
            content = response.read()
        if response.status != 200:
            raise _refused(response.status, content)
        return content, response.getheader("Content-Type", "")

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = self._kind(self._place, timeout=self._seconds)
        try:
            yield connection
        except http.client.HTTPException as error:
            raise ConnectionError(f"http://{self._place}: no answer of HTTP ({error!r})") from error
        except ConnectionRefusedError as error:
            how = "start hyperclip-serve, or correct the address"
            raise ConnectionRefusedError(f"http://{self._place}: no server: {how}") from error
        finally:
            connection.close()


def _refused(status: int, content: bytes) -> Refused:
    try:
        told = json.loads(content)
        return Refused(status, str(told["error"]), str(told["message"]))
    except (ValueError, TypeError, KeyError):
        return Refused(status, "unknown", f"status {status}, which this server does not give")


def label_studio(
    client: Client, images: Sequence[Path], vocabulary: str, prefix: str
) -> tuple[list[dict[str, Any]], str]:
    """Label Studio's tasks of images, which it finds by their names behind a ``prefix``, and the
    labelling interface of all of them. Raises as :meth:`Client.segment`, and OSError for a file.
    """
    tasks, config = [], ""
    for path in images:
        name = prefix + urllib.parse.quote(path.name)
        options = {"output": "label-studio", "image_name": name, "instances": True}
        try:
            answer = client.segment(path.read_bytes(), vocabulary, **options)
        except Refused as refused:
            raise ValueError(f"{path}: {refused}") from refused
        tasks.append(answer["task"])
        config = answer["config"]
    return tasks, config


def main(argv: Sequence[str] | None = None) -> int:
    """Write tasks.json and config.xml for Label Studio, or neither."""
    parser = program_parser(__doc__)
    add = parser.add_argument
    add("images", nargs="+", type=user_path, metavar="IMAGE")
    add("--vocabulary", required=True, help="'name, synonym; name; …'")
    add("--output", required=True, type=user_path, metavar="FOLDER", help="folder of the results")
    where = "what stands before an image's name in its task; default: %(default)s"
    add("--prefix", default="/data/local-files/?d=", help=where)
    add("--server", default="http://127.0.0.1:8000", metavar="ADDRESS", help="%(default)s")
    arguments = parser.parse_args(argv)
    need_output_folder(arguments.output, "--output")
    client = Client(arguments.server, os.environ.get(VARIABLE, ""))
    tasks, config = label_studio(client, arguments.images, arguments.vocabulary, arguments.prefix)
    write_text(arguments.output / "tasks.json", json.dumps(tasks) + "\n")
    write_text(arguments.output / "config.xml", config)
    sys.stdout.write(f"{len(tasks)} tasks in {arguments.output}\n")
    return 0


if __name__ == "__main__":
    run_program(main)
