"""The examples in the docstrings give what they say."""

from __future__ import annotations

import doctest
import importlib

import pytest
import torch

import sparsum


@pytest.mark.parametrize(
    "name", ["ops", "nn", "structures", "distributions", "estimators", "compat.entmax"]
)
def test_examples_give_what_they_say(name: str):
    module = importlib.import_module(f"sparsum.{name}")
    names = {"torch": torch, "sparsum": sparsum}
    failed, tried = doctest.testmod(module, extraglobs=names, optionflags=doctest.ELLIPSIS)
    assert failed == 0
    assert tried > 0
