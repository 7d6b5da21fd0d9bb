"""The HTTP client with SSRF protection: network policy, DNS rebinding, timeouts, TLS."""

import asyncio
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st

from storefront.core.net.network_policy import NetworkPolicy, find_url_problem
from storefront.core.net.safe_http import MAX_CONCURRENT_LOOKUPS_PER_OWNER, HostLookup, PostResult, SafeHttpClient
from tests.webhooks.receiver import Receiver

REFUSED = """0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.255.255.254 168.63.129.16 169.254.169.254
172.16.0.1 172.31.255.255 192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.1.1.1
240.0.0.1
255.255.255.255 :: ::1 ::ffff:10.0.0.1 ::ffff:93.184.216.34 ::10.0.0.1 64:ff9b::a00:1 64:ff9b::5db8:d822 64:ff9b:1::1 100::1
2001::1 2001:20::1 2001:db8::1 2002:a00:1::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 fec0::1 ff02::1
nothing 1.2.3 0x7f.1""".split()
PUBLIC = (
    "1.1.1.1 93.184.216.34 172.15.0.1 172.32.0.1 100.63.255.255 100.128.0.1 2606:4700:4700::1111 2a00:1450:4001:800::200e".split()
)


@pytest.mark.parametrize("address", REFUSED)
def test_non_public_address_is_rejected(address: str) -> None:
    assert not NetworkPolicy().is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_address_is_allowed(address: str) -> None:
    assert NetworkPolicy().is_allowed(address)


@settings(deadline=None)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_addresses_private_by_ipaddress_are_rejected(address: object) -> None:
    if NetworkPolicy().is_allowed(str(address)):
        assert getattr(address, "is_global") and not getattr(address, "is_multicast")  # noqa: B009


def test_configured_networks_are_allowed() -> None:
    networks = NetworkPolicy(["10.1.0.0/16", "fd00::/8"])
    assert networks.is_allowed("10.1.2.3") and networks.is_allowed("fd00::1")
    assert not networks.is_allowed("10.2.0.1") and not networks.is_allowed("::ffff:10.1.2.3")


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("http://example.com/", "STOREFRONT_WEBHOOK_HTTP"),
        ("ftp://example.com/", "https://example.com/hooks"),
        ("https:///path", "https://example.com/hooks"),
        ("https://user@example.com/", "user or password"),
        ("https://:secret@example.com/", "user or password"),
        ("https://example.com:22/", "port"),
        ("https://example.com:99999/", "https://example.com/hooks"),
        ("https://example.com/#here", "fragment"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/a b", "ASCII"),
        ("https://example.com/\r\nhost: other", "ASCII"),
        ("https://example.com\\@evil.com/", "ASCII"),
        ("https://[::1/", "https://example.com/hooks"),
        ("https://example.com/" + "x" * 2_048, "characters"),
    ],
)
def test_invalid_url_has_a_problem(url: str, problem: str) -> None:
    assert problem in (find_url_problem(url, allow_http=False) or "")


def test_valid_url_has_no_problem() -> None:
    for url in ("https://example.com", "https://xn--exmple-cua.com:8443/a?b=%20c", "https://[2606:4700::1]/"):
        assert find_url_problem(url, allow_http=False) is None
    assert find_url_problem("http://example.com/", allow_http=True) is None


# -------------------------------------------------------------------------------------------- connections


