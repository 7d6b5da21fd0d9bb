"""Requests to addresses of others' choice: only to what may be connected to, whatever a name says the next time."""

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
def test_what_is_not_public_is_refused(address: str) -> None:
    assert not NetworkPolicy().is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_what_is_public_is_not(address: str) -> None:
    assert NetworkPolicy().is_allowed(address)


@settings(deadline=None)
@given(st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)))
def test_nothing_is_permitted_that_the_library_takes_for_private(address: object) -> None:
    if NetworkPolicy().is_allowed(str(address)):
        assert getattr(address, "is_global") and not getattr(address, "is_multicast")  # noqa: B009


def test_networks_of_the_operator_are_permitted() -> None:
    networks = NetworkPolicy(["10.1.0.0/16", "fd00::/8"])
    assert networks.is_allowed("10.1.2.3") and networks.is_allowed("fd00::1")
    assert not networks.is_allowed("10.2.0.1") and not networks.is_allowed("::ffff:10.1.2.3")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://example.com/", "https://example.com/hooks"),
        ("ftp://example.com/", "https://example.com/hooks"),
        ("https:///path", "https://example.com/hooks"),
        ("https://user@example.com/", "user or password"),
        ("https://:secret@example.com/", "user or password"),
        ("https://example.com:22/", "port"),
        ("https://example.com:99999/", "https://example.com/hooks"),
        ("https://example.com/#here", "behind #"),
        ("https://exämple.com/", "ASCII"),
        ("https://example.com/a b", "ASCII"),
        ("https://example.com/\r\nhost: other", "ASCII"),
        ("https://example.com\\@evil.com/", "ASCII"),
        ("https://[::1/", "https://example.com/hooks"),
        ("https://example.com/" + "x" * 2_048, "characters"),
    ],
)
def test_what_is_no_address_is_said(url: str, words: str) -> None:
    assert words in (find_url_problem(url, allow_http=False) or "")


def test_what_is_an_address_is_taken() -> None:
    for url in ("https://example.com", "https://xn--exmple-cua.com:8443/a?b=%20c", "https://[2606:4700::1]/"):
        assert find_url_problem(url, allow_http=False) is None
    assert find_url_problem("http://example.com/", allow_http=True) is None


# -------------------------------------------------------------------------------------------- on the wire


def answers(*rounds: Sequence[str]) -> tuple[HostLookup, list[str]]:
    """A look-up that says one thing after the other, and the last one for ever; and what it was asked."""
    left, asked = list(rounds), []

    async def look_up(host: str, _: int) -> Sequence[str]:
        asked.append(host)
        return left.pop(0) if len(left) > 1 else left[0]

    return look_up, asked


async def sent(outgoing: SafeHttpClient, url: str) -> PostResult:
    async with outgoing.running(), outgoing.session() as session:
        return await session.post(url, b"{}", {"content-type": "application/json"})


@asynccontextmanager
async def both() -> AsyncIterator[tuple[Receiver, Receiver]]:
    """A receiver at an address that is allowed, and one at another of the same port that is not."""
    async with Receiver().running() as open_, Receiver(host="127.0.0.2").running(open_.port) as closed:
        yield open_, closed


async def test_a_name_that_leads_elsewhere_the_next_time_is_not_followed() -> None:
    async with both() as (open_, closed):
        look_up, asked = answers(["127.0.0.1"], ["127.0.0.2"])
        url = f"http://hooks.test:{open_.port}/x"
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        # Judged when it is made, it is judged again when it is connected to.
        assert await outgoing.find_target_problem(url) is None
        answer = await sent(outgoing, url)
        assert (answer.status, answer.error) == (None, "the host leads to an address that is not public")
        assert len(asked) == 2 and closed.connections == open_.connections == 0


async def test_what_is_connected_to_is_the_address_that_was_judged() -> None:
    async with both() as (open_, closed):
        # Whoever looked it up again would be led to the other.
        look_up, asked = answers(["127.0.0.1"], ["127.0.0.2"])
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        answer = await sent(outgoing, f"http://hooks.test:{open_.port}/x")
        assert answer.status == 200 and asked == ["hooks.test"] and closed.connections == 0
        assert open_.received[0].headers["host"] == f"hooks.test:{open_.port}"


