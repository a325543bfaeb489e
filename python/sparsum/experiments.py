"""The experiments of the program ``sparsum``, from Python: train, read, and use what was trained.

>>> import sparsum
>>> run = sparsum.train("bitvector", dataset="mnist", bits=16, epochs=2)  # doctest: +SKIP
>>> run.frame()[["epoch", "validation.elbo"]]  # doctest: +SKIP
>>> model = sparsum.load(run)  # doctest: +SKIP
>>> model.decode(model.encode(images).mode)  # doctest: +SKIP

Nothing is done in another way than by the program: the same options give the same bytes in
``metrics.jsonl``, and a run that one began the other can go on with.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import torch

from . import structures
from .distributions import Gibbs, SparseDistribution
from .runs import Run, read_run

try:
    from . import _lab
except ImportError as _error:
    raise ImportError(
        "sparsum: the experiments are missing from this copy of the package: it was built with "
        f"SPARSUM_LAB=OFF, or a library that they need is not installed ({_error})"
    ) from _error

__all__ = [
    "BitvectorModel",
    "InputError",
    "Model",
    "Option",
    "Progress",
    "SignalModel",
    "SsvaeModel",
    "TrainingDiverged",
    "experiments",
    "load",
    "options",
    "train",
]

InputError = _lab.InputError
TrainingDiverged = _lab.TrainingDiverged

OptionValue: TypeAlias = bool | int | float | str | os.PathLike[str]

_log = logging.getLogger("sparsum")


@dataclass(frozen=True)
class Option:
    """One option of an experiment."""

    name: str
    """As :func:`train` takes it, ``"steps_per_epoch"``; the program spells it with dashes."""
    description: str
    unit: str
    """``""``, ``"epochs"``, ``"steps"``, ..."""
    default: bool | int | float | str
    default_text: str
    """The default in words, where its value alone does not say it."""
    minimum: int | float | None
    """The least value allowed; None for no bound, and for what is no number."""
    maximum: int | float | None
    choices: tuple[str, ...]
    """The values allowed, of a text; empty if any is."""

    @property
    def type(self) -> type:
        """``bool``, ``int``, ``float`` or ``str``."""
        return type(self.default)


@dataclass(frozen=True)
class Progress:
    """Where training is."""

    phase: str
    """``"warmup"``, ``"train"``."""
    epoch: int
    """Within the phase, counted from 1."""
    epochs: int
    step: int
    """Within the epoch."""
    steps: int
    steps_done: int
    """Of the whole run."""
    steps_total: int
    steps_per_second: float
    objective: float
    """The epoch's mean so far."""
    accuracy: float | None
    """The epoch's share so far, in [0, 1], where the experiment has one."""
    evaluations: float
    """Mean loss evaluations an example; 0 where none were counted."""
    metrics: Mapping[str, Any] | None
    """At the end of an epoch the row just written to ``metrics.jsonl``; None within it."""
    timing: Mapping[str, Any] | None
    """The same of ``timing.jsonl``."""


def experiments() -> dict[str, str]:
    """The experiments' names, and a line on each.

    >>> list(experiments())
    ['ssvae', 'bitvector', 'signal']
    """
    return dict(_lab.experiments())


def options(experiment: str) -> dict[str, Option]:
    """The options of an experiment by name, in the program's order.

    Raises :class:`InputError` for an unknown experiment.

    >>> options("ssvae")["batch_size"].default
    64
    """
    result: dict[str, Option] = {}
    for name, description, unit, default, text, minimum, maximum, choices in _lab.options(
        experiment
    ):
        if name == "experiment":
            continue
        key = name.replace("-", "_")
        result[key] = Option(
            key, description, unit, default, text, minimum, maximum, tuple(choices)
        )
    return result


def train(
    experiment: str,
    *,
    out: str | os.PathLike[str] | None = None,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    resume: bool = False,
    progress: bool | Callable[[Progress], object] = True,
    **options: OptionValue,
) -> Run:
    """Trains a model, or goes on training it, as ``sparsum train`` does.

    All that can be wrong with the options, the data or the folder is found before anything is
    written. Training is done on a thread of its own with LibTorch's default modes; the GIL is not
    held meanwhile, and the caller's number of threads is put back. Several trainings may run at
    once, from as many threads.

    Ctrl-C, where this is called from the main thread, lets the step end and saves the state;
    :class:`KeyboardInterrupt` then says how to go on.

    Args:
        experiment: ``"ssvae"``, ``"bitvector"`` or ``"signal"``: see :func:`experiments`.
        out: the run folder; by default ``runs/`` and a name made of the options.
        config: a TOML file with options, such as another run's ``config.toml``, or a mapping of
            them; ``options`` win.
        resume: go on with the run in the folder, with its own options: those given must agree with
            them, but for ``data``, ``threads``, ``checkpoint_every`` and, unless ``lr_schedule`` is
            ``"cosine"``, ``epochs``.
        progress: True prints a line an epoch to ``sys.stderr``; a function is called with a
            :class:`Progress` at the end of every epoch and up to ten times a second within it, on
            the training thread. What it raises stops training, with the state saved, and is raised
            here.
        options: the experiment's options, spelled with underscores: see :func:`options`.

    Returns:
        The finished run, as :func:`sparsum.runs.read_run` reads it.

    Raises:
        InputError: an unknown experiment or option, a value out of range, missing data, a folder
            that holds something else. (A ValueError.)
        TypeError: an option that is no bool, number, text or path.
        TrainingDiverged: something is no longer finite. (An ArithmeticError.)
    """
    settings: list[tuple[str, str]] = []
    path = ""
    if isinstance(config, Mapping):
        settings += [_setting(name, value) for name, value in config.items()]
    elif config is not None:
        path = os.fspath(config)
    settings += [_setting(name, value) for name, value in options.items()]
    report: Callable[..., None] | None
    if callable(progress):
        report = _caller(progress)
    else:
        report = _caller(_print_line) if progress else _caller(None)
    folder, _ = _lab.train(
        experiment, settings, path, "" if out is None else os.fspath(out), resume, report
    )
    return read_run(folder)