def fake_lookup(*rounds: Sequence[str]) -> tuple[HostLookup, list[str]]:
    """A look-up that says one thing after the other, and the last one for ever; and what it was asked."""
    left, asked = list(rounds), []

    async def look_up(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    return look_up, asked


async def post(outgoing: SafeHttpClient, url: str) -> PostResult:
    async with outgoing.running(), outgoing.session() as session:
        return await session.post(url, b"{}", {"content-type": "application/json"})


@asynccontextmanager
async def two_receivers() -> AsyncIterator[tuple[Receiver, Receiver]]:
    """A receiver at an address that is allowed, and one at another of the same port that is not."""
    async with Receiver().running() as open_, Receiver(host="127.0.0.2").running(open_.port) as closed:
        yield open_, closed


async def test_dns_rebinding_is_rejected() -> None:
    async with two_receivers() as (open_, closed):
        look_up, asked = fake_lookup(["127.0.0.1"], ["127.0.0.2"])
        url = f"http://hooks.test:{open_.port}/x"
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        # Checked at configuration, and checked again for each connection.
        assert await outgoing.find_target_problem(url) is None
        answer = await post(outgoing, url)
        assert answer.status is None
        assert answer.error == "the host resolves to an address that is neither public nor in STOREFRONT_WEBHOOK_NETWORKS"
        assert len(asked) == 2 and closed.connections == open_.connections == 0


async def test_connection_goes_to_checked_address() -> None:
    async with two_receivers() as (open_, closed):
        # A second lookup would return the other address.
        look_up, asked = fake_lookup(["127.0.0.1"], ["127.0.0.2"])
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        answer = await post(outgoing, f"http://hooks.test:{open_.port}/x")
        assert answer.status == 200 and asked == ["hooks.test"] and closed.connections == 0
        assert open_.received[0].headers["host"] == f"hooks.test:{open_.port}"


async def test_host_with_one_private_address_is_rejected() -> None:
    async with two_receivers() as (open_, closed):
        look_up, _ = fake_lookup(["127.0.0.1", "127.0.0.2"])
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        assert await outgoing.find_target_problem(f"http://hooks.test:{open_.port}/") is not None
        assert (await post(outgoing, f"http://hooks.test:{open_.port}/")).status is None
        assert open_.connections == closed.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.2", "127.2", "2130706434", "0x7f000002", "[::ffff:127.0.0.2]", "localhost"])
async def test_alternative_address_notations_are_rejected(host: str) -> None:
    async with two_receivers() as (open_, closed):
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.3/32"]), allow_http=True)
        url = f"http://{host}:{closed.port}/"
        problem = "must have a host that resolves, to public addresses only, or to those in STOREFRONT_WEBHOOK_NETWORKS."
        assert await outgoing.find_target_problem(url) == problem
        assert (await post(outgoing, url)).status is None
        assert open_.connections == closed.connections == 0


async def test_proxies_of_the_environment_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    async with two_receivers() as (open_, closed):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.2:{closed.port}")
        answer = await post(SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True), f"http://127.0.0.1:{open_.port}/x")
        assert answer.status == 200 and open_.received[0].target == "/x" and closed.connections == 0


async def test_next_address_is_tried_after_timeout() -> None:
    async with Receiver().running() as receiver:
        look_up, _ = fake_lookup(["127.0.0.9", "127.0.0.1"])
        answer = await post(
            SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True, look_up_host=look_up),
            f"http://hooks.test:{receiver.port}/",
        )
        assert answer.status == 200


