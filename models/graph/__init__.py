"""Cutting ONNX graphs anywhere."""

from models.graph.legacy import SplitModel, split

__all__ = ["SplitModel", "split"]
