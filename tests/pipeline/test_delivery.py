"""What an edge delivers, over real HTTP, from edges of which some lie."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from onnx.parser import parse_model

from models import PartitionStore, Zoo
from models.cache import CACHE_VARIABLE, SIZE_VARIABLE
from models.calibration import TensorCalibration, calibration_bytes
from models.identity import bytes_digest, partition_id
from models.variants import with_weights_as
from pipeline import announced, delivery
from pipeline.appraisal import Appraisal
from pipeline.delivery import Delivery, improvement
from pipeline.manifest import make_manifest
from pipeline.offers import points
from pipeline.parts import DeviceParts
from pipeline.settings import UeSettings
from pipeline.shelf import Shelf
from signaling import SignalingServer
from signaling.files import ServedFile
from signaling.manifest import File, Load, Manifest, ModelEntry, PartitionEntry, ProfileEntry, manifest_bytes
from splitrtc_errors import (
    BadArgument,
    ConnectionLost,
    ModelFileError,
    ProtocolError,
    SplitRtcError,
    Unauthorized,
    UnknownModel,
    Unreachable,
    UserError,
)

HEAD = """<ir_version: 8, opset_import: ["" : 17]>
g (float[1,3,2,2] image) => (float[1,3,2,2] early)
<float[1] scale = {0.5}> { early = Mul(image, scale) }"""


@dataclass
class Files:
    """An edge's files and manifest, to be changed by a test; it remembers what was asked for."""

    manifest: Manifest
    shelf: dict[str, ServedFile]
    folder: Path
    asked: list[str] = field(default_factory=list)

    def find(self, hex_: str) -> ServedFile | None:
        if (found := self.shelf.get(hex_)) is not None:
            self.asked.append(found.name)
        return found

    def add(self, data: bytes, name: str = "a.file", *, digest: str | None = None) -> File:
        """A further file; with ``digest``, it is served under that of another one."""
        digest = digest or bytes_digest(data)
        path = self.folder / digest.removeprefix("sha-256:")
        path.write_bytes(data)
        served = ServedFile(digest, path, len(data), name)
        self.shelf[served.hex] = served
        return File(digest, len(data), name)

    def change(self, model: Callable[[ModelEntry], ModelEntry]) -> None:
        """Let the manifest say something else of its first model."""
        self.manifest = replace(self.manifest, models=(model(self.manifest.models[0]), *self.manifest.models[1:]))

    def change_cut(self, cut: Callable[[PartitionEntry], PartitionEntry]) -> None:
        """Let the manifest say something else of that model's first cut."""
        self.change(lambda entry: replace(entry, partitions=(cut(entry.partitions[0]), *entry.partitions[1:])))

    def deliver_head(self, file: File) -> None:
        """Let the head be this one."""
        self.change_cut(lambda cut: replace(cut, variants=(replace(cut.variants[0], head=file),)))


@pytest.fixture
def files(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Files:
    """Those of an edge that serves "tiny" alone."""
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "edge"))
    shelf = Shelf(PartitionStore())
    zoo = Zoo((tiny_model,), bundled=False)
    found = [point for point in points(zoo, model="tiny") if point.calibration is None]
    shelf.stock(found)
    manifest = make_manifest(found, shelf, Appraisal(PartitionStore(), "cpu", 1), state="ready", load=Load(0, 1))
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "device"))
    (tmp_path / "more").mkdir()
    return Files(manifest, dict(shelf._files), tmp_path / "more")


class Handler:
    async def connect(self, request: object) -> str:
        raise AssertionError("no session is asked for")


@pytest.fixture
async def url(files: Files) -> AsyncIterator[str]:
    server = SignalingServer(
        "127.0.0.1:0",
        Handler(),
        token="secret",
        manifest=lambda: manifest_bytes(files.manifest),
        find_file=files.find,
    )
    await server.start()
    yield f"ws://127.0.0.1:{server.port}"
    await server.close()


async def fetched(url: str, *, all_points: bool = False, **settings: Any) -> list[Any]:
    """The points that an edge delivers, and the head of the first one."""

    def work() -> list[Any]:
        got = Delivery(UeSettings(url, **{"token": "secret", **settings}), PartitionStore())
        try:
            found = got.points(url)
            head = got.head(found[0].card, found[0].cut.tensors, found[0].variant)
            return [found, head]
        finally:
            got.close()

    return await asyncio.to_thread(work)


async def refused(url: str, kind: type[SplitRtcError], message: str, **settings: Any) -> None:
    with pytest.raises(kind, match=message) as caught:
        await fetched(url, **settings)
    assert "\n" not in str(caught.value)


