"""Receives webhooks with Python alone: prints messages with a valid signature, rejects others."""

import json
import os
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from verifying import verified


class Receiver(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        try:
            print(json.dumps(verified(body, self.headers, os.environ["WEBHOOK_SECRET"])), flush=True)
            self.send_response(204)
        except ValueError:
            self.send_response(400)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Receiver)
    print(json.dumps({"port": server.server_address[1]}), flush=True)
    server.serve_forever()
