"""Opening stores by URL, and their options: names in errors, and no secrets anywhere."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import danube_trio.cloud
from danube_trio._disk.real import RealDisk
from danube_trio.cloud import DirectoryStore, MemoryStore, StoreOptions, open_store
from danube_trio.metadata import EtcdConfig
from danube_trio.testing import SimDisk

SECRETS = {
    "secret_access_key": "s3cret-one",
    "session_token": "s3cret-two",
    "service_account_key": "s3cret-three",
    "bearer_token": "s3cret-four",
    "account_key": "s3cret-five",
    "sas_token": "s3cret-six",
}


def test_options_survive_plain_data() -> None:
    options = StoreOptions(
        endpoint="https://s3.example.com", access_key_id="id", max_retries=0, anonymous=True
    )
    plain = options.to_plain()
    assert plain == {
        "endpoint": "https://s3.example.com",
        "access_key_id": "id",
        "max_retries": 0,
        "anonymous": True,
    }
    assert StoreOptions.from_plain(plain) == options
    assert StoreOptions().to_plain() == {}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("endpoint", "s3.example.com"),
        ("endpoint", "http://s3.example.com"),
        ("endpoint", 7),
        ("region", ""),
        ("anonymous", "yes"),
        ("connect_timeout", 0),
        ("request_timeout", "30"),
        ("max_retries", 1.5),
        ("max_retries", True),
        ("part_bytes", 1 << 20),
        ("upload_concurrency", 0),
        ("concurrency", 5000),
        ("colour", "blue"),
    ],
)
def test_a_bad_option_is_named(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        StoreOptions.from_plain({field: value})
    with pytest.raises(ValueError, match=field):
        open_store("s3://bucket", **{field: value})


def test_secrets_are_not_shown() -> None:
    options = StoreOptions.from_plain(SECRETS)
    assert "s3cret" not in repr(options)
    assert repr(options).count("'***'") + repr(options).count("***") >= len(SECRETS)
    assert sorted(options.secrets()) == sorted(SECRETS.values())
    for name in SECRETS:
        with pytest.raises(ValueError, match=name) as caught:
            StoreOptions.from_plain({name: ["s3cret"]})
        assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        *("https://root:s3cret@127.0.0.1:9", "http://s3cret@host", "HTTPS://root:s3cret@host"),
        *("root:s3cret@host:2379", "https://root:s3c/ret@s3cret@host/path", "https://a/?s3cret@b"),
    ],
)
def test_a_password_in_an_address_is_refused_and_not_shown(url: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: StoreOptions(endpoint=url),
        lambda: EtcdConfig(endpoints=url),
        lambda: EtcdConfig(endpoints=("http://127.0.0.1:2379", url)),
    ]
    for call in calls:
        with pytest.raises(ValueError, match="must not have a user or password") as caught:
            call()
        assert "s3c" not in str(caught.value)
    with pytest.raises(ValueError, match="must begin with one of") as caught:
        open_store(url)
    assert "s3c" not in str(caught.value)
    command = [sys.executable, "-m", "danube_trio.cli", "info", "--store", "memory:"]
    command += ["--metadata", url.replace("https", "etcd")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "s3c" not in done.stderr


async def test_memory_and_directories_are_opened_by_their_urls(tmp_path: Path) -> None:
    async with open_store("memory:") as memory:
        assert isinstance(memory, MemoryStore)
        assert memory.url == "memory:"
    url = f"file://{tmp_path}/with%20space"
    async with open_store(url, disk=RealDisk()) as directory:
        assert isinstance(directory, DirectoryStore)
        assert directory.url == url
        await directory.put("a", b"")
    assert (tmp_path / "with space" / "a").exists()


@pytest.mark.parametrize(
    ("url", "text"),
    [
        ("", "must begin with one of"),
        ("memory", "must begin with one of"),
        ("ftp://host/path", "must begin with one of"),
        ("s3://", "name of a bucket"),
        ("s3:///key", "name of a bucket"),
        ("s3://key:secret@bucket/a", "name of a bucket"),
        ("s3://bucket/a//b", "two in a row"),
        ("gs://bucket/../b", "no part . or .."),
        (f"gs://bucket/{'x' * 121}", "more than 120 bytes"),
        ("file://relative/path", "absolute path"),
    ],
)
def test_a_bad_url_is_refused(url: str, text: str) -> None:
    with pytest.raises(ValueError, match=text) as caught:
        open_store(url, disk=SimDisk())
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["/tmp/x", "file:rel", "memory://", "S3://b", "", "x://k:secret@b"])
def test_a_url_of_no_store_is_told_which_there_are(url: str) -> None:
    with pytest.raises(ValueError, match="must begin with one of") as caught:
        open_store(url)
    text = str(caught.value)
    for known in ("memory:", "file:///path", "s3://", "gs://", "az://"):
        assert known in text
    assert "secret" not in text
    assert (f"url={url!r}" in text) is ("@" not in url)


@pytest.mark.parametrize("url", [None, b"memory:", Path("/tmp/x")])
def test_a_url_is_a_str(url: Any) -> None:
    with pytest.raises(TypeError, match="must be a str"):
        open_store(url)


def test_what_a_store_cannot_use_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no options, got endpoint"):
        open_store("memory:", endpoint="https://s3.example.com")
    with pytest.raises(ValueError, match=r"no options, got region"):
        open_store("file:///a", StoreOptions(region="here"), disk=SimDisk())


@pytest.mark.parametrize("url", ["s3://bucket", "s3://bucket/a/b", "gs://bucket/p", "az://box/p"])
def test_object_stores_are_opened_by_their_urls(url: str) -> None:
    options = StoreOptions(anonymous=True, account_name="name", region="us-east-1")
    store = open_store(f"{url}/", options, max_retries=1)
    assert store.url == url
    assert repr(store) == f"<ObstoreStore {url}>"
    assert store.can_swap


def test_options_that_the_library_refuses_are_a_value_error() -> None:
    with pytest.raises(ValueError, match=r"gs://bucket: these options make no client") as caught:
        open_store("gs://bucket", service_account_key="s3cret, and no JSON")
    assert "s3cret" not in str(caught.value)
    assert "s3cret" not in str(caught.value.__cause__)


def test_obstore_is_not_imported_before_it_is_needed() -> None:
    program = (
        "import sys, danube_trio.cloud, danube_trio.testing\n"
        "danube_trio.cloud.open_store('memory:')\n"
        "sys.exit('obstore' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    subprocess.run([sys.executable, "-c", program], check=True, env=environment)


def test_without_obstore_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("danube_trio.cloud._")]:
        if name.rsplit(".", 1)[1] in ("_obstore", "_answers", "_jobs", "_place"):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ImportError, match=r"pip install 'danube-trio\[cloud\]'"):
        open_store("s3://bucket")
    with pytest.raises(ImportError, match="pip install"):
        danube_trio.cloud.ObstoreStore  # noqa: B018 - looking it up imports it
    with pytest.raises(AttributeError, match="Nonsense"):
        getattr(danube_trio.cloud, "Nonsense")  # noqa: B009 - a type checker knows it is not there