async def test_all_that_a_device_needs_is_fetched_once(url: str, files: Files, tiny_model: Path) -> None:
    found, head = await fetched(url)
    expected = points(Zoo((tiny_model,)), model="tiny", partition="early")
    assert [(p.card, p.profile, p.partition) for p in found] == [(p.card, p.profile, p.partition) for p in expected]
    assert head.tensors == ("early",)
    assert sorted(files.asked) == ["tiny.card.json", "tiny.fp32.onnx"]
    files.asked.clear()
    assert await fetched(url) == [found, head]
    assert files.asked == []


async def test_what_is_wanted_is_what_comes(url: str) -> None:
    found, head = await fetched(url, model="tiny", partition="late", profile="raw")
    assert [(point.cut.name, point.profile) for point in found] == [("late", "raw")]
    assert head.tensors == ("late",)
    await refused(url, UnknownModel, "does not deliver the head of huge; it serves: early of tiny, late", model="huge")
    await refused(url, UnknownModel, "does not deliver the head of middle of tiny", model="tiny", partition="middle")
    await refused(url, UnknownModel, "the edge has no profile q7-zstd", profile="q7-zstd")


async def test_a_head_that_did_not_arrive_is_asked_for_again(url: str, files: Files) -> None:
    head = files.manifest.models[0].partitions[0].variants[0].head
    assert head is not None
    absent = files.shelf.pop(head.digest.removeprefix("sha-256:"))
    with ThreadPoolExecutor(1) as executor:
        parts = DeviceParts(UeSettings(url, token="secret", bundled=False), executor)
        for is_there in (False, True):
            offered = await parts.offered(url)
            parts.preload(offered[0])
            if is_there:
                assert (await parts.get(offered[0].offer(30.0))).point == offered[0]
            else:
                with pytest.raises(Unreachable, match="404"):
                    await parts.get(offered[0].offer(30.0))
                files.shelf[absent.hex] = absent
        await parts.close()


def test_a_manifest_has_what_its_readers_take(files: Files, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = points(Zoo((tiny_model,), bundled=False), model="tiny")
    shelf = Shelf(PartitionStore())
    shelf.stock(found)

    def made() -> Manifest:
        return make_manifest(found, shelf, Appraisal(PartitionStore(), "cpu", 1), state="ready", load=Load(0, 1))

    whole = made().models[0]
    assert len(whole.partitions) > 1 < len(whole.partitions[0].profiles)
    monkeypatch.setattr("pipeline.manifest.MAX_PARTITIONS", 1)
    monkeypatch.setattr("pipeline.manifest.MAX_PROFILES", 1)
    (model,) = made().models
    cut = replace(whole.partitions[0], profiles=whole.partitions[0].profiles[:1])
    assert model.partitions == (cut,)
    assert [point.identifier for point in model.information.split_points] == [cut.id]
    monkeypatch.setattr("pipeline.manifest.MAX_MODELS", 0)
    assert made().models == ()


async def test_without_the_token_nothing_is_had(url: str, files: Files) -> None:
    await refused(url, Unauthorized, "access token", token=None)
    await refused(url, Unauthorized, "access token", token="wrong")
    assert files.asked == []


async def test_an_edge_that_delivers_nothing_says_so(url: str, files: Files) -> None:
    files.change_cut(lambda cut: replace(cut, variants=(replace(cut.variants[0], head=None),)))
    files.change(lambda model: replace(model, partitions=model.partitions[:1]))
    await refused(url, UnknownModel, "does not deliver the head of a model; it serves: early of tiny")


async def test_an_edge_of_another_kind_says_so() -> None:
    server = SignalingServer("127.0.0.1:0", Handler())
    await server.start()
    await refused(f"ws://127.0.0.1:{server.port}", Unreachable, "the edge does not deliver any", token=None)
    await server.close()


async def test_certificates_want_tls(url: str) -> None:
    await refused(url, BadArgument, "not one of wss", fingerprint="0" * 64)
    with pytest.raises(BadArgument, match="a fingerprint is"):
        await fetched("wss://127.0.0.1:1", fingerprint="12")


async def test_a_wrong_digest_is_thrown_away(url: str, files: Files, tmp_path: Path) -> None:
    head = files.manifest.models[0].partitions[0].variants[0].head
    assert head is not None
    files.add(bytes(head.size), digest=head.digest)
    await refused(url, ModelFileError, "is not the file that was expected")
    assert bytes(head.size) not in kept(tmp_path / "device")


async def test_a_size_that_is_none_is_refused(url: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    card = files.manifest.models[0].card
    files.change(lambda model: replace(model, card=replace(card, size=card.size + 1)))
    await refused(url, (ModelFileError, Unreachable), "is not the file|the connection was cut")  # type: ignore[arg-type]
    files.change(lambda model: replace(model, card=replace(card, size=2**30)))
    await refused(url, ProtocolError, "has 1073741824 bytes, more than 1048576")
    files.change(lambda model: replace(model, card=card))
    files.deliver_head(File(bytes_digest(b""), 2**33, "gigantic"))
    await refused(url, ProtocolError, "gigantic has 8589934592 bytes")
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    await refused(url, ProtocolError, "more than 0")


@pytest.mark.parametrize("data", [b"", b"{}", b"[" * 2000, b"\xff", b'{"format": 1}'])
async def test_a_card_that_is_none_is_refused(url: str, files: Files, data: bytes) -> None:
    file = files.add(data or b" ")
    files.change(lambda model: replace(model, card=file))
    await refused(url, ProtocolError, "the card that the edge delivers is no good")


async def test_a_card_of_another_model_is_refused(url: str, files: Files) -> None:
    card = Zoo().get().to_json()
    file = files.add(json.dumps(card).encode())
    files.change(lambda model: replace(model, card=file))
    await refused(url, ProtocolError, "the card that the edge delivers")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("early", "late", "expected what crosses: early"),
        ("[1,3,2,2] image", "[1,3,4,4] image", "expected the card's image"),
        ('["" : 17]', '["" : 17, "com.evil" : 1]', "com.evil"),
        (HEAD, "", "not an ONNX model"),
    ],
)
async def test_a_head_that_is_none_is_refused(
    url: str, files: Files, tmp_path: Path, old: str, new: str, message: str
) -> None:
    text = HEAD.replace(old, new)
    data = parse_model(text).SerializeToString() if text else b"junk"
    files.deliver_head(files.add(data))
    await refused(url, ModelFileError, message)
    assert data not in kept(tmp_path / "device")


