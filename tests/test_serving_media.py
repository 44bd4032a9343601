"""Uploads: nobody reads another's, nothing half is kept, and no key leads out of the store."""

import asyncio
import contextlib
import errno
import gc
import os
import pickle
import resource
import threading
import time
from datetime import datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

import fsspec
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from raydiar.errors import (
    AudioNotFound,
    ConfigError,
    MediaKeyError,
    MediaTooLarge,
    SignatureRefused,
    StorageDenied,
    StorageUnavailable,
)
from raydiar.serving.media.names import media_key
from raydiar.serving.media.store import MediaStore

SECRET = "0123456789abcdef"
URL = "https://diarize.example.com"
PART = 2**20


async def stream(*chunks):
    for chunk in chunks:
        yield chunk


async def broken(*chunks, error=ConnectionResetError):
    for chunk in chunks:
        yield chunk
    raise error


async def everything(store, owner, key):
    size = await store.size(owner, key)
    return b"".join([block async for block in store.read_range(owner, key, 0, size)])


@pytest.fixture
def folder(tmp_path) -> Path:
    return tmp_path / "media"


@pytest.fixture
def local(folder) -> MediaStore:
    return MediaStore(str(folder), SECRET, URL)


@pytest.fixture
def bucket(s3, tmp_path) -> MediaStore:
    empty = tmp_path / "empty"
    empty.touch()
    s3.make("uploads", "other/file", [empty])
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    if fs.exists("uploads/media"):
        fs.rm("uploads/media", recursive=True)
    return MediaStore("s3://uploads/media", SECRET, URL)


@pytest.fixture(params=["local", "bucket"])
def store(request) -> MediaStore:
    return request.getfixturevalue(request.param)


def files(store: MediaStore) -> list[str]:
    """Whatever lies in the store."""
    return sorted(fsspec.core.url_to_fs(store.uri, use_listings_cache=False)[0].find(store.uri))


def unfinished(s3_uri="uploads"):
    return fsspec.filesystem("s3").list_multipart_uploads(s3_uri)


# -- keys ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "/a", "a/", "a//b", ".", "..", "../a", "a/..", "a/../b", "a/./b", "./a"),
        *(
            "a\\b",
            "a b",
            "a\n",
            "a\0",
            "a%2fb",
            "%2e%2e/a",
            "ä",
            "٣",
            "a?b",
            "a#b",
            "a:b",
            "~",
            "*",
        ),
        *("a" * 513, "a/" * 256 + "b", "..\\..", "a\r\nb", "file:///etc/passwd", "\u202ea"),
    ],
)
def test_keys_that_no_upload_can_have(local, key):
    with pytest.raises(MediaKeyError):
        local.path_of("ann", key)
    with pytest.raises(MediaKeyError):
        local.sign("put", "ann", key, 60)
    with pytest.raises(MediaKeyError):
        media_key(f"media://{key}")
    with pytest.raises(MediaKeyError):
        asyncio.run(local.write("ann", key, stream(b"x"), 10))


@pytest.mark.parametrize("key", ["a", "a/b", "...", "a..b/.c", "A-b_c.9", "a" * 512])
def test_keys_of_any_shape_lie_right_inside_their_owners_folder(local, folder, key):
    asyncio.run(local.write("../../ann", key, stream(b"x"), 10))
    (found,) = files(local)
    assert Path(found).parent.parent == folder
    assert asyncio.run(everything(local, "../../ann", key)) == b"x"
    assert media_key(f"media://{key}") == key


@pytest.mark.parametrize("url", ["https://a/b", "media:a", "a", "s3://b/media://a"])
def test_only_media_urls_name_uploads(url):
    with pytest.raises(MediaKeyError):
        media_key(url)


def test_a_key_may_be_the_beginning_of_another(local):
    async def both():
        await local.write("ann", "a", stream(b"1"), 10)
        await local.write("ann", "a/b", stream(b"2"), 10)
        return await everything(local, "ann", "a"), await everything(local, "ann", "a/b")

    assert asyncio.run(both()) == (b"1", b"2")


