"""TLS over real sockets: certificates are verified, and a connection that was not secured has sent nothing."""

import asyncio
import datetime
import ipaddress
import ssl
from dataclasses import dataclass
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from onboarding.errors import BadSettings
from onboarding.vendors import Deadline, NoAnswer, VendorHttp, Wire
from tests.vendors.scripted_server import Exchange, answers, in_turn, scripted


@dataclass(frozen=True)
class Identity:
    """A self-signed certificate for 127.0.0.1, and a server context that shows it."""

    certificate: Path
    server: ssl.SSLContext


def make_identity(folder: Path, *, address: str = "127.0.0.1", days: int = 1) -> Identity:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=30))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(address))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path, key_path = folder / "certificate.pem", folder / "key.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    key_path.write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, plain))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(path, key_path)
    return Identity(path, server)


@pytest.fixture
def identity(tmp_path: Path) -> Identity:
    return make_identity(tmp_path)


async def refused(http: VendorHttp, url: str) -> NoAnswer:
    with pytest.raises(NoAnswer) as caught:
        await http.send("PUT", url, wire=Wire(Deadline(10)), body={"secret": 1})
    return caught.value


async def test_a_certificate_of_nobody_we_trust_is_refused_and_nothing_is_sent(
    http: VendorHttp, identity: Identity
) -> None:
    async with scripted(answers(200), tls=identity.server) as server:
        silence = await refused(http, server.url)
    assert (silence.may_have_left, silence.reason_code) == (False, "tls_certificate_refused")
    assert "self-signed" in silence.detail or "self signed" in silence.detail
    assert server.requests == []


async def test_a_certificate_for_another_host_is_refused(tmp_path: Path) -> None:
    identity = make_identity(tmp_path, address="127.0.0.2")
    async with scripted(answers(200), tls=identity.server) as server, VendorHttp(ca_file=identity.certificate) as http:
        silence = await refused(http, server.url)
    assert (silence.may_have_left, silence.reason_code) == (False, "tls_certificate_refused")


async def test_an_expired_certificate_is_refused(tmp_path: Path) -> None:
    identity = make_identity(tmp_path, days=-1)
    async with scripted(answers(200), tls=identity.server) as server, VendorHttp(ca_file=identity.certificate) as http:
        silence = await refused(http, server.url)
    assert (silence.may_have_left, silence.detail) == (False, "certificate has expired")


async def test_a_named_authority_is_trusted_and_the_connection_kept(identity: Identity) -> None:
    script = answers(200, {})
    async with scripted(script, tls=identity.server) as server, VendorHttp(ca_file=identity.certificate) as http:
        for _ in range(3):
            answer = await http.send("PUT", server.url, wire=Wire(Deadline(10)), body={})
            assert answer.status == 200
    assert (len(server.requests), server.connections) == (3, 1)


@pytest.mark.parametrize("end", [Exchange.cut, Exchange.close])
async def test_a_secured_request_cut_after_it_arrived_may_have_left_and_went_out_once(
    identity: Identity, end: object
) -> None:
    script = in_turn(answers(200), end)  # type: ignore[arg-type]
    async with scripted(script, tls=identity.server) as server, VendorHttp(ca_file=identity.certificate) as http:
        await http.send("PUT", server.url, wire=Wire(Deadline(10)), body={})
        silence = await refused(http, server.url)
    assert (silence.may_have_left, len(server.requests)) == (True, 2)


async def test_a_secured_request_past_its_deadline_resets_the_connection(identity: Identity) -> None:
    async with (
        scripted(Exchange.until_client_leaves, tls=identity.server) as server,
        VendorHttp(ca_file=identity.certificate) as http,
    ):
        with pytest.raises(NoAnswer) as caught:
            await http.send("PUT", server.url, wire=Wire(Deadline(0.5)), body={})
        async with asyncio.timeout(10):
            await server.closed_by_client.wait()
    assert caught.value.may_have_left


async def test_https_to_a_server_without_tls_sends_nothing(http: VendorHttp) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        silence = await refused(http, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    assert (silence.may_have_left, silence.reason_code) == (False, "tls_failed")


async def test_a_handshake_that_hangs_ends_with_the_deadline_and_sends_nothing(http: VendorHttp) -> None:
    async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1000):
            pass
        writer.close()

    async with await asyncio.start_server(hang, "127.0.0.1", 0) as server:
        url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(NoAnswer) as caught:
            await http.send("PUT", url, wire=Wire(Deadline(0.2)), body={})
    assert (caught.value.may_have_left, caught.value.reason_code) == (False, "deadline_passed")


def test_a_certificate_file_that_holds_none_is_a_bad_setting(tmp_path: Path) -> None:
    empty = tmp_path / "empty.pem"
    empty.write_text("nothing")
    for path in (empty, tmp_path / "missing.pem"):
        with pytest.raises(BadSettings, match="ONBOARDING_CA_FILE"):
            VendorHttp(ca_file=path)