@pytest.mark.parametrize("manifest", [b"", b"{}", b"<html>", b"[" * 100_000, b"x" * (2**22 + 1)])
async def test_a_manifest_that_is_none_is_refused(manifest: bytes) -> None:
    server = SignalingServer("127.0.0.1:0", Handler(), manifest=lambda: manifest)
    await server.start()
    kind: Any = (ProtocolError, ModelFileError)
    await refused(f"ws://127.0.0.1:{server.port}", kind, "manifest", token=None)
    await server.close()


async def test_a_poisoned_cache_is_mended(url: str, files: Files, tmp_path: Path) -> None:
    before = await fetched(url)
    poison(tmp_path / "device")
    files.asked.clear()
    assert await fetched(url) == before
    assert sorted(files.asked) == ["tiny.card.json", "tiny.fp32.onnx"]
    assert b"poison" not in kept(tmp_path / "device")


async def test_a_cache_that_cannot_be_written_is_one_clear_error(url: str, tmp_path: Path) -> None:
    (tmp_path / "device").write_bytes(b"a file where the folder should be")
    await refused(url, UserError, "cannot keep .*SPLITRTC_CACHE")


def calibrated(files: Files, tensor: str) -> File:
    """A calibration of the cut at this tensor, as the manifest's for q4-zstd of the first cut."""
    low, high, mean = (np.full(3, value, np.float32) for value in (0, 1, 0.5))
    model = files.manifest.models[0].information.identifier
    part = TensorCalibration(tensor, 1, low, high, mean)
    data = calibration_bytes(model, partition_id(model, [tensor]), [part], "nothing")
    file = files.add(data, "early.calibration.json")
    entries = (ProfileEntry("q4-zstd", file), ProfileEntry("q8", None), ProfileEntry("raw"))
    files.change_cut(lambda cut: replace(cut, profiles=entries))
    return file


async def test_a_calibration_comes_along(url: str, files: Files) -> None:
    file = calibrated(files, "early")
    found, _ = await fetched(url)
    assert [point.profile for point in found] == ["q4-zstd", "raw"], "what lacks its calibration is left out"
    assert [point.calibration and point.calibration.digest for point in found] == [file.digest, None]
    assert sorted(files.asked) == ["early.calibration.json", "tiny.card.json", "tiny.fp32.onnx"]
    calibrated(files, "late")
    await refused(url, ProtocolError, "the edge's calibration for q4-zstd is that of another cut")


