"""URLs of clients: recordings come in, and nobody gets anywhere through us."""

import asyncio
import gzip
import pickle
import socket
import ssl
import time
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
import scripted_web as web

from raydiar.errors import (
    ConfigError,
    FetchFailed,
    MediaTooLarge,
    TooManyRedirects,
    UrlRefused,
)
from raydiar.serving.outbound.fetching import FetchPolicy, _pinned_connector, check_url, fetch

CLOSED = FetchPolicy(retry_delays=(), connect_seconds=2.0)
OPEN = FetchPolicy(
    allow_hosts=("127.0.0.1",), retry_delays=(0.01, 0.02), connect_seconds=2.0, stall_seconds=5.0
)


@pytest.fixture
def destination(tmp_path) -> Path:
    return tmp_path / "audio"


def run(url, destination, policy=OPEN) -> int:
    return asyncio.run(fetch(url, destination, policy))


def policy(**changed) -> FetchPolicy:
    return FetchPolicy(
        **{"allow_hosts": ("127.0.0.1",), "retry_delays": (), "connect_seconds": 2.0} | changed
    )


@pytest.fixture
def names(monkeypatch):
    """Names that resolve to what a test says: a list of addresses, or one list after another.

    Stands for the system's resolver, for this process and all its libraries.
    """
    table, asked, real = {}, [], socket.getaddrinfo

    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        name = host.rstrip(".").lower()
        if name in table and not flags & socket.AI_NUMERICHOST:
            asked.append(name)
            answers = table[name]
            if isinstance(answers[0], list):
                answers = answers.pop(0) if len(answers) > 1 else answers[0]
            return [
                found
                for address in answers
                for found in real(address, port, family, type, proto, flags)
            ]
        return real(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    table["asked"] = asked
    return table


# -- what is fetched ---------------------------------------------------------------------------


def test_a_recording_is_fetched(destination):
    data = bytes(range(256)) * 20_000
    with web.serving({"/a.wav": web.body(data)}) as server:
        assert run(f"{server.url}/a.wav?sig=a%2Fb%7E+c#part", destination) == len(data)
        method, path, headers, _ = server.requests[0]
    assert destination.read_bytes() == data
    assert (method, path) == ("GET", "/a.wav?sig=a%2Fb%7E+c")  # as it was signed
    assert headers["Accept-Encoding"] == "identity"


def test_redirects_are_followed_thrice(destination):
    paths = {"/end": web.body(b"x"), "/1": web.redirect("/2", 301), "/2": web.redirect("3", 307)}
    with web.serving(paths) as server:
        paths |= {"/3": web.redirect(f"{server.url}/end", 303), "/0": web.redirect("/1", 308)}
        assert run(f"{server.url}/1", destination) == 1
        with pytest.raises(TooManyRedirects):
            run(f"{server.url}/0", destination)
    assert not destination.exists()


def test_allowed_names_and_networks(destination, names):
    names["audio.internal"] = ["127.0.0.1"]
    with web.serving({"/a": web.body(b"x")}) as server:
        port = server.server_port
        for host in ("AUDIO.Internal", "audio.internal."):
            allowed = policy(allow_hosts=("audio.internal",))
            assert run(f"http://{host}:{port}/a", destination, allowed) == 1
        assert server.requests[0][2]["Host"].lower() == f"audio.internal:{port}"
        with pytest.raises(UrlRefused):  # the name is allowed, not its address
            run(f"{server.url}/a", destination, policy(allow_hosts=("audio.internal",)))
        network = policy(allow_hosts=("127.0.0.0/30",))
        assert run(f"http://audio.internal:{port}/a", destination, network) == 1
        assert run(f"{server.url}/a", destination, network) == 1


# -- what is refused before anything is asked --------------------------------------------------


@pytest.mark.parametrize(
    "host",
    [
        *("127.0.0.1", "127.1.2.3", "0.0.0.0", "10.1.2.3", "172.31.0.1", "192.168.1.1"),
        *("100.64.0.1", "169.254.169.254", "168.63.129.16", "192.0.0.192", "100.100.100.200"),
        *("224.0.0.1", "255.255.255.255", "240.0.0.1", "198.18.0.1", "192.0.2.1"),
        *("2130706433", "0x7f000001", "017700000001", "127.1", "0x7f.1", "127.0.0.1.", "0"),
        *("[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::ffff:8.8.8.8]"),
        *("[::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b::8.8.8.8]", "[64:ff9b:1::1]"),
        *("[fe80::1]", "[fe80::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[ff02::1]"),
        *("[2001:db8::1]", "[2002:7f00:1::]", "[2001:0:7f00:1::]", "[100::1]", "[fec0::1]"),
        *("①②⑦.⓪.⓪.①", "127。0。0。1", "0177.0.0.1"),
    ],
)
def test_addresses_that_are_not_public_are_refused_at_once(host, destination):
    for url in (f"http://{host}/a.wav", f"https://{host}:8443/a.wav"):
        with pytest.raises(UrlRefused):
            check_url(url, CLOSED)
        with pytest.raises(UrlRefused):
            run(url, destination, CLOSED)


@pytest.mark.parametrize(
    "url",
    [
        *("file:///etc/passwd", "/etc/passwd", "etc/passwd", "", "http://", "http:///a", "a:b"),
        *("ftp://example.com/a", "gopher://example.com/", "s3://bucket/a", "memory://a", "data:,a"),
        *("http://user@example.com/", "http://user:pass@example.com/", "http://@example.com/"),
        *("http://example.com\\@127.0.0.1/", "http://exa mple.com/", "http://example.com/\r\nX: y"),
        *("http://example.com:22/", "http://example.com:0/", "http://example.com:99999/"),
        *(
            "http://example.com:x/",
            "http://[::1/",
            "http://[v1.x]/",
            "http://[127.0.0.1]/",
            "http://a%2eb/",
            "//example.com/a",
        ),
        *(
            "simplecache::http://example.com/a",
            "http://example.com/" + "a" * 9000,
            "http://\ud800/",
        ),
    ],
)
def test_urls_that_are_never_opened(url, destination):
    with pytest.raises(UrlRefused):
        check_url(url, CLOSED)
    with pytest.raises(UrlRefused):
        run(url, destination, CLOSED)


@pytest.mark.parametrize(
    "url",
    [
        *("http://example.com/a.wav", "https://example.com:8443/ä?x=y", "http://8.8.8.8/a"),
        *("https://[2606:4700::1111]/a", "http://bücher.example/a", "HTTPS://EXAMPLE.COM"),
    ],
)
def test_urls_of_the_internet_pass_the_first_check(url):
    check_url(url, CLOSED)


# -- what is refused on the way ----------------------------------------------------------------


@pytest.mark.parametrize(
    "addresses",
    [["127.0.0.1"], ["10.0.0.7"], ["8.8.8.8", "127.0.0.1"], ["::1"], ["::ffff:127.0.0.1"]],
)
def test_a_name_that_leads_inside_is_refused(names, destination, addresses):
    names["innocent.example"] = addresses
    with web.serving({"/a": web.body(b"secret")}) as server:
        with pytest.raises(UrlRefused, match=r"innocent\.example") as raised:
            run(f"http://innocent.example:{server.server_port}/a", destination, CLOSED)
        assert server.requests == []
    assert not any(address in str(raised.value) for address in addresses)
    assert not destination.exists()


def test_the_system_knows_names_that_lead_inside(destination):
    with web.serving({"/a": web.body(b"secret")}) as server:
        with pytest.raises(UrlRefused):
            run(f"http://localhost:{server.server_port}/a", destination, CLOSED)
        assert server.requests == []


def test_a_name_that_changes_its_address_gains_nothing(names, destination):
    # 127.0.0.2 stands for the internet, 127.0.0.1 for us
    internet = policy(allow_hosts=("127.0.0.2",))
    names["rebinding.example"] = [["127.0.0.2"], ["127.0.0.1"]]
    with web.serving({"/a": web.body(b"public")}, "127.0.0.2") as outside:
        port = outside.server_port
        with web.serving({"/a": web.body(b"secret")}, "127.0.0.1", port) as inside:
            run(f"http://rebinding.example:{port}/a", destination, internet)
            assert destination.read_bytes() == b"public"
            assert names["asked"] == ["rebinding.example"]  # once, by whatever library

            # each hop is judged anew
            names["rebinding.example"] = [["127.0.0.2"], ["127.0.0.1"]]
            outside.paths["/a"] = web.redirect("/b")
            with pytest.raises(UrlRefused):
                run(f"http://rebinding.example:{port}/a", destination, internet)

            # and each retry
            names["rebinding.example"] = [["127.0.0.2"], ["127.0.0.1"]]
            outside.paths["/a"] = web.status(503)
            again = policy(allow_hosts=("127.0.0.2",), retry_delays=(0.01,))
            with pytest.raises(UrlRefused):
                run(f"http://rebinding.example:{port}/a", destination, again)
            assert inside.requests == []


def test_a_connection_reaches_what_was_judged_and_nothing_else():
    async def use(url):
        connector = _pinned_connector(url, ["127.0.0.2"])
        async with aiohttp.ClientSession(connector=connector) as session:
            await session.get(url)

    with web.serving({"/a": web.body(b"secret")}) as server:
        with pytest.raises(UrlRefused):  # addresses in URLs are not resolved
            asyncio.run(use(f"{server.url}/a"))
        assert server.requests == []


@pytest.mark.parametrize(
    "location",
    [
        *("http://127.0.0.2:{port}/secret", "http://169.254.169.254/latest/meta-data/"),
        *("//127.0.0.2:{port}/secret", "http://[::1]:{port}/secret", "file:///etc/passwd"),
        *("s3://bucket/a", "http://u:p@127.0.0.1:{port}/secret", "http://127.0.0.1:22/"),
        *("http://2130706434:{port}/secret", "http://[", "\\\\127.0.0.2\\secret"),
    ],
)
def test_redirects_do_not_lead_inside(destination, location):
    paths = {"/secret": web.body(b"secret")}
    allowed = policy(allow_buckets=("s3://bucket",))
    with web.serving(paths) as server, web.serving(paths, "127.0.0.2", server.server_port):
        paths["/a"] = web.redirect(location.format(port=server.server_port))
        with pytest.raises(UrlRefused):
            run(f"{server.url}/a", destination, allowed)
        assert len(server.requests) == 1
    assert not destination.exists()


def test_proxies_of_the_environment_are_not_used(destination, monkeypatch):
    with web.serving({"/a": web.body(b"x")}) as server, web.serving({}) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        assert run(f"{server.url}/a", destination) == 1
        assert proxy.requests == []


def test_refused_urls_do_not_forge_lines_of_the_log():
    with pytest.raises(UrlRefused) as raised:
        check_url("http://a.example/\r\nINFO all is well\ud800" + "a" * 9000, CLOSED)
    message = str(raised.value)
    assert message.isprintable()
    assert len(message) < 400


# -- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "act",
    [web.body(bytes(3000)), lambda handler: handler.endless(bytes(1000))],
    ids=["announced", "endless"],
)
def test_no_more_is_taken_than_the_limit(destination, act):
    with web.serving({"/a": act}) as server:
        with pytest.raises(MediaTooLarge, match="2000 bytes"):
            run(f"{server.url}/a", destination, policy(max_bytes=2000))
        server.paths["/a"] = web.body(bytes(2000))
        assert run(f"{server.url}/a", destination, policy(max_bytes=2000)) == 2000
        with pytest.raises(MediaTooLarge):
            run(f"{server.url}/a", destination, policy(max_bytes=1999))
    assert not destination.exists()


