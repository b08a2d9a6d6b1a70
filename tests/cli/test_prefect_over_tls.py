"""A Prefect API behind TLS with a certificate of one's own authority is found by our commands, as Prefect finds it."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from cli.doors import prefect_api
from tests.vendors.test_tls import Identity, make_identity


class Healthy(BaseHTTPRequestHandler):
    """Answers as a Prefect server that is well."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Nothing."""


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return make_identity(tmp_path)


@pytest.fixture
def address(identity: Identity) -> Iterator[str]:
    server = HTTPServer(("127.0.0.1", 0), Healthy)
    server.socket = identity.server.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"https://127.0.0.1:{server.server_address[1]}/api"
    server.shutdown()
    thread.join()
    server.server_close()


def test_it_is_found_with_the_certificate_that_prefect_is_told_of(
    address: str, identity: Identity, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    assert prefect_api() is None, "nobody vouches for it"
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", str(identity.certificate))
    assert prefect_api() == address


def test_the_certificate_of_the_active_profile_counts_too(
    address: str, identity: Identity, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = f'PREFECT_API_URL = "{address}"\nPREFECT_API_SSL_CERT_FILE = "{identity.certificate}"\n'
    (tmp_path / "profiles.toml").write_text(f'active = "site"\n[profiles.site]\n{settings}')
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    assert prefect_api() == address


def test_a_file_that_is_not_there_is_no_api(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_API_URL", address)
    monkeypatch.setenv("PREFECT_API_SSL_CERT_FILE", "/nowhere.pem")
    assert prefect_api() is None