def flagged(model: ModelEntry, carries_input: bool) -> ModelEntry:
    return replace(model, partitions=tuple(replace(cut, carries_input=carries_input) for cut in model.partitions))


async def test_pictures_stay_where_they_are(url: str, files: Files, tiny_model: Path) -> None:
    found, _ = await fetched(url, privacy="no-pictures")
    assert found[0].cut.name == "early"
    files.change(lambda model: flagged(model, True))
    await refused(url, UnknownModel, "does not deliver", privacy="no-pictures")
    card = json.loads((tiny_model / "card.json").read_text(encoding="utf-8"))
    card["inputs"].append({"name": "early", "type": "float32", "shape": [1]})
    card["constants"] = [{"name": "early", "values": [1]}]
    file = files.add(json.dumps(card).encode())
    files.change(lambda model: replace(flagged(model, False), card=file))
    await refused(url, ProtocolError, "would send the picture, and did not say so", privacy="no-pictures")


def kept(folder: Path) -> list[bytes]:
    """What is in the files of a cache."""
    return [path.read_bytes() for path in folder.rglob("*") if path.is_file()]


def poison(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"poison")


def smaller(files: Files) -> None:
    """Let the first cut have an fp16 head, which is smaller."""
    fp16 = files.add(with_weights_as("fp16", parse_model(HEAD).SerializeToString()), "tiny.fp16.onnx")
    fp32 = files.add(parse_model(HEAD.replace("g (", "a_longer_name (")).SerializeToString(), "tiny.better.onnx")
    assert fp16.size < fp32.size
    files.change_cut(
        lambda cut: replace(
            cut,
            variants=(
                replace(cut.variants[0], head=fp32),
                replace(cut.variants[0], name="fp16", head=fp16),
            ),
        )
    )


