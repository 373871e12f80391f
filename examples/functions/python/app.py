"""Sends back every byte of each connection, one connection after the other."""

import socket
import sys

from wit_world import exports


class Run(exports.Run):
    def run(self) -> None:
        host, port = sys.argv[1].rsplit(":", 1)
        listener = socket.create_server((host, int(port)))
        print(f"listening on {sys.argv[1]}", file=sys.stderr, flush=True)
        while True:
            connection, peer = listener.accept()
            with connection:
                try:
                    echo(connection)
                except OSError as error:
                    print(f"{peer}: {error}", file=sys.stderr, flush=True)


def echo(connection: socket.socket) -> None:
    while data := connection.recv(64 * 1024):
        connection.sendall(data)
