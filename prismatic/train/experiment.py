"""The base of the options of every trainer: options as facts, the run's hash, the registered thresholds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from prismatic.contract.options import misfit_of_pairs
from prismatic.contract.run_hash import run_hash
from prismatic.contract.thresholds import SHAM_SCALE, Thresholds

Positive = Annotated[int, Field(ge=1)]
TREATED, SHAM, POSITIVE, RUN = "treated run", "sham run", "positive control", "run"


class Experiment(BaseModel):
    """The options of a training run, whatever trains it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    steps: Positive = 1500
    device: str = "cpu"
    data: Path | None = None
    """A text file to train on; the default is the English text of Python's own documentation."""
    log_freq: Positive = 10
    """Steps between logged steps; the first and the last step are always logged."""
    probe_freq: Annotated[int, Field(ge=0)] = 0
    """Steps between isolated probes: each expert's gradient measured alone on the same batch; 0 is never."""
    pair_freq: Annotated[int, Field(ge=0)] | None = None
    """Steps between comparisons of the experts with each other, in which the probe runs; unset is with every probe,
    0 is never."""
    thresholds: dict[str, float] = {}
    """Thresholds of the verdict other than the defaults, registered in the run file before the first step.
    They do not change the run's hash, so nobody can train one run twice and choose between thresholds."""

    @model_serializer(mode="wrap")
    def _without_unset(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out an unset pair_freq: it changes no hash of runs that were trained before there was one."""
        options: dict[str, Any] = dump(self)
        return {name: value for name, value in options.items() if name != "pair_freq" or value is not None}

    @model_validator(mode="after")
    def _pairs_fit_probes(self) -> Self:
        if problem := misfit_of_pairs(self.probe_freq, self.pair_freq):
            raise ValueError(problem.removesuffix("."))
        return self

    @model_validator(mode="after")
    def _thresholds_exist(self) -> Self:
        Thresholds().changed(self.thresholds)
        return self

    @property
    def text_length(self) -> int:
        """The bytes of text that a sequence needs; 0 for a trainer that reads no text."""
        return 0

    @property
    def role(self) -> str:
        """The role of the run in a study: treated run, sham run, positive control, or run where none has another."""
        scale = self.facts().get("perturbation_scale")
        if not isinstance(scale, int | float):
            return RUN
        if scale <= SHAM_SCALE:
            return SHAM
        return TREATED if self.facts().get("positive_control", 1.0) == 1.0 else POSITIVE

    @property
    def causal(self) -> bool:
        """True if no position of a sequence sees a later one."""
        return True

    def facts(self) -> dict[str, Any]:
        """Return every option of the experiment as plain JSON values, by name."""
        return self.model_dump(mode="json", exclude={"thresholds"})

    def run_hash(self, corpus_sha256: str) -> str:
        """Return nine hex digits that identify the experiment: the config and the text's content, not its path."""
        return run_hash(self.facts(), corpus_sha256)
