from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from models import Zoo, bytes_digest, needs_calibration, parse_profile, partition_id
from models.zoo import DEFAULT_MODEL
from pipeline.offers import acceptables, offers, output_profile, points, remote_points
from signaling import MAX_OFFERS, choose
from splitrtc_errors import BadArgument, ModelFileError, UnknownModel

MakeZoo = Callable[..., Zoo]


@pytest.fixture
def zoo_with(tmp_path: Path) -> MakeZoo:
    """A function that makes a zoo with one more model, made from the bundled card; the model's file is none."""

    def make(name: str = "another", *, calibrated: bool = False, **changes: Any) -> Zoo:
        card = Zoo().get()
        value = {**card.to_json(), "name": name, "digest": bytes_digest(name.encode()), **changes}
        folder = tmp_path / name
        folder.mkdir()
        (folder / card.file).write_bytes(name.encode())
        if calibrated:
            for cut in card.partitions:
                path = card.calibration_path(cut)
                assert path is not None
                shutil.copy(path, folder)
        (folder / "card.json").write_text(json.dumps(value))
        return Zoo([folder])

    return make


def test_defaults_come_first_and_every_cut_has_every_profile() -> None:
    card = Zoo().get()
    found = points(Zoo())
    assert (found[0].card, found[0].cut, found[0].profile) == (card, card.partition(), card.default_profile)
    expected = {
        (cut.name, profile)
        for cut in card.partitions
        for profile in card.profiles
        if cut.default or not profile.startswith("klt")  # the other one has no klt tables
    }
    assert len(found) == len(expected)
    assert {(point.cut.name, point.profile) for point in found} == expected
    for point in found:
        assert (point.calibration is not None) == needs_calibration(parse_profile(point.profile))


def test_the_default_model_comes_before_others(zoo_with: MakeZoo) -> None:
    found = points(zoo_with("a_model_that_sorts_first"))
    assert found[0].card.name == DEFAULT_MODEL
    assert found[-1].card.name == "a_model_that_sorts_first"


def test_what_is_asked_for_narrows_what_is_offered() -> None:
    card = Zoo().get()
    (point,) = points(Zoo(), model=card.name, partition="bottleneck_12", profile="q8-zstd")
    assert (point.cut.name, point.profile) == ("bottleneck_12", "q8-zstd")
    by_id = points(Zoo(), partition=point.partition)
    assert {found.cut.name for found in by_id} == {"bottleneck_12"}
    assert {found.profile for found in points(Zoo(), profile="raw-zstd")} == {"raw-zstd"}


def test_the_calibration_of_another_model_is_not_taken(zoo_with: MakeZoo) -> None:
    with pytest.raises(ModelFileError, match=r"bottleneck_7\.calibration\.json was made for another model"):
        points(zoo_with(calibrated=True), model="another")


def test_a_profile_that_the_card_does_not_recommend_may_be_asked_for(zoo_with: MakeZoo) -> None:
    cuts = [cut.to_json() | {"ladder": []} for cut in Zoo().get().partitions]
    zoo = zoo_with(partitions=cuts, profiles=["q4-zstd"], default_profile="q4-zstd")
    assert {point.profile for point in points(zoo, model="another", profile="raw-zstd")} == {"raw-zstd"}


def test_a_cut_that_only_one_model_has_means_that_model(zoo_with: MakeZoo) -> None:
    cut = {"name": "only_here", "tensors": ["a:0"], "default": True}
    zoo = zoo_with("a_model_that_sorts_first", partitions=[cut])
    assert {point.card.name for point in points(zoo, partition="bottleneck_7")} == {DEFAULT_MODEL}
    assert {point.card.name for point in points(zoo, partition="only_here")} == {"a_model_that_sorts_first"}


def test_a_cut_that_cannot_have_the_default_profile_has_the_nearest_one() -> None:
    card = Zoo().get()
    found = [point.profile for point in points(Zoo(), partition="bottleneck_12")]
    assert card.default_profile not in found  # it has no klt tables
    assert found == ["q4-zstd", "q4", "q8-zstd", "q8", "raw-zstd", "raw"]


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"model": "nonsense"}, r"nonsense.*ssdlite_mbv2_coco_300"),
        ({"partition": "nonsense"}, r"nonsense.*bottleneck_7 of ssdlite_mbv2_coco_300, bottleneck_12"),
        ({"partition": ""}, "no partition ''"),
        ({"model": DEFAULT_MODEL, "partition": "0" * 32}, r"0{32}.*bottleneck_7"),
        ({"profile": "q9-zstd"}, "q9-zstd.*q4-zstd"),
    ],
)
def test_what_the_zoo_does_not_have_is_told_with_what_it_has(asked: dict[str, str], message: str) -> None:
    with pytest.raises(UnknownModel, match=message):
        points(Zoo(), **asked)


@pytest.mark.parametrize("profile", ["", "q4-zstd:", "Q4 ZSTD"])
def test_a_malformed_profile_is_a_bad_argument(profile: str) -> None:
    with pytest.raises(BadArgument):
        points(Zoo(), profile=profile)


