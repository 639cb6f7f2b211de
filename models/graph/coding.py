"""How many bytes the tensors of a model take under each profile, measured on sample inputs.

Each tensor is coded alone; a cut's bytes are the sum of its tensors'. Profiles that need a calibration get one from the
same samples ("calibrated on the samples"): what a real one saves or costs differs by little, as it is for ranges alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from models.calibration import Calibration, collect
from models.codecs import make_encoder, needs_calibration, parse_profile, profile_ids
from models.graph.running import Runner, Values, whole
from models.tensor import TensorSpec
from splitrtc_errors import BadArgument, CodecError, TensorError

if TYPE_CHECKING:
    from models.graph.costs import Costs

__all__ = ["coded_sizes"]

SLICE_BYTES = 1100
"""Of a slice, about as many as a unit carries."""
MAX_BYTES_AT_ONCE = 2**28
"""Of tensors that one run of the model returns; more are done in several runs."""


def coded_sizes(
    costs: Costs,
    samples: Sequence[Values],
    profiles: Sequence[str] = (),
    tensors: Sequence[int] | None = None,
    progress: Callable[[int], object] = lambda _: None,
) -> dict[str, dict[int, int]]:
    """Return the mean bytes of a tensor under each profile, by profile and tensor.

    A tensor that a profile cannot code (its element type, or values that are not finite) is left out there.

    Args:
        costs: of the model.
        samples: inputs of the model, at least one; what it makes of them is held in memory for a group of tensors.
        profiles: all that are registered unless given.
        tensors: by number; all that may cross unless given.
        progress: is told how many of these tensors are done more.

    Raises BadArgument without samples; UnknownModel for a profile that does not exist; ModelError when the model does
    not run on a sample.
    """
    if not samples:
        raise BadArgument("at least one sample is needed to measure bytes")
    known = {name: parse_profile(name) for name in profiles or profile_ids()}
    found: dict[str, dict[int, int]] = {name: {} for name in known}
    wanted = [t for t in (costs.path.readers if tensors is None else tensors) if costs.can_be_sent(t)]
    for group in _groups(wanted, costs.sizes, len(samples)):
        frames = _values(costs, group, samples)
        for t in group:
            name = costs.model.graph.tensor_names[t]
            values = [frame[name] for frame in frames]
            for profile, parsed in known.items():
                try:
                    found[profile][t] = _coded(name, values, parsed)
                except (CodecError, TensorError, BadArgument):
                    continue
            progress(1)
    return found


def _groups(tensors: Sequence[int], sizes: Mapping[int, int], samples: int) -> list[list[int]]:
    groups: list[list[int]] = []
    room = 0
    for t in tensors:
        size = sizes[t] * samples
        if not groups or size > room:
            groups.append([])
            room = MAX_BYTES_AT_ONCE
        groups[-1].append(t)
        room -= size
    return groups


def _values(costs: Costs, tensors: Sequence[int], samples: Sequence[Values]) -> list[dict[str, Any]]:
    names = [costs.model.graph.tensor_names[t] for t in tensors]
    made = [name for t, name in zip(tensors, names, strict=True) if t in costs.path.maker]
    runner = Runner(whole(costs.model, made))
    return [{**sample, **runner.run(sample)} for sample in samples]


def _coded(name: str, values: Sequence[Any], profile: Any) -> int:
    spec = TensorSpec(name, values[0].dtype.name, tuple(values[0].shape))
    calibration = None
    if needs_calibration(profile):
        tensors = collect([[value] for value in values], [spec])
        calibration = Calibration("", "", tensors, "the samples", "")
    total = 0
    for number, value in enumerate(values):
        encoder = make_encoder(profile, [spec], calibration, SLICE_BYTES)  # anew: no frame leans on another one
        total += sum(map(len, encoder.encode(number, [value]).slices))
    return round(total / len(values))