def load(
    run: Run | str | os.PathLike[str],
    checkpoint: str = "",
    device: str = "cpu",
    threads: int = 0,
) -> Model:
    """The trained model of a run. The data that it was trained on are not needed.

    Args:
        run: a run, or its folder.
        checkpoint: a name in its ``checkpoints/``; by default the best one, else the last.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:INDEX"``.
        threads: of :meth:`Model.evaluate`; 0: as many as the run was trained with.

    Returns:
        A :class:`BitvectorModel`, :class:`SsvaeModel` or :class:`SignalModel`.

    Raises:
        InputError: no run, no such checkpoint, a damaged one, no such device.
    """
    folder = run.path if isinstance(run, Run) else Path(run)
    settings = [("device", device)]
    if threads:
        settings.append(_setting("threads", threads))
    model = _lab.load(str(folder), checkpoint, settings)
    return _MODELS[model.name](model, folder, settings)


class Model:
    """A trained model. Everything is in evaluation mode and without gradient; images may be
    tensors, NumPy arrays or nested lists; results are on the model's device."""

    def __init__(self, compiled: Any, run: Path, settings: list[tuple[str, str]]) -> None:
        """Use :func:`load` instead."""
        self._compiled = compiled
        self._settings = settings
        self.run = run
        """The run's folder."""
        self.checkpoint = Path(compiled.checkpoint)

    @property
    def experiment(self) -> str:
        """``"bitvector"``, ``"ssvae"`` or ``"signal"``."""
        return self._compiled.name

    @property
    def config(self) -> dict[str, bool | int | float | str]:
        """The run's options by name, as :func:`train` takes them, with all defaults worked out."""
        return {
            name.replace("-", "_"): value
            for name, value in self._compiled.config.items()
            if name != "experiment"
        }

    @property
    def parameters(self) -> dict[str, torch.Tensor]:
        """The model's parameters by name, the estimator's included: the tensors themselves."""
        return self._compiled.named_parameters()

    @property
    def structure(self) -> structures.Structure:
        """The latent variable's set, one of :mod:`sparsum.structures`."""
        config = self.config
        if self.experiment != "bitvector":
            return structures.Categorical(self._compiled.parts)
        bits = config["bits"]
        if config["structure"] == "bits":
            return structures.BitVector(bits)
        kind = {"budget": structures.Budget, "subset": structures.Subset}[str(config["structure"])]
        return kind(bits, config["budget"])

    def encode(self, images: Any) -> SparseDistribution | Gibbs:
        """q(z|x), the distribution of the latent variable that the run's estimator takes the
        encoder's scores to mean, for each of N images.

        Returns:
            A :class:`~sparsum.distributions.SparseDistribution`; or, where a q without zeros has
            more outcomes than can be listed (that of ``sfe`` over 32 bits), the
            :class:`~sparsum.distributions.Gibbs` distribution of the scores.

        Raises:
            ValueError, TypeError: images of another shape or dtype.
            FloatingPointError: scores that are not finite.
        """
        fields = self._compiled.encode(torch.as_tensor(images))
        if "distribution" in fields:
            return SparseDistribution._of(fields["distribution"])
        return Gibbs(self.structure, fields["scores"])

    def mode(self, images: Any) -> torch.Tensor:
        """The most probable outcome for each of N images, as ``sparsum encode`` writes it: [N]
        int64, or [N, D] uint8 where the latent variable is a vector of D bits."""
        return self._compiled.encode(torch.as_tensor(images))["mode"]

    def evaluate(
        self,
        split: str = "test",
        *,
        data: str | os.PathLike[str] | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The metrics on ``"test"`` or ``"validation"`` again, as ``summary.json`` has them.

        Args:
            data: the folder with the data sets; by default the run's own.
            options: what the model is evaluated on, where it should be other than the run's own:
                ``importance_images`` and ``importance_samples`` of ``bitvector``, ``test_games``
                and ``validation_games`` of ``signal``.

        Raises InputError where the data are missing or for an option that a trained model keeps,
        ValueError for another split, and FloatingPointError for metrics that are not finite.
        """
        if split not in ("test", "validation"):
            raise ValueError(f"evaluate: expected split 'test' or 'validation', got {split!r}")
        settings = list(self._settings)
        if data is not None:
            settings.append(("data", os.fspath(data)))
        settings += [_setting(name, value, "evaluate") for name, value in options.items()]
        return json.loads(
            _lab.evaluate(str(self.run), self.checkpoint.stem, settings, split)
        )

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._compiled.structure_name}, {str(self.run)!r})"


class BitvectorModel(Model):
    """A trained model of ``bitvector``: images are grey levels, [N, 28, 28], [28, 28] or [N, 784]
    uint8; the latent variable is a vector of D bits."""

    def decode(self, codes: Any) -> torch.Tensor:
        """The mean images E[x|z] of codes of 0 and 1, [N, D] or [D] of any dtype: [N, 28, 28]
        float32, grey in [0, 1], on the CPU.

        Raises ValueError: codes of another length, other values than 0 and 1.
        """
        return self._compiled.decode(torch.as_tensor(codes))


class SsvaeModel(Model):
    """A trained model of ``ssvae``: the latent variables are the class z and a Gaussian vector h.

    Images are [N, 28, 28], [28, 28] or [N, 784]: grey levels as uint8, which are read as the
    probabilities that the pixels are on; or such probabilities, or pixels that are on or off, in
    [0, 1] as floating point or bool. (The training saw pixels drawn with those probabilities.)
    """

    def latents(self, images: Any, classes: Any) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and standard deviation of q(h|x,z), [N, 8] each, for N images and their classes,
        [N] integers; ``model.mode(images)`` are the most probable ones."""
        return self._compiled.latents(torch.as_tensor(images), torch.as_tensor(classes))

    def decode(self, classes: Any, latents: Any = None) -> torch.Tensor:
        """The mean images E[x|z,h] of classes, [N] integers, and latents h, [N, 8]: [N, 28, 28]
        float32 in [0, 1]. Without latents h = 0, the mean of its prior.

        Raises ValueError: other shapes, a class that there is not.
        """
        classes = torch.as_tensor(classes)
        if latents is None:
            latents = torch.zeros(classes.numel(), self._compiled.latents_size)
        return self._compiled.decode(classes, torch.as_tensor(latents))


class SignalModel(Model):
    """A trained sender and receiver of ``signal``: images are rows of F features, [N, F] floating
    point, or, for a model of pixels, [N, 28, 28], [28, 28] or [N, 784] uint8 too; each is divided
    by its L2 norm. :meth:`encode` is the sender: the distribution of the symbol said."""

    def receive(self, symbols: Any, candidates: Any) -> torch.Tensor:
        """The receiver's probabilities p(candidate | symbol): symbols [B] integers, candidates
        [B, C, F] (or [B, C, 28, 28]): [B, C].

        Raises ValueError: other shapes, a symbol that there is not, an image that is all zero.
        """
        return self._compiled.receive(torch.as_tensor(symbols), torch.as_tensor(candidates))


_MODELS: dict[str, type[Model]] = {
    "bitvector": BitvectorModel,
    "ssvae": SsvaeModel,
    "signal": SignalModel,
}


def _setting(name: str, value: Any, caller: str = "train") -> tuple[str, str]:
    """An option as the command line would have it."""
    name = name.replace("_", "-")
    if not isinstance(value, (bool, int, float, str)) and getattr(value, "shape", None) == ():
        value = value.item()  # NumPy's and PyTorch's scalars
    if isinstance(value, bool):
        return name, "true" if value else "false"
    if isinstance(value, (int, float)):
        return name, repr(value)
    if isinstance(value, (str, os.PathLike)):
        return name, os.fspath(value)
    raise TypeError(
        f"{caller}: expected option {name} to be a bool, a number, a text or a path, got "
        f"{type(value).__name__}"
    )


def _caller(function: Callable[[Progress], object] | None) -> Callable[..., None]:
    def report(message: str, metrics: str, timing: str, **fields: Any) -> None:
        if message:
            _log.info("%s", message)
            if function is _print_line:
                print(f"sparsum: {message}", file=sys.stderr)
        elif function is not None:
            function(
                Progress(
                    **fields,
                    metrics=json.loads(metrics) if metrics else None,
                    timing=json.loads(timing) if timing else None,
                )
            )

    return report


def _print_line(progress: Progress) -> None:
    """A line an epoch."""
    if progress.metrics is None:
        return
    shown = [f"loss {progress.objective:.2f}"]
    if progress.accuracy is not None:
        shown.append(f"acc {100 * progress.accuracy:.2f} %")
    if progress.evaluations > 0:
        shown.append(f"calls {progress.evaluations:.2f}")
    validation = "  ".join(
        f"{name} {100 * value:.2f} %" if name in ("accuracy", "success") else f"{name} {value:.2f}"
        for name, value in progress.metrics["validation"].items()
        if isinstance(value, (int, float))
    )
    print(
        f"{progress.phase} {progress.epoch}/{progress.epochs}  {'  '.join(shown)}  "
        f"validation: {validation}",
        file=sys.stderr,
        flush=True,
    )