async def test_the_smallest_head_comes_first_and_a_better_one_later(
    url: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    smaller(files)
    found, head = await fetched(url)
    assert {point.variant for point in found} == {head.variant} == {"fp16"}
    assert "tiny.better.onnx" not in files.asked
    slept: list[float] = []
    monkeypatch.setattr("models.download.time.sleep", slept.append)

    def improve() -> bool:
        got = Delivery(UeSettings(url, token="secret"), PartitionStore())
        try:
            return got.improve(got.points(url)[0])
        finally:
            got.close()

    assert await asyncio.to_thread(improve)
    assert slept, "it leaves room for the stream"
    found, head = await fetched(url)
    assert {point.variant for point in found} == {head.variant} == {"fp32"}
    assert not await asyncio.to_thread(improve), "nothing is better"


async def test_what_failed_is_tried_again(url: str, files: Files) -> None:
    card = files.manifest.models[0].card
    served = files.shelf.pop(card.digest.removeprefix("sha-256:"))
    got = Delivery(UeSettings(url, token="secret"), PartitionStore())
    with pytest.raises(Unreachable, match="the server answers 404"):
        await asyncio.to_thread(got.points, url)
    files.shelf[served.hex] = served
    assert await asyncio.to_thread(got.points, url)
    await asyncio.to_thread(got.close)


async def test_what_is_closed_ends_soon(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    got = Delivery(UeSettings(url, token="secret"), PartitionStore())
    got.stop()
    with pytest.raises(ConnectionLost, match="the session was closed"):
        await asyncio.to_thread(got.points, url)
    await asyncio.to_thread(got.close)


async def test_a_download_is_shown(url: str) -> None:
    shown: list[Any] = []

    @contextlib.contextmanager
    def show(title: str) -> Any:
        shown.append(title)
        yield lambda there, total: shown.append((there, total))

    def work() -> None:
        got = Delivery(UeSettings(url, token="secret"), PartitionStore(), show)
        found = got.points(url)
        got.head(found[0].card, found[0].cut.tensors)
        got.close()

    await asyncio.to_thread(work)
    assert shown[0] == "the head of tiny"
    assert shown[-1][0] == shown[-1][1] > 0


def test_heavy_modules_exist() -> None:
    for name in delivery.HEAVY:
        assert importlib.import_module(name).__name__ == name


@pytest.mark.parametrize(
    ("running", "there", "better"),
    [
        ("int8", ["int8", "fp16", "fp32"], "fp32"),
        ("int8", ["int8", "fp16"], "fp16"),
        ("fp16", ["int8"], None),
        ("fp16", ["fp16"], None),
        ("fp32", ["fp32", "fp16"], None),
        ("fp16", [], None),
    ],
)
def test_a_better_head_is_the_best_that_there_is(running: str, there: list[str], better: str | None) -> None:
    assert improvement(running, there) == better


def give_away(files: Files, data: bytes) -> File:
    """Let the edge deliver the whole model, as these bytes."""
    digest = files.manifest.models[0].information.identifier
    files.add(data, "tiny.onnx", digest=digest)
    whole = File(digest, len(data), "tiny.onnx")
    files.change(lambda model: replace(model, deliver="whole", whole=whole))
    return whole


async def whole(url: str) -> Any:
    def work() -> Any:
        got = Delivery(UeSettings(url, token="secret"), PartitionStore())
        try:
            return got.whole(got.points(url)[0].card)
        finally:
            got.close()

    return await asyncio.to_thread(work)


async def test_a_whole_model_comes_where_the_edge_gives_it_away(
    url: str, files: Files, tiny_model: Path, tmp_path: Path
) -> None:
    assert await whole(url) is None
    data = (tiny_model / "tiny.onnx").read_bytes()
    give_away(files, data)
    for _ in range(2):
        card = await whole(url)
        assert card.verified_path().read_bytes() == data
        assert (tmp_path / "device") in card.path.parents
    assert files.asked.count("tiny.onnx") == 1, "then it is here"


async def test_a_whole_model_that_is_none_is_not_kept(url: str, files: Files, tmp_path: Path) -> None:
    file = give_away(files, b"not the model")
    with pytest.raises(ModelFileError, match="is not the file that was expected"):
        await whole(url)
    files.change(lambda model: replace(model, whole=replace(file, digest=bytes_digest(b"something else"))))
    assert await whole(url) is None, "another model's"
    assert b"not the model" not in kept(tmp_path / "device")


async def test_a_whole_model_that_wants_more_than_the_runtime_is_not_kept(
    url: str, tiny_model: Path, files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = (tiny_model / "tiny.onnx").read_bytes()
    give_away(files, data)
    monkeypatch.setattr("models.delivered.DOMAINS", ())
    with pytest.raises(ModelFileError, match="operators that no runtime has"):
        await whole(url)
    assert data not in kept(tmp_path / "device")


async def test_an_edge_that_is_warming_is_asked_again(url: str, files: Files, monkeypatch: pytest.MonkeyPatch) -> None:
    complete, now = files.manifest, [0.0]
    files.change(lambda model: replace(model, partitions=model.partitions[:1]))
    files.manifest = replace(files.manifest, state="warming")

    def sleep(seconds: float) -> None:
        now[0] += seconds

    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=sleep)
    monkeypatch.setattr(announced, "time", clock)
    assert (await fetched(url))[0][0].cut.name == "early"
    assert now == [0.0], "what it had ready was enough"
    await refused(url, UnknownModel, "does not deliver the head of late", partition="late")
    assert announced.WARMING < now[0] < 2 * announced.WARMING
    clock.sleep = lambda _: setattr(files, "manifest", complete)
    assert (await fetched(url, partition="late"))[0][0].cut.name == "late"


async def test_what_the_neighbouring_cuts_need_comes_last(
    url: str, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    (early, late) = files.manifest.models[0].partitions
    model = files.manifest.models[0].information.identifier
    ends = np.zeros(3, np.float32)
    part = TensorCalibration("late", 1, ends, ends + 1, ends)
    file = files.add(calibration_bytes(model, late.id, [part], "nothing"), "late.calibration.json")
    late = replace(late, profiles=(ProfileEntry("q4-zstd", file), *late.profiles))
    files.change(lambda model: replace(model, partitions=(early, late)))

    def session(**settings: Any) -> None:
        got = Delivery(UeSettings(url, token="secret", **settings), PartitionStore())
        try:
            point = got.points(url)[0]
            got.head(point.card, point.cut.tensors)
            got.prefetch(point)
        finally:
            got.close()

    await asyncio.to_thread(session, partition="early")
    with monkeypatch.context() as patch:
        patch.setattr(delivery, "PREFETCH_SHARE", 0.0)
        await asyncio.to_thread(session)
    assert sorted(files.asked) == ["tiny.card.json", "tiny.fp32.onnx"]
    files.asked.clear()
    await asyncio.to_thread(session)
    assert sorted(files.asked) == ["late.calibration.json", "tiny.fp32.onnx"]
    files.asked.clear()
    found, head = await fetched(url, partition="late", profile="q4-zstd")
    assert (found[0].cut.name, head.tensors) == ("late", ("late",))
    assert files.asked == [], "all of it is here"
