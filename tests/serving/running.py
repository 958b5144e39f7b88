"""A server of the quickstart's model in this process, and what is sent to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn
from hyperclip.runtime.ports import listen
from hyperclip.serving.client import Client
from hyperclip.serving.limits import Limits
from hyperclip.serving.pages import Pages
from hyperclip.serving.service import Service, Sizes

CONFIG = "configs/quickstart/dense_clip.yaml"


class Running:
    """A server's service, its address, and a client for it."""

    def __init__(self, service: Service, port: int, key: str) -> None:
        self.service, self.port = service, port
        self.address = f"http://127.0.0.1:{port}"
        self.client = Client(self.address, key, seconds=60)

    def post(self, body=b"", path="/segment", method="POST", **headers):
        """Send bytes as they are: status, and JSON of the answer."""
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()

    def json(self, **fields):
        """Send fields as JSON."""
        return self.post(json.dumps(fields).encode(), content_type="application/json")

    def form(self, *parts, edge="edge"):
        """Send (name, value) as a form; bytes are files."""
        return self.post(
            form_of(*parts, edge=edge), content_type=f"multipart/form-data; boundary={edge}"
        )


def form_of(*parts, edge="edge"):
    """The body of a form."""
    body = b""
    for name, value in parts:
        file = isinstance(value, bytes)
        head = f'--{edge}\r\nContent-Disposition: form-data; name="{name}"'
        head += '; filename="a.png"\r\nContent-Type: image/png' * file + "\r\n\r\n"
        body += head.encode() + (value if file else value.encode()) + b"\r\n"
    return body + f"--{edge}--\r\n".encode()


def free_port():
    """A port that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serving(predictor, limits=None, sizes=None, key=""):
    """A server until the block ends."""
    service = Service(predictor, limits or Limits(), sizes or Sizes())
    pages, port = Pages(service, {"model": "quickstart"}, key), free_port()
    config = uvicorn.Config(pages.app(), log_config=None, access_log=False)
    server = uvicorn.Server(config)
    listener = listen(port)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield Running(service, port, key)
    finally:
        server.should_exit = True
        thread.join(60)
        assert not thread.is_alive()