def test_a_server_that_drips_is_left(destination):
    with (
        web.serving({"/a": lambda handler: handler.endless(b"x", pause=0.05)}) as server,
        pytest.raises(FetchFailed, match=r"within 0\.5 s") as raised,
    ):
        run(f"{server.url}/a", destination, policy(max_seconds=0.5))
    assert not raised.value.retryable
    assert not destination.exists()


def test_a_server_that_falls_silent_is_tried_again(destination):
    def silent(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", "10")
        handler.end_headers()
        handler.wfile.write(b"x")
        handler.server.stopped.wait(5)

    with web.serving({"/a": web.in_turn(silent, web.body(b"whole"))}) as server:
        patient = policy(stall_seconds=0.3, retry_delays=(0.01,))
        assert run(f"{server.url}/a", destination, patient) == 5
    assert destination.read_bytes() == b"whole"


def test_bombs_are_not_unpacked(destination):
    bomb = gzip.compress(bytes(10**7))
    with (
        web.serving({"/a": web.body(bomb, Content_Encoding="gzip")}) as server,
        pytest.raises(FetchFailed) as raised,
    ):
        run(f"{server.url}/a", destination, policy(max_bytes=10**5))
    assert not raised.value.retryable
    assert not destination.exists()


def test_a_canceled_fetch_leaves_nothing(destination):
    async def use():
        task = asyncio.create_task(fetch(f"{server.url}/a", destination, OPEN))
        while not (destination.exists() and server.requests):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with web.serving({"/a": lambda handler: handler.endless(b"x", pause=0.05)}) as server:
        asyncio.run(use())
    assert not destination.exists()


# -- failures ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [web.status(503), web.status(429), web.hang_up, web.half])
def test_failures_of_the_moment_are_tried_again(destination, fault):
    with web.serving({"/a": web.in_turn(fault, fault, web.body(b"whole"))}) as server:
        assert run(f"{server.url}/a", destination) == 5
        assert destination.read_bytes() == b"whole"
        server.paths["/a"] = fault
        server.requests.clear()
        with pytest.raises(FetchFailed) as raised:
            run(f"{server.url}/a", destination)
        assert raised.value.retryable
        assert len(server.requests) >= 3  # the library itself asks again when nothing came back
    assert not destination.exists()


@pytest.mark.parametrize("code", [400, 401, 403, 404, 410, 300, 302])
def test_refusals_are_final_and_their_bodies_are_not_shown(destination, code):
    with web.serving({"/a": web.status(code, b"password: hunter2")}) as server:
        with pytest.raises(FetchFailed, match=f"HTTP {code}") as raised:
            run(f"{server.url}/a?signature=hidden", destination)
        assert len(server.requests) == 1
    assert not raised.value.retryable
    assert "hunter2" not in repr(raised.value)
    assert "hidden" not in repr(raised.value)
    assert not pickle.loads(pickle.dumps(raised.value)).retryable
    assert not destination.exists()


def test_nobody_there(destination):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        with pytest.raises(FetchFailed) as raised:
            run(f"http://127.0.0.1:{unused.getsockname()[1]}/a", destination)
    assert raised.value.retryable


def test_what_is_not_http_fails(destination):
    with socket.create_server(("127.0.0.1", 0)) as server:

        async def use():
            url = f"http://127.0.0.1:{server.getsockname()[1]}/a"
            task = asyncio.create_task(fetch(url, destination, policy()))
            client, _ = await asyncio.to_thread(server.accept)
            client.sendall(b"220 mail.internal ESMTP\r\n")
            with pytest.raises(FetchFailed) as raised:
                await task
            client.close()
            return raised.value

        error = asyncio.run(use())
    assert not error.retryable
    assert "ESMTP" not in str(error)


def test_tls_is_verified_against_the_name_that_the_client_gave(
    destination, names, self_signed, monkeypatch
):
    names["audio.example"] = names["other.example"] = ["127.0.0.1"]
    asked = []
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(self_signed)
    tls.sni_callback = lambda connection, name, context: asked.append(name)
    with web.serving({"/a": web.body(b"x")}, tls=tls) as server:

        def refused(host):
            with pytest.raises(FetchFailed, match="certificate") as raised:
                run(f"https://{host}:{server.server_port}/a", destination)
            assert not raised.value.retryable

        refused("audio.example")  # signed by nobody
        trusting = ssl.create_default_context(cafile=str(self_signed))
        monkeypatch.setattr("aiohttp.connector._SSL_CONTEXT_VERIFIED", trusting)
        refused("other.example")
        refused("127.0.0.1")
        assert server.requests == []
        assert run(f"https://audio.example:{server.server_port}/a", destination) == 1
    assert asked == ["audio.example", "other.example", None, "audio.example"]


# -- buckets -----------------------------------------------------------------------------------


def test_allowed_buckets_are_read(s3, tmp_path, destination):
    (tmp_path / "x").write_bytes(b"12345")
    for key in ("shared/a.wav", "shared-too/a.wav", "secret.wav"):
        s3.make("calls", key, [tmp_path / "x"])
    allowed = policy(allow_buckets=("s3://calls/shared",))
    assert run("s3://calls/shared/a.wav", destination, allowed) == 5
    assert destination.read_bytes() == b"12345"
    check_url("s3://calls/shared/a.wav", allowed)
    for url in (
        *("s3://calls/secret.wav", "s3://calls/shared-too/a.wav", "s3://calls/shared"),
        *("s3://calls/shared/../secret.wav", "s3://calls/shared/x::file:///etc/passwd"),
        *("S3://calls/shared/a.wav", "s3a://calls/shared/a.wav"),
    ):
        with pytest.raises(UrlRefused):
            run(url, destination, allowed)
        with pytest.raises(UrlRefused):
            check_url(url, allowed)
    with pytest.raises(FetchFailed) as raised:
        run("s3://calls/shared/none.wav", destination, allowed)
    assert not raised.value.retryable
    with pytest.raises(MediaTooLarge):
        run("s3://calls/shared/a.wav", destination, replace(allowed, max_bytes=4))
    s3.fault = lambda method, path: 403
    with pytest.raises(FetchFailed) as raised:
        run("s3://calls/shared/a.wav", destination, allowed)
    assert not raised.value.retryable
    assert not destination.exists()


@pytest.mark.parametrize(
    "wrong",
    [
        *({"allow_hosts": ("http://a/",)}, {"allow_hosts": ("a:80",)}, {"allow_hosts": ("",)}),
        *({"allow_hosts": ("bücher.example",)}, {"allow_hosts": ("10.0.0",)}),
        *({"allow_hosts": ("*.internal",)}, {"allow_hosts": ("10.0.0.0/99",)}),
        *({"allow_buckets": ("file:///data",)}, {"allow_buckets": ("/data",)}),
        *({"allow_buckets": ("s3://",)}, {"allow_buckets": ("https://a/b",)}),
    ],
)
def test_a_policy_that_says_something_else_than_it_means_is_refused(wrong):
    with pytest.raises(ConfigError):
        FetchPolicy(**wrong)


def test_a_slow_name_server_counts_as_time(destination, monkeypatch):
    real = socket.getaddrinfo

    def slow(host, port, family=0, type=0, proto=0, flags=0):
        if host == "slow.example" and not flags & socket.AI_NUMERICHOST:
            time.sleep(0.6)
            host = "127.0.0.1"
        return real(host, port, family, type, proto, flags)

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    with pytest.raises(FetchFailed, match="within"):
        run("http://slow.example/a", destination, policy(max_seconds=0.2))
