"""The process of a job: `python -m gigagan_core.backends.run_stage --store URI --job ID` runs what ID asks for.

Its exit code is 0 only where the stage's artifact is in the store, and the job's result names it.
"""

from __future__ import annotations

import argparse
import importlib
import sys

from gigagan_core import console, environment
from gigagan_core.backends.request import Request, decode, progress_line, settings_of, write_result
from gigagan_core.errors import GigaganError
from gigagan_core.stages.base import RunContext
from gigagan_core.stages.session import PoliteRaySession
from gigagan_core.store.fingerprint import code_digest
from gigagan_core.store.store import Store, open_store
from gigagan_core.text import plain
from gigagan_core.tracking.mlflow_run import MlflowTracker
from gigagan_core.tracking.process import sigterm_raises


def main(arguments: list[str] | None = None) -> int:
    """Run the stage; gives the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--store", required=True, metavar="URI")
    parser.add_argument("--job", required=True, metavar="ID")
    chosen = parser.parse_args(arguments)
    environment.set_defaults()
    try:
        with sigterm_raises():
            run(open_store(chosen.store), chosen.job)
    except GigaganError as error:
        console.warn(f"error: {plain(error, 4000)}")
        return 1
    return 0


def run(store: Store, job: str) -> None:
    """Run the stage of a job, and write its result, also of a failure that the user can mend."""
    request = Request.read(store, job)
    tracker = MlflowTracker.of(request.tracker, {"gigagan.job": job}) if request.tracker else None
    options = {
        "force": request.force,
        "accept_code_change": request.accept_code_change,
        "origin": {**request.origin, "job": job},
        "held": request.held,
        "prices": request.prices,
        "on_progress": lambda *told: print(progress_line(*told), flush=True),
    }
    with RunContext.open(store, tracker, ray_session=PoliteRaySession(), **options) as context:
        try:
            stage = importlib.import_module(request.run)
            _check_code(request)
            inputs = {name: decode(value, store) for name, value in request.inputs.items()}
            stage.run(settings_of(request), inputs, context, **request.options)
        except GigaganError as error:
            write_result(store, job, context.history, plain(error, 4000))
            raise
        write_result(store, job, context.history)


def _check_code(request: Request) -> None:
    """An artifact of other code would have another fingerprint than the one that is waited for."""
    code, modules = code_digest(request.run)
    if code != request.code:
        names = sorted({*modules, *request.modules})
        others = [name for name in names if modules.get(name) != request.modules.get(name)]
        raise GigaganError(
            f"{request.stage}: the code on the cluster differs from that of the machine which submits "
            f"({', '.join(others[:3])}{' and more' if len(others) > 3 else ''}); build the image of the same commit, "
            "or send the checkout with ray_job.runtime_env.working_dir"
        )


if __name__ == "__main__":
    sys.exit(main())
