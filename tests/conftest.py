"""Every test, and every process that it starts, has no tuned tables but those that it makes."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def no_tuned_tables(tmp_path_factory) -> None:
    os.environ["GPUCNN_TUNED"] = str(tmp_path_factory.mktemp("tuned"))