@pytest.mark.parametrize("path", ["../x", "a/b", "/etc/passwd", "0" * 64, f"{'0' * 64}/../x"])
def test_only_paths_of_uploads_are_deleted(local, path):
    with pytest.raises(MediaKeyError):
        asyncio.run(local.delete_path(path))


# -- signed URLs ---------------------------------------------------------------------------------


def parts(url):
    split = urlsplit(url)
    return split.path.split("/", 4)[4], dict(parse_qsl(split.query))


def test_a_signed_url_tells_its_owner(local):
    url = local.sign("put", "ann & co/é", "x/a.wav", 60, now=1000)
    assert url.startswith(f"{URL}/v1/media/upload/x/a.wav?")
    key, query = parts(url)
    assert local.verify("put", key, query, now=1059.9) == "ann & co/é"
    download = local.sign("get", "ann", "a.wav", 60)
    assert download.startswith(f"{URL}/v1/media/download/a.wav?")
    assert local.verify("get", *parts(download)) == "ann"
    again = pickle.loads(pickle.dumps(local))  # another replica
    assert again.verify("get", *parts(download)) == "ann"
    assert SECRET not in repr(local)


def test_expired_forged_and_misused_urls_are_refused(local):
    key, query = parts(local.sign("put", "ann", "a.wav", 60, now=1000))
    assert local.verify("put", key, query, now=1000) == "ann"

    def refused(action="put", key=key, now=1000.0, store=local, **changed):
        with pytest.raises(SignatureRefused):
            store.verify(action, key, query | changed, now=now)

    refused(now=1060)
    refused(action="get")
    refused(key="b.wav")
    refused(owner="bob")
    refused(expires="2000")
    refused(expires="01060 ")
    refused(expires="nan", signature="")
    refused(signature="")
    refused(signature="é" * 64)
    refused(signature=query["signature"].upper())
    refused(store=MediaStore(local.uri, "another secret here", URL))
    with pytest.raises(SignatureRefused):
        local.verify("put", key, {}, now=1000)


def test_a_secret_that_can_be_guessed_is_refused(folder):
    with pytest.raises(ConfigError):
        MediaStore(str(folder), "short", URL)


# -- writing -------------------------------------------------------------------------------------


def test_what_is_written_is_read(store):
    data = os.urandom(3 * PART + 5)

    async def use():
        chunks = [data[i : i + 70_001] for i in range(0, len(data), 70_001)]
        assert await store.write("ann", "x/a.wav", stream(*chunks), len(data)) == len(data)
        assert await everything(store, "ann", "x/a.wav") == data
        ranges = [(0, 1), (5, 5), (len(data) - 3, len(data)), (PART - 1, 2 * PART + 1)]
        for start, end in ranges:
            blocks = [b async for b in store.read_range("ann", "x/a.wav", start, end)]
            assert b"".join(blocks) == data[start:end]
        beyond = store.read_range("ann", "x/a.wav", len(data) - 2, len(data) + 100)
        assert b"".join([block async for block in beyond]) == data[-2:]
        async with store.local_path("ann", "x/a.wav") as path:
            assert path.read_bytes() == data
        return path

    path = asyncio.run(use())
    assert path.exists() == (not store.uri.startswith("s3"))  # a copy goes


def test_owners_do_not_see_each_others_uploads(store):
    async def use():
        await store.write("ann", "a.wav", stream(b"of ann"), 100)
        for read in (store.size("bob", "a.wav"), everything(store, "bob", "a.wav")):
            with pytest.raises(AudioNotFound, match=r"media://a\.wav"):
                await read
        with pytest.raises(AudioNotFound):
            async with store.local_path("bob", "a.wav"):
                pass
        with pytest.raises(AudioNotFound):
            async for _ in store.read_range("bob", "a.wav", 0, 3):
                pass
        await store.write("bob", "a.wav", stream(b"of bob"), 100)
        await store.delete("bob", "a.wav")
        await store.delete("bob", "a.wav")
        assert await everything(store, "ann", "a.wav") == b"of ann"
        await store.delete_path(store.path_of("ann", "a.wav"))

    asyncio.run(use())
    assert files(store) == []


