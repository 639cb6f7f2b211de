"""The models of an edge, which change while it runs."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import logging
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from models import PartitionStore, Zoo
from models.cache import CACHE_VARIABLE
from pipeline import edge as edge_module
from pipeline.edge import Edge
from pipeline.library import Library
from pipeline.offers import points
from pipeline.settings import EdgeSettings
from pipeline.shelf import Shelf
from signaling.manifest import Manifest, read_manifest
from splitrtc_errors import BadArgument, ModelError, UnknownModel

BUNDLED = "ssdlite_mbv2_coco_300"
WAIT = 20.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "models"
    path.mkdir()
    return path


def names(library: Library) -> list[str]:
    return [card.name for card in library.read().cards]


def test_what_is_added_replaced_and_withdrawn_is_seen(folder: Path, tiny_model: Path) -> None:
    library = Library(EdgeSettings(models=(folder,)))
    assert names(library) == [BUNDLED]
    assert not library.has_changed()
    shutil.copytree(tiny_model, folder / "tiny")
    assert library.has_changed()
    assert names(library) == [BUNDLED, "tiny"]
    assert not library.has_changed()
    os.utime(folder / "tiny" / "card.json", (1, 1))
    assert library.has_changed()
    assert names(library) == [BUNDLED, "tiny"]
    shutil.rmtree(folder / "tiny")
    assert library.has_changed()
    assert names(library) == [BUNDLED]


def test_without_folders_nothing_changes() -> None:
    library = Library(EdgeSettings())
    assert names(library) == [BUNDLED]
    assert not library.has_changed()


def test_a_bad_card_is_told_once_and_left_out(folder: Path, tiny_model: Path, caplog: pytest.LogCaptureFixture) -> None:
    shutil.copytree(tiny_model, folder / "tiny")
    library = Library(EdgeSettings(models=(folder,)))
    for name, text in (("broken", "{"), ("twin", (tiny_model / "card.json").read_text(encoding="utf-8"))):
        (folder / name).mkdir()
        (folder / name / "card.json").write_text(text, encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            assert names(library) == [BUNDLED, "tiny"]
    assert [record.getMessage().count("is left out") for record in caplog.records] == [1, 1]


def test_a_bad_calibration_leaves_its_model_out(folder: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, folder / "tiny")
    card = json.loads((folder / "tiny" / "card.json").read_text(encoding="utf-8"))
    card["partitions"][0]["calibration"] = "early.calibration.json"
    (folder / "tiny" / "card.json").write_text(json.dumps(card), encoding="utf-8")
    (folder / "tiny" / "early.calibration.json").write_text("{}", encoding="utf-8")
    assert names(Library(EdgeSettings(models=(folder,)))) == [BUNDLED]
    with pytest.raises(ModelError):
        Library(EdgeSettings(models=(folder,), model=("tiny",))).read()


def test_what_cannot_be_is_told(folder: Path) -> None:
    with pytest.raises(BadArgument, match="no such folder"):
        Library(EdgeSettings(models=(folder / "nowhere",)))
    with pytest.raises(UnknownModel, match="no model 'tiny' in the zoo"):
        Library(EdgeSettings(models=(folder,), model=("tiny",))).read()


def test_what_may_leave_is_what_the_card_says(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    path = tiny_model / "card.json"
    card = json.loads(path.read_text(encoding="utf-8"))
    card["partitions"][0]["variants"] = ["int8"]
    for deliver, kinds in (
        ("none", {"card.json"}),
        ("head", {"card.json", "fp32.onnx", "int8.onnx"}),
        ("whole", {"card.json", "fp32.onnx", "int8.onnx", "onnx"}),
    ):
        path.write_text(json.dumps(card | {"deliver": deliver}), encoding="utf-8")
        shelf = Shelf(PartitionStore())
        found = points(Zoo((tiny_model,), bundled=False), model="tiny", profile="raw")
        shelf.stock(found)
        assert {file.name.removeprefix("tiny.") for file in shelf._files.values()} == kinds
        assert (shelf.whole(found[0].card) is not None) == (deliver == "whole")
        assert (shelf.head(found[0].card, found[0].cut, "int8") is not None) == (deliver != "none")
        tails = {PartitionStore().get(point.card, point.cut.tensors).tail_path for point in found}
        assert not tails & {file.path for file in shelf._files.values()}
        shelf.stock([])
        assert not shelf._files


def test_what_the_cache_has_lost_is_made_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "cache"))
    shelf = Shelf(PartitionStore())
    found = points(Zoo((tiny_model,), bundled=False), model="tiny", profile="raw")
    shelf.stock(found)
    before = dict(shelf._files)
    shutil.rmtree(tmp_path / "cache")
    shelf.stock(found)
    assert shelf._files == before
    assert all(file.path.exists() for file in before.values())
    shelf.stop()
    shutil.rmtree(tmp_path / "cache")
    shelf.stock(found)
    assert not (tmp_path / "cache").exists()


class Watch:
    """What an edge says that it serves."""

    def __init__(self, edge: Edge, http: aiohttp.ClientSession) -> None:
        self.url = edge.url.replace("ws", "http", 1)
        self.http = http

    async def manifest(self) -> Manifest:
        async with self.http.get(f"{self.url}/manifest") as response:
            return read_manifest(await response.read())

    async def until(self, *names: str) -> Manifest:
        async with asyncio.timeout(WAIT):
            while True:
                manifest = await self.manifest()
                if {model.information.name for model in manifest.models} == set(names):
                    return manifest
                await asyncio.sleep(0.01)

    async def until_gone(self, path: str) -> None:
        async with asyncio.timeout(WAIT):
            while True:
                async with self.http.get(self.url + path) as response:
                    if response.status == 404:
                        return
                await asyncio.sleep(0.01)


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session


@contextlib.asynccontextmanager
async def serving(http: aiohttp.ClientSession, **settings: Any) -> AsyncIterator[tuple[Edge, Watch]]:
    async with Edge(EdgeSettings("127.0.0.1:0", **settings)) as edge:
        yield edge, Watch(edge, http)


async def test_a_running_edge_follows_its_folder(
    folder: Path, tiny_model: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_module, "LOOK_EVERY", 0.01)
    async with serving(http, models=(folder,)) as (edge, watch):
        await watch.until(BUNDLED)
        assert edge._ready()[0]
        shutil.copytree(tiny_model, folder / "tiny")
        manifest = await watch.until(BUNDLED, "tiny")
        assert manifest.state == "ready"
        (entry,) = [model for model in manifest.models if model.information.name == "tiny"]
        assert entry.deliver == "head"
        head = entry.partitions[0].variants[0].head
        assert head is not None
        async with http.get(watch.url + head.path) as response:
            assert "sha-256:" + hashlib.sha256(await response.read()).hexdigest() == head.digest
        assert edge._ready()[1]["providers"].keys() == {BUNDLED, "tiny"}
        (folder / "tiny" / "tiny.onnx").unlink()
        await watch.until(BUNDLED)
        await watch.until_gone(head.path)
        assert edge._ready()[1]["providers"].keys() == {BUNDLED}
        assert edge._ready()[0]


async def test_models_come_by_http(
    folder: Path, tiny_model: Path, http: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edge_module, "LOOK_EVERY", 0.01)
    async with serving(http, models=(folder,), admin_token="operator") as (_, watch):
        for name in ("tiny.onnx", "card.json"):
            data = (tiny_model / name).read_bytes()
            headers = {
                "Authorization": "Bearer operator",
                "Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:",
            }
            async with http.put(f"{watch.url}/admin/models/tiny/{name}", data=data, headers=headers) as response:
                assert response.status == 201
        await watch.until(BUNDLED, "tiny")
        headers = {"Authorization": "Bearer operator"}
        async with http.delete(f"{watch.url}/admin/models/tiny", headers=headers) as response:
            assert response.status == 204
        await watch.until(BUNDLED)


async def test_nobody_uploads_unless_told_so(folder: Path, http: aiohttp.ClientSession) -> None:
    async with serving(http, models=(folder,)) as (_, watch), http.get(f"{watch.url}/admin/models") as response:
        assert response.status == 404
    for settings in ({"admin_token": "x"}, {"admin_token": "x", "token": "x", "models": (folder,)}):
        with pytest.raises(BadArgument, match="admin token"):
            EdgeSettings(**settings)


async def test_a_model_that_cannot_be_loaded_is_left_out_at_the_start(
    folder: Path, tiny_model: Path, http: aiohttp.ClientSession
) -> None:
    shutil.copytree(tiny_model, folder / "tiny")
    card = folder / "tiny" / "card.json"
    digest = json.loads(card.read_text(encoding="utf-8"))["digest"]
    card.write_text(card.read_text(encoding="utf-8").replace(digest, "sha-256:" + 64 * "0"), encoding="utf-8")
    async with serving(http, models=(folder,)) as (_, watch):
        await watch.until(BUNDLED)
    with pytest.raises(ModelError):
        async with serving(http, models=(folder,), model=("tiny",)):
            pass
