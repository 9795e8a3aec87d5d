"""Workers of Dagster: each is a code server, which starts every run in a process of its own.

How many run at once is for Dagster's run queue to say, which stands before all code servers.
"""

import logging
import os
import subprocess
import sys
from collections.abc import Sequence

from dagster import (
    Definitions,
    InitLoggerContext,
    JobDefinition,
    OpExecutionContext,
    in_process_executor,
    job,
    logger,
    op,
)

from market_spine import engines
from market_spine.backends.dagster import LOGGER, job_of
from market_spine.cli._signals import stopped_by_signal
from market_spine.errors import SpineError
from market_spine.observability import logs
from market_spine.settings import settings

LANES = "MARKET_SPINE_LANES"  # those of a code server, for the processes that it starts

log = logging.getLogger(__name__)
if LANES in os.environ:  # this is one
    logs.take_over()


def serve(_processes: int, lanes: Sequence[str]) -> None:
    """Carry out executions of the lanes until a signal ends it.

    Where it listens is for the variables of Dagster to say: DAGSTER_CLI_API_GRPC_HOST and _PORT.
    """
    stopping = stopped_by_signal()
    with subprocess.Popen(
        [sys.executable, "-m", "dagster", "api", "grpc", "--module-name", __name__],
        env={**os.environ, LANES: "\n".join(lanes)},
    ) as server:
        while not stopping.wait(1):
            if server.poll() is not None:
                raise SpineError("the code server has ended: what it printed says why")
        server.terminate()  # it ends when its runs have
        try:
            server.wait(settings().spine_drain_seconds)
        except subprocess.TimeoutExpired:
            server.kill()
            engines.cut_off()


@op(name=engines.TASK, config_schema={"execution_id": str})
def run_pipeline(context: OpExecutionContext) -> None:
    """Carry out an execution, unless somebody has."""
    engines.carry_out_alone(context.op_config["execution_id"])


@logger
def log_of_process(_: InitLoggerContext) -> logging.Logger:
    """Where Dagster says what becomes of a run, instead of lines in a format of its own."""
    return log


def _job_of(lane: str) -> JobDefinition:
    @job(
        name=job_of(lane),
        executor_def=in_process_executor,
        logger_defs={LOGGER: log_of_process},
    )
    def carried() -> None:
        run_pipeline()

    return carried


DEFINITIONS = Definitions(jobs=[_job_of(lane) for lane in os.environ.get(LANES, "").splitlines()])
