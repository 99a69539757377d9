"""The whole of ``lmf benchmark``: checks, measurements, files."""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from lmf_multitask.benchmarking.measure import QUICK, Effort, compare, growth
from lmf_multitask.benchmarking.reference import published_options, time_reference
from lmf_multitask.benchmarking.report import as_json, comparison_table, draw, growth_table, reference_table
from lmf_multitask.errors import ConfigError
from lmf_multitask.files import write_text
from lmf_multitask.installation import processor_facts
from lmf_multitask.runtime import select_device, surroundings

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What to measure.

    Attributes:
        output_dir: folder for the files.
        quick: show that it works.
        rounds: measurements of everything; None takes the effort's own.
        reference: a checkout of LMF_Paddle, or None.
        data_path: the pickle that is trained on beside it.
        reference_epochs: of each training there.
    """

    output_dir: Path
    quick: bool = False
    rounds: int | None = None
    reference: Path | None = None
    data_path: Path | None = None
    reference_epochs: int = 5

    def check(self) -> None:
        """Everything that can be wrong, before minutes have passed.

        Raises:
            ConfigError: something is.
        """
        if self.rounds is not None and self.rounds < 1:
            raise ConfigError(f"--rounds must be a whole number of at least 1, but got {self.rounds}.")
        if self.output_dir.exists() and not self.output_dir.is_dir():
            raise ConfigError(f"{self.output_dir}: must be a folder, but is a file. Choose another --output_dir.")
        if self.reference is None:
            if self.data_path is not None:
                raise ConfigError(
                    "--data_path must come with --reference: without it, made-up numbers are measured on."
                )
            return
        published_options(self.reference)
        if self.data_path is None or not self.data_path.is_file():
            raise ConfigError(
                f"--data_path must be the pickle to train on with --reference, but got {self.data_path}. "
                "`lmf data sample FILE --scale full` writes one."
            )


def run_benchmark(plan: Plan, environment: Mapping[str, str]) -> str:
    """Measures, writes ``benchmark.txt``, ``benchmark.json`` and ``benchmark.png``, and returns the text.

    Args:
        plan: what to measure.
        environment: of the user, before any setting of ours.

    Raises:
        ConfigError: the plan cannot be carried out; nothing has been written then.
        RunError: a training of the reference failed.
    """
    plan.check()
    select_device("cpu")
    effort = QUICK if plan.quick else Effort()
    effort = effort if plan.rounds is None else dataclasses.replace(effort, rounds=plan.rounds)

    def tell(what: str) -> None:
        logger.info("measuring: %s", what)

    comparison, curves = compare(effort, tell), growth(effort, tell)
    where = surroundings()
    settings = f"OMP_NUM_THREADS {where['OMP_NUM_THREADS']}, paddle {where['paddle']}"
    title = f"{processor_facts()['processor']}, {settings}, {date.today().isoformat()}"
    title += " (--quick: not to be quoted)" if plan.quick else ""
    parts = [title, "", comparison_table(comparison), "", growth_table(curves)]
    timings = []
    if plan.reference is not None:
        timings = time_reference(plan.reference, plan.data_path, plan.reference_epochs, environment, tell)
        parts += ["", reference_table(timings, plan.reference_epochs)]
    text = "\n".join(parts)
    found = as_json(
        title=title, surroundings=where, effort=effort, comparison=comparison, growth=curves, reference=timings
    )
    write_text(plan.output_dir / "benchmark.json", json.dumps(found, indent=2) + "\n")
    write_text(plan.output_dir / "benchmark.txt", text + "\n")
    draw(comparison, curves, title, plan.output_dir / "benchmark.png")
    return f"{text}\nwritten: {plan.output_dir / 'benchmark.png'} (and .txt, .json)"