def test_the_limit_holds_while_bytes_come_in(store):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += PART
            yield bytes(PART)

    async def use():
        await store.write("ann", "full", stream(bytes(5), bytes(5)), 10)
        with pytest.raises(MediaTooLarge, match=r"media://a.*10485760"):
            await store.write("ann", "a", endless(), 10 * PART)

    asyncio.run(use())
    assert sent == 11 * PART
    assert [Path(f).name for f in files(store)] == [Path(store.path_of("ann", "full")).name]


@pytest.mark.parametrize("chunks", [(), (b"x",), (bytes(PART),) * 10], ids=["0", "1", "10 MiB"])
def test_a_client_that_hangs_up_leaves_nothing(store, request, chunks):
    with pytest.raises(ConnectionResetError):
        asyncio.run(store.write("ann", "a", broken(*chunks), 2**30))
    assert files(store) == []
    if store.uri.startswith("s3"):
        assert unfinished() == []


def test_a_canceled_upload_leaves_nothing_and_keeps_what_was_there(store):
    async def use():
        await store.write("ann", "a", stream(b"old"), 10)
        begun = asyncio.Event()

        async def stuck():
            for _ in range(9):
                yield bytes(PART)
            begun.set()
            yield bytes(PART)
            await asyncio.sleep(60)

        task = asyncio.create_task(store.write("ann", "a", stuck(), 2**30))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await everything(store, "ann", "a") == b"old"

    asyncio.run(use())
    assert len(files(store)) == 1
    if store.uri.startswith("s3"):
        assert unfinished() == []


def test_an_upload_is_not_seen_before_its_end_and_then_replaces_the_old_one(store):
    async def use():
        await store.write("ann", "a", stream(b"old"), 10)

        async def watched():
            for _ in range(18):
                yield b"n" * PART
            assert await everything(store, "ann", "a") == b"old"

        await store.write("ann", "a", watched(), 2**30)
        assert await everything(store, "ann", "a") == b"n" * 18 * PART
        await store.write("ann", "a", stream(), 10)
        assert await store.size("ann", "a") == 0

    asyncio.run(use())
    assert len(files(store)) == 1


def test_a_listener_never_gets_half_of_one_upload_and_half_of_the_next(store):
    async def use():
        await store.write("ann", "a", stream(*[b"o" * PART] * 9), 2**30)
        reading = store.read_range("ann", "a", 0, 9 * PART)
        heard = await anext(reading)
        await store.write("ann", "a", stream(*[b"n" * PART] * 9), 2**30)
        with contextlib.suppress(StorageUnavailable):  # a bucket says that it cannot go on
            async for block in reading:
                heard += block
        assert set(heard) == set(b"o")

    asyncio.run(use())


def test_a_bucket_that_refuses_at_the_end_holds_nothing(bucket, s3):
    def fail(method, path):
        return 403 if method == "POST" and "uploadId" in path else None

    async def use():
        with pytest.raises(StorageDenied) as raised:
            await bucket.write("ann", "a", stream(*[bytes(PART)] * 9), 2**30)
        assert "uploads/" not in str(raised.value)  # the bucket is nobody's business

    s3.fault = fail
    asyncio.run(use())
    assert s3.faults
    s3.reset()
    assert files(bucket) == []
    assert unfinished() == []


@pytest.mark.parametrize("rest", [10, PART], ids=["at the end", "on the way"])
def test_a_disk_that_takes_no_more_keeps_no_half(local, rest):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2 * PART, before[1]))
    try:
        with pytest.raises(StorageUnavailable, match="media://a"):
            asyncio.run(local.write("ann", "a", stream(bytes(2 * PART), bytes(rest)), 2**30))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert files(local) == []


def test_a_full_disk_is_no_failure_of_the_server(local, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageUnavailable, match=r"media://a: .*No space left"):
        asyncio.run(local.write("ann", "a", stream(b"abc"), 2**30))
    assert files(local) == []


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("size", [3, 9], ids=["one PUT", "parts"])
def test_an_upload_that_cannot_even_be_broken_off_is_not_published(bucket, s3, size):
    s3.fault = lambda method, path: 403 if method == "DELETE" else None
    with pytest.raises(ConnectionResetError):
        asyncio.run(bucket.write("ann", "a", broken(*[bytes(PART)] * size), 2**30))
    gc.collect()  # files of fsspec publish themselves when they go
    s3.reset()
    assert files(bucket) == []
    asyncio.run(bucket.expire(time.time() + 60))
    assert unfinished() == []