async def test_a_name_with_one_address_inside_is_refused_as_a_whole() -> None:
    async with both() as (open_, closed):
        look_up, _ = answers(["127.0.0.1", "127.0.0.2"])
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True, look_up_host=look_up)
        assert await outgoing.find_target_problem(f"http://hooks.test:{open_.port}/") is not None
        assert (await sent(outgoing, f"http://hooks.test:{open_.port}/")).status is None
        assert open_.connections == closed.connections == 0


@pytest.mark.parametrize("host", ["127.0.0.2", "127.2", "2130706434", "0x7f000002", "[::ffff:127.0.0.2]", "localhost"])
async def test_no_way_of_writing_an_address_gets_inside(host: str) -> None:
    async with both() as (open_, closed):
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.3/32"]), allow_http=True)
        url = f"http://{host}:{closed.port}/"
        assert await outgoing.find_target_problem(url) == "must have a host that is found, and leads to public addresses only."
        assert (await sent(outgoing, url)).status is None
        assert open_.connections == closed.connections == 0


async def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with both() as (open_, closed):
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.2:{closed.port}")
        answer = await sent(SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True), f"http://127.0.0.1:{open_.port}/x")
        assert answer.status == 200 and open_.received[0].target == "/x" and closed.connections == 0


async def test_where_one_address_does_not_answer_the_next_one_may() -> None:
    async with Receiver().running() as receiver:
        look_up, _ = answers(["127.0.0.9", "127.0.0.1"])
        answer = await sent(
            SafeHttpClient(NetworkPolicy(["127.0.0.0/8"]), allow_http=True, look_up_host=look_up),
            f"http://hooks.test:{receiver.port}/",
        )
        assert answer.status == 200


async def test_a_look_up_that_does_not_end_is_given_up() -> None:
    async def look_up(_: str, __: int) -> Sequence[str]:
        await asyncio.sleep(60)
        return []

    answer = await sent(SafeHttpClient(NetworkPolicy(), timeout=0.2, look_up_host=look_up), "https://hooks.test/")
    assert answer.error == "no answer within 0.2 s" and answer.milliseconds < 5_000


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
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


async def test_tls_is_for_the_name(tmp_path: Path) -> None:
    server, client = certified(tmp_path, "hooks.test")
    names: list[str | None] = []
    server.sni_callback = lambda _, name, __: names.append(name)
    look_up, _ = answers(["127.0.0.1"])
    async with Receiver().running(tls=server) as receiver:
        trusting = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up, ssl_context=client)
        assert (await sent(trusting, f"https://hooks.test:{receiver.port}/")).status == 200
        assert names == ["hooks.test"]
        other = await sent(
            SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up, ssl_context=client),
            f"https://other.test:{receiver.port}/",
        )
        assert other.error is not None and other.error.startswith("the certificate does not hold: Hostname mismatch")
        unknown = await sent(
            SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), look_up_host=look_up), f"https://hooks.test:{receiver.port}/"
        )
        assert unknown.error is not None and unknown.error.startswith("the certificate does not hold: self-signed certificate")
        assert len(receiver.received) == 1


async def test_a_connection_is_used_again() -> None:
    async with Receiver().running() as receiver:
        outgoing = SafeHttpClient(NetworkPolicy(["127.0.0.1/32"]), allow_http=True)
        async with outgoing.running(), outgoing.session(2) as session:
            for _ in range(5):
                assert (await session.post(receiver.url, b"{}", {})).is_success
        assert (len(receiver.received), receiver.connections) == (5, 1)


async def test_lookups_of_one_owner_delay_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    # As a name server that does not answer: the thread is held although nobody waits any more.
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
        # The owner's threads are free again once the resolver has given up.
        assert await outgoing.find_target_problem(url, "crowd") is None
