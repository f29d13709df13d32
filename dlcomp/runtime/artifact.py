"""``Artifact``: a compiled model, in memory or from a ``.dlc`` file, ready to run, measure and save."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dlcomp.errors import ArtifactError, DlcompError, InternalError, UsageError
from dlcomp.model import Signature, Step, TextStages
from dlcomp.runtime import compat, native, storage, testvector, threads
from dlcomp.runtime.inputs import ordered
from dlcomp.runtime.manifest import Manifest
from dlcomp.runtime.session import Session
from dlcomp.runtime.text import Stages
from dlcomp.target import Target

if TYPE_CHECKING:
    from dlcomp.codegen.program import KernelInfo, Program
    from dlcomp.runtime.bench import BenchResult
    from dlcomp.runtime.profile import ProfileResult


class Artifact:
    """A compiled model. Make one with :meth:`dlcomp.Model.compile` or :func:`dlcomp.open`.

    Attributes
    ----------
    manifest : Manifest
    weights : tuple of numpy.ndarray
        Views of the file's memory map, or the compiler's own arrays; not to be written.
    path : str or None
        Where it was opened from or last saved.
    """

    def __init__(
        self,
        manifest: Manifest,
        files: Mapping[str, bytes | memoryview],
        weights: Sequence[np.ndarray],
        path: str | None = None,
    ) -> None:
        self.manifest = manifest
        self.weights = tuple(weights)
        self.path = path
        self._files = dict(files)
        self._session: Session | None = None
        self._stages: Stages | None = None
        self._starting = threading.Lock()

    @staticmethod
    def build(
        program: Program,
        *,
        options: Mapping[str, Any] | None = None,
        model_name: str = "model",
        history: Sequence[Step] = (),
        source: str | os.PathLike[str] | None = None,
        text: TextStages | None = None,
    ) -> Artifact:
        """Wrap a compiled program.

        Parameters
        ----------
        program : Program
        options : mapping
            What the compilation was asked for, for the record.
        model_name : str
        history : sequence of Step
            What was done to the model before.
        source : path, optional
            The model's file; its path and SHA-256 are recorded, so that ``verify`` and ``bench`` find it.
        text : TextStages, optional
            The parts on strings around the program.
        """
        arrays = [np.asarray(array, order="C") for array in program.weights]
        files: dict[str, bytes | memoryview] = {f"objects/{k}": v for k, v in program.objects.items()}
        objects = tuple(files)
        files |= {f"sources/{k}": v for k, v in program.sources.items()}
        manifest = Manifest(
            name=model_name,
            versions=_versions(),
            target=program.target,
            signature=program.signature,
            objects=objects,
            weights=storage.layout(arrays),
            kernels=tuple(program.kernels),
            options=dict(options or {}),
            history=tuple(history),
            source=None if source is None else _source(Path(source)),
            border=None if text is None else text.signature,
        )
        if text is not None:
            parts = {storage.BEFORE: text.before, storage.AFTER: text.after}
            files |= {member: part for member, part in parts.items() if part is not None}
        artifact = Artifact(manifest, files, arrays)
        artifact._make_check()
        return artifact

    @property
    def signature(self) -> Signature:
        """Inputs and outputs, in order."""
        return self.manifest.border or self.manifest.signature

    @property
    def target(self) -> Target:
        """The processor it was compiled for."""
        return self.manifest.target

    @property
    def kernels(self) -> tuple[KernelInfo, ...]:
        """The account of every kernel."""
        return self.manifest.kernels

    @property
    def sources(self) -> dict[str, bytes]:
        """What is kept for people: CUDA source, PTX, a cubin."""
        return {
            k.removeprefix("sources/"): bytes(v) for k, v in self._files.items() if k.startswith("sources/")
        }

    @property
    def threads(self) -> int:
        """Threads of a run for which none are asked: the target's cores, as far as this process has them."""
        return max(1, min(self.target.cores, threads.available()))

    def refusal(self) -> DlcompError | None:
        """Why this machine cannot run it, or None."""
        return compat.refusal(self.manifest) or compat.missing_device(self.target)

    def session(self) -> Session:
        """The loaded code; loads it on first use."""
        with self._starting:
            if self._session is None:
                if error := self.refusal():
                    raise error
                if self.target.kind == "cuda":
                    from dlcomp.runtime.cuda_binary import provide

                    provide(self.sources, self.target.arch)
                objects = [bytes(self._files[name]) for name in self.manifest.objects]
                self._session = _session_type(self.target)(objects, self.weights, self.manifest.signature)
            return self._session

    def run(self, inputs: Mapping[str, Any], *, threads: int | None = None) -> dict[str, np.ndarray]:
        """Run once.

        Parameters
        ----------
        inputs : mapping of str to array
            Exactly the inputs of the signature, in their dtype and shape; any strides.
        threads : int, optional
            How many threads to use, the calling one included.

        Returns
        -------
        dict of str to numpy.ndarray
            New arrays, which no later run writes to.
        """
        if self.manifest.border is None:
            return self._compiled(inputs, threads)
        if self._stages is None:
            parts = (self._files.get(member) for member in (storage.BEFORE, storage.AFTER))
            stages = TextStages(self.manifest.border, *(None if p is None else bytes(p) for p in parts))
            self._stages = Stages(stages, self.manifest.signature)
        return self._stages.run(inputs, lambda feed: self._compiled(feed, threads))

    def _compiled(self, inputs: Mapping[str, Any], threads: int | None) -> dict[str, np.ndarray]:
        signature = self.manifest.signature
        arrays = ordered(inputs, signature)
        results = self.session()(arrays, self.threads if threads is None else threads)
        return {spec.name: array for spec, array in zip(signature.outputs, results, strict=True)}

    def bench(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> BenchResult:
        """Measure the latency; see :func:`dlcomp.runtime.bench.bench`."""
        from dlcomp.runtime.bench import bench

        return bench(self, inputs, **options)

    def profile(self, inputs: Mapping[str, Any] | None = None, **options: Any) -> ProfileResult:
        """Time every kernel; see :func:`dlcomp.runtime.profile.profile`."""
        from dlcomp.runtime.profile import profile

        return profile(self, inputs, **options)

    def check(self) -> testvector.CheckResult:
        """Run the test vector again and compare. Raises ArtifactError if the artifact has none."""
        inputs = self.check_inputs()
        if inputs is None:
            raise ArtifactError(f"no test vector: {self.manifest.check.get('absent', 'none was made')}")
        outputs = self.session()(ordered(inputs, self.signature), self.threads)
        return testvector.compare(bytes(self._files[storage.CHECK]), outputs, self.signature)

    def check_inputs(self) -> dict[str, np.ndarray] | None:
        """The inputs of the test vector, or None if there is none."""
        entry = self.manifest.check
        if entry.get("member") != storage.CHECK:
            return None
        return testvector.inputs_of(entry, bytes(self._files[storage.CHECK]), self.signature)

    def save(self, path: str | os.PathLike[str], *, coded: bool | None = None) -> Path:
        """Write the ``.dlc`` file, all or nothing.

        Parameters
        ----------
        path : path
        coded : bool, optional
            Write weights of few different values, or that are integers with scales, in fewer bytes, from
            which :func:`open` makes the same arrays in its own memory. Without a choice, it is done for
            networks with shared weights and for those of which weights alone are quantized.
        """
        where = Path(path)
        if coded is None:
            coded = any(_makes_few_values(step) for step in self.manifest.history)
        self.manifest = storage.save(where, self.manifest, self._files, self.weights, coded=coded)
        self.path = str(where)
        return where

    def _make_check(self) -> None:
        error = self.refusal()
        if self.manifest.border is not None:
            entry = {"absent": "the network works on strings"}
        elif any(spec.is_open for spec in self.signature.inputs):
            entry = {"absent": "the inputs have open dimensions"}
        elif error is None:
            try:
                entry, data = testvector.make(self.signature, self.run)
                self._files[storage.CHECK] = data
            except (InternalError, UsageError) as err:
                # Inputs that decide about shapes are rarely right at random.
                entry = {"absent": f"random inputs do not fit: {err.message}"}
        else:
            entry = {"absent": error.message}
        self.manifest = replace(self.manifest, check=entry)

    def __str__(self) -> str:
        code = sum(len(self._files[name]) for name in self.manifest.objects)
        data = sum(array.nbytes for array in self.weights)
        lines = [f"{self.manifest.name}: compiled for {self.target}"]
        lines += [f"  input   {spec}" for spec in self.signature.inputs]
        lines += [f"  output  {spec}" for spec in self.signature.outputs]
        lines.append(f"  code    {code / 1024:.0f} KiB, {len(self.kernels)} kernels")
        lines.append(f"  weights {data / 2**20:.2f} MiB in {len(self.weights)} tensors")
        if coded := sum(weight.coded for weight in self.manifest.weights):
            plain = sum(weight.bytes for weight in self.manifest.weights if weight.coded)
            lines.append(f"  coded   {coded / 1024:.1f} KiB in the file for {plain / 1024:.1f} KiB")
        lines += [f"  after   {step.name}" for step in self.manifest.history]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<Artifact {self.manifest.name} for {self.target.kind} {self.target.cpu}>"


def open(path: str | os.PathLike[str], *, check_host: bool = True) -> Artifact:
    """Open a ``.dlc`` file: every member is compared with its SHA-256, nothing is unpickled or compiled.

    Parameters
    ----------
    path : path
    check_host : bool
        Refuse an artifact that this machine cannot run. Without it, such a one can still be looked at.

    Raises
    ------
    ArtifactError
        If it is damaged, newer than this dlcomp, or made for another machine or another TVM.
    """
    where = Path(path)
    return Artifact(*storage.load(where, check_host=check_host), str(where))


def _makes_few_values(step: Step) -> bool:
    """Whether weights that are stored as floats have few values after it, or are integers with scales."""
    alone = step.options.get("activations") in ("float32", "dynamic")
    return step.name == "share" or (step.name == "quantize" and alone)


def _versions() -> dict[str, str]:
    from dlcomp import __version__

    found = {"dlcomp": __version__, **native.versions()}
    try:
        from tvm_ffi import get_global_func

        llvm = get_global_func("target.llvm_version_major", allow_missing=True)
        found["llvm"] = str(llvm()) if llvm else ""
    except ImportError:
        pass
    return found


def _source(path: Path) -> dict[str, str] | None:
    try:
        return {"path": str(path.resolve()), "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    except OSError:
        return None


def _session_type(target: Target) -> type[Session]:
    if target.kind == "cuda":
        from dlcomp.runtime.cuda import CudaSession

        return CudaSession
    if target.kind == "vta":
        from dlcomp.runtime.vta import VtaSession

        return VtaSession
    return Session
