from __future__ import annotations

from models import Zoo
from models.graph import Model
from models.graph.candidates import Catalogue, on_pareto_front
from models.graph.costs import costs_of
from models.graph.describing import framework_of, model_information
from models.identity import partition_id
from models.information import information_bytes, read_information


def test_a_model_as_metadata() -> None:
    card = Zoo().get()
    model = Model.load(card.path)
    costs = costs_of(model)
    cuts = on_pareto_front(Catalogue(costs).frontier())
    information = model_information(costs, card.path, cuts)
    assert (information.identifier, information.size) == (card.digest, card.size)
    assert (information.inputs, information.outputs) == (card.inputs, card.outputs)
    assert information.framework == framework_of(model) == "ONNX IR 8, ai.onnx 15, ai.onnx.ml 2"
    assert information.macs == costs.total_macs
    last = information.split_points[-1]
    assert (last.name, last.flag, last.data.size) == ("Conv__979", "after", 92_416)
    assert last.identifier == partition_id(card.digest, ["Conv__979:0"])
    assert read_information(information_bytes(information)) == information