# -- over HTTP -----------------------------------------------------------------------------------


@contextlib.contextmanager
def http(store):
    """The store behind a web server, as an app would put it there."""

    async def upload(request):
        key = request.path_params["key"]
        owner = store.verify("put", key, request.query_params)
        await store.write(owner, key, request.stream(), 64 * PART)
        return Response()

    async def download(request):
        key = request.path_params["key"]
        owner = store.verify("get", key, request.query_params)
        return StreamingResponse(store.read_range(owner, key, 2, 5))

    routes = [
        Route("/v1/media/upload/{key:path}", upload, methods=["PUT"]),
        Route("/v1/media/download/{key:path}", download),
    ]
    app = Starlette(routes=routes)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="critical"))
    thread = threading.Thread(target=server.run)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def test_signed_urls_serve_http_clients_that_know_nothing_else(store):
    with http(store) as address:
        connection = HTTPConnection(address)
        url = store.sign("put", "ann/1", "x/a.wav", 60)
        connection.request("PUT", url.removeprefix(URL), b"0123456789")
        assert connection.getresponse().read() == b""
        connection.request("GET", store.sign("get", "ann/1", "x/a.wav", 60).removeprefix(URL))
        assert connection.getresponse().read() == b"234"
        connection.close()


def test_a_client_that_is_cut_off_in_the_middle_leaves_nothing(store):
    seen = []
    with http(store) as address:
        connection = HTTPConnection(address)
        connection.putrequest("PUT", store.sign("put", "ann", "a", 60).removeprefix(URL))
        connection.putheader("Content-Length", str(40 * PART))
        connection.endheaders(bytes(20 * PART))
        while not seen:
            seen = unfinished() if store.uri.startswith("s3") else files(store)
        connection.close()
    assert files(store) == []
    if store.uri.startswith("s3"):
        assert unfinished() == []


# -- expiry --------------------------------------------------------------------------------------


def test_old_uploads_and_orphans_expire(local, folder):
    other = folder / "README"

    async def use():
        await local.write("ann", "old", stream(b"x"), 10)
        await local.write("ann", "new", stream(b"x"), 10)
        orphans = folder / "_raydiar/tmp"
        (orphans / "old").write_bytes(b"half")
        (orphans / "new").write_bytes(b"half")
        other.write_text("not ours")
        long_ago = time.time() - 3600
        for path in (folder / local.path_of("ann", "old"), orphans / "old", other):
            os.utime(path, (long_ago, long_ago))
        assert await local.expire(time.time() - 1800) == 1
        assert await local.expire(time.time() - 1800) == 0
        assert await local.size("ann", "new") == 1
        assert [path.name for path in orphans.iterdir()] == ["new"]
        assert other.exists()

    assert asyncio.run(local.expire(time.time())) == 0  # before the first upload
    asyncio.run(use())


def test_uploads_to_a_bucket_expire_with_what_a_killed_server_left(bucket, s3):
    fs = fsspec.filesystem("s3", use_listings_cache=False)

    async def use():
        await bucket.write("ann", "a", stream(b"x"), 10)
        key = f"media/{bucket.path_of('ann', 'half')}"
        fs.call_s3("create_multipart_upload", Bucket="uploads", Key=key)
        fs.call_s3("create_multipart_upload", Bucket="uploads", Key="other/file")
        # this server dates all multipart uploads to 2010
        assert await bucket.expire(datetime(2009, 1, 1).timestamp()) == 0
        assert len(unfinished()) == 2
        assert await bucket.expire(time.time() - 60) == 0
        assert [upload["Key"] for upload in unfinished()] == ["other/file"]
        assert await bucket.size("ann", "a") == 1
        assert await bucket.expire(time.time() + 60) == 1

    asyncio.run(use())
    assert files(bucket) == []
    assert fs.exists("uploads/other/file")
    fs.clear_multipart_uploads("uploads")
