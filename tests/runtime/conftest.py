"""A small compiled model, in memory and on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_programs import dense

from dlcomp.codegen.program import Program
from dlcomp.runtime.artifact import Artifact


@pytest.fixture(scope="session")
def program() -> Program:
    return dense()


@pytest.fixture(scope="session")
def artifact(program: Program) -> Artifact:
    return Artifact.build(program, options={"level": 3}, model_name="dense")


@pytest.fixture(scope="session")
def saved(artifact: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return artifact.save(tmp_path_factory.mktemp("dlc") / "dense.dlc")