async def test_hanging_lookup_times_out() -> None:
    async def look_up(_: str, __: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    answer = await post(SafeHttpClient(NetworkPolicy(), timeout=0.2, look_up_host=look_up), "https://hooks.test/")
    assert answer.error == "no answer within 0.2 s" and answer.milliseconds < 5_000


def create_certificates(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The TLS of a server with a certificate of its own for a name, and that of a client that trusts it."""
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file = folder / f"{name}.pem"
    file.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(file)
    return server, ssl.create_default_context(cadata=certificate.public_bytes(serialization.Encoding.PEM).decode())


async def test_tls_verifies_the_host_name(tmp_path: Path) -> None:
    server, client = create_certificates(tmp_path, "hooks.test")
    names: list[str | None] = []
    server.sni_callback = lambda _, name, __: names.append(name)
    look_up, _ = fake_lookup(["127.0.0.1"])
    async with Receiver().running(tls=server) as receiver:
        trusting = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up, ssl_context=client)
        assert (await post(trusting, f"https://hooks.test:{receiver.port}/")).status == 200
        assert names == ["hooks.test"]
        other = await post(
            SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up, ssl_context=client),
            f"https://other.test:{receiver.port}/",
        )
        assert other.error is not None and other.error.startswith("the certificate is invalid: Hostname mismatch")
        unknown = await post(
            SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up), f"https://hooks.test:{receiver.port}/"
        )
        assert unknown.error is not None and unknown.error.startswith("the certificate is invalid: self-signed certificate")
        assert len(receiver.received) == 1


async def test_connection_is_reused() -> None:
    async with Receiver().running() as receiver:
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True)
        async with outgoing.running(), outgoing.session(2) as session:
            for _ in range(5):
                assert (await session.post(receiver.url, b"{}", {})).is_success
        assert (len(receiver.received), receiver.connections) == (5, 1)


async def test_lookups_of_owners_are_isolated(monkeypatch: pytest.MonkeyPatch) -> None:
    # Like a name server that does not respond: the thread stays busy after its caller has left.
    ends, held, real = threading.Event(), [], socket.getaddrinfo

    def look_up(host: str, port: int, **options: Any) -> Any:
        if host.endswith(".silent.test"):
            held.append(host)
            ends.wait(60)
        return real("127.0.0.1", port, **options)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, timeout=0.3)
    async with Receiver().running() as receiver, outgoing.running():
        try:
            async with outgoing.session(100, "crowd") as crowd:
                silent = [crowd.post(f"http://{n}.silent.test:{receiver.port}/", b"{}", {}) for n in range(100)]
                assert {answer.error for answer in await asyncio.gather(*silent)} == {"no answer within 0.3 s"}
            assert len(held) == MAX_CONCURRENT_LOOKUPS_PER_OWNER
            async with outgoing.session(owner="other") as other:
                assert (await other.post(f"http://hooks.test:{receiver.port}/", b"{}", {})).is_success
            url = f"http://hooks.test:{receiver.port}/"
            assert await outgoing.find_target_problem(url, "other") is None
        finally:
            ends.set()
        # The owner's threads are free again after the resolver's timeout.
        assert await outgoing.find_target_problem(url, "crowd") is None


GET_RESPONSES = {
    "/": b"HTTP/1.1 200 OK\r\n\r\nhello",
    "/moved": b"HTTP/1.1 302 Found\r\nlocation: /?x#part\r\n\r\n",
    "/?x": b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nmoved",
    "/loop": b"HTTP/1.1 301 Found\r\nlocation: /loop\r\n\r\n",
    "/file": b"HTTP/1.1 302 Found\r\nlocation: file:///etc/passwd\r\n\r\n",
    "/inside": b"HTTP/1.1 302 Found\r\nlocation: http://127.0.0.2:8080/\r\n\r\n",
    "/gone": b"HTTP/1.1 410 Gone\r\n\r\n",
    "/nowhere": b"HTTP/1.1 302 Found\r\n\r\n",
    "/long": b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999\r\n\r\nx",
    "/endless": b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 100_000,
    "/slow": b"",
}


@pytest.mark.parametrize(
    ("path", "result"),
    [
        ("/", b"hello"),
        ("/moved", b"moved"),
        ("/loop", "redirected more than 3 times"),
        ("/file", "its address must be a URL"),
        ("/inside", "neither public nor"),
        ("/gone", "status 410"),
        ("/nowhere", "status 302"),
        ("/long", "more than 1,000 bytes"),
        ("/endless", "more than 1,000 bytes"),
        ("/slow", "was not received within 0.2 s"),
    ],
)
async def test_get_reads_bounded_content_and_checks_redirects(path: str, result: bytes | str) -> None:
    closing = asyncio.Event()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        target = (await reader.readuntil(b"\r\n\r\n")).decode().split(" ", 2)[1]
        writer.write(GET_RESPONSES[target])
        if target == "/slow":
            await closing.wait()
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    client = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]))
    timeout = 0.2 if path == "/slow" else 30.0
    async with server, client.running(), client.session(allow_http=True, timeout_seconds=timeout) as session:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{path}"
        received = await session.get(url, 1_000, {})
        assert received.content == result if isinstance(result, bytes) else (result in received.error and not received.content)
        assert received.is_unreachable == (path in ("/slow", "/inside"))
        closing.set()