def test_without_a_calibration_only_profiles_that_need_none_are_offered(zoo_with: MakeZoo) -> None:
    zoo = zoo_with()  # the card names calibrations, but they are not there
    offered = {point.profile for point in points(zoo, model="another")}
    assert offered == {name for name in Zoo().get().profiles if not needs_calibration(parse_profile(name))}
    with pytest.raises(UnknownModel, match=r"q4-zstd needs a calibration.*bottleneck_7 of another"):
        points(zoo, model="another", profile="q4-zstd")


def test_a_calibration_without_the_profiles_tables_is_told_with_the_command() -> None:
    with pytest.raises(UnknownModel, match=r"none of bottleneck_12 of .*`splitrtc calibrate --profile q4-range`"):
        points(Zoo(), partition="bottleneck_12", profile="q4-range")


def test_a_model_of_which_nothing_can_be_offered_is_told(zoo_with: MakeZoo) -> None:
    cut = {"name": "cut", "tensors": ["a:0"], "default": True}
    zoo = zoo_with(partitions=[cut], profiles=["q4-zstd"], default_profile="q4-zstd")
    with pytest.raises(UnknownModel, match="every profile needs a calibration"):
        points(zoo, model="another")
    assert {point.card.name for point in points(zoo)} == {DEFAULT_MODEL}


def test_how_tensors_come_back_is_offered_once_for_each_cut(scene: Path) -> None:
    card = json.loads((scene / "card.json").read_text(encoding="utf-8"))
    changes = {"profiles": ["raw-zstd", "raw"], "output_profile": "raw-snappy"}
    (scene / "card.json").write_text(json.dumps(card | changes), encoding="utf-8")
    found = points(Zoo([scene]), model="scene")
    lines = offers(found, 30.0)
    assert [(line.direction, line.profile) for line in lines] == [
        ("up", "raw-zstd"),
        ("down", "raw-snappy"),
        ("up", "raw"),
    ]
    agreed = choose(lines, acceptables(found))
    assert [line.direction for line in agreed] == ["up", "up", "down"]
    assert output_profile(agreed) == "raw-snappy"
    assert output_profile(agreed[:1]) == "raw", "where nobody speaks of it"
    assert not any(found[0].matches(line) for line in lines[1:])
    assert len(offers(found * 40, 30.0)) == MAX_OFFERS
    detector = points(Zoo(), model=DEFAULT_MODEL)
    assert {line.direction for line in offers(detector, 30.0)} == {"up"}


def test_a_point_knows_its_own_line_again() -> None:
    found = points(Zoo())
    for point in found:
        offer = point.offer(29.97)
        assert [other for other in found if other.matches(offer)] == [point]
        assert point.matches(type(offer).parse(offer.format()))
        parameters = point.parameter_set((), deadline=0.2, budget=0.5)
        assert [other for other in found if other.matches(parameters)] == [point]
        assert (parameters.deadline_ms, parameters.budget_ms) == (200, 500)
        assert not point.matches(replace(offer, head="int8"))
        assert not point.matches(replace(offer, direction="down"))
        assert not point.matches(replace(offer, calibration=bytes_digest(b"another")))
        assert point.matches(replace(offer, model="by-another-name", fps=5))
        assert (offer.head, offer.direction, offer.dynamic) == ("fp32", "up", False)


def test_with_another_calibration_only_what_needs_none_is_in_common() -> None:
    card = Zoo().get()
    offers = [point.offer(30) for point in points(Zoo(), model=card.name, partition=card.partition().name)]
    other = [replace(point, profiles={n: d and bytes_digest(b"other") for n, d in point.profiles.items()})
             for point in acceptables(points(Zoo()))]  # fmt: skip
    assert [offer.profile for offer in choose(offers, other)] == ["raw-zstd", "raw"]


def test_what_is_offered_is_acceptable() -> None:
    found = points(Zoo())
    grouped = acceptables(found)
    assert len(grouped) == len(Zoo().get().partitions)
    offers = [point.offer(30) for point in found]
    assert choose(offers, grouped) == offers
    for point in found:
        assert choose([point.offer(10)], grouped) == [point.offer(10)]


def test_models_are_told_apart_by_their_digest(zoo_with: MakeZoo) -> None:
    zoo = zoo_with()
    grouped = acceptables(points(zoo))
    assert len(grouped) == 4
    assert {acceptable.model for acceptable in grouped} == {DEFAULT_MODEL, "another"}


def test_remote_points_need_the_models_file_at_the_edge_alone() -> None:
    zoo = Zoo()
    everywhere, here = remote_points(zoo), remote_points(zoo, here=True)
    assert everywhere[0] == here[0]
    assert everywhere[0].card == zoo.get()
    assert {point.card.name for point in everywhere} == set(zoo.names())
    assert all(point.card.is_here for point in here)
    assert len(here) < len(everywhere)
    (named,) = remote_points(zoo, model=everywhere[-1].card.name)
    assert named == everywhere[-1]
    offer = named.offer(30.0)
    assert (offer.profile, offer.calibration) == ("video", None)
    assert offer.partition == partition_id(named.card.digest, [named.card.image.name])
