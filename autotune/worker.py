"""`Worker`: takes jobs that wait in the database, one after the other, and drives each to its end."""

import logging
import threading
from collections.abc import Mapping

from autotune.driver import LEASE_S, Driver
from autotune.errors import AutotuneError, LeaseLost, StorageUnavailable
from autotune.executors import EXECUTORS, ExecutorFactory
from autotune.jobs import Job, JobStatus
from autotune.record import Record
from autotune.search.problem import work_out
from autotune.storage.owner import Owner
from autotune.storage.records import Lease
from autotune.telling import teller

POLL_S = 1.0
"""How often the queue is looked at while it is empty."""
AGAIN_S = 5.0
"""After the database could not be used."""

logger = logging.getLogger(__name__)


class Worker:
    """One job at a time; any number of workers, on any machines, share a database."""

    def __init__(
        self,
        record: Record,
        executors: Mapping[str, ExecutorFactory] | None = None,
        *,
        ray_address: str | None = None,
    ) -> None:
        """`ray_address`: the cluster that jobs run on that name none of their own."""
        self._record = record
        self._driver = Driver(record, when_interrupted=JobStatus.QUEUED)
        self._executors = EXECUTORS if executors is None else executors
        self._ray_address = ray_address

    def run(self, stop: threading.Event) -> None:
        """Until told to stop; KeyboardInterrupt gives the job back that is being driven.

        A database that cannot be used is tried again: it may be restarted at any moment.
        """
        while not stop.is_set():
            try:
                wait_s = 0.0 if self.work_once() else POLL_S
            except StorageUnavailable as error:
                logger.warning("%s; trying again in %g s", error, AGAIN_S)
                wait_s = AGAIN_S
            stop.wait(wait_s)

    def work_once(self) -> bool:
        """Drive the job that has waited longest; return whether there was one.

        How it ended, or what it waits for, is in the record. Raises StorageUnavailable.
        """
        claimed = self._record.repository.queue.claim(Owner.current(), LEASE_S)
        if claimed is None:
            return False
        job, lease = claimed
        logger.info("job %s: begun", job.name)
        try:
            self._drive(job, lease)
        except LeaseLost as error:
            logger.info("job %s: %s", job.name, error)
        except StorageUnavailable:
            raise
        except AutotuneError as error:
            logger.info("job %s: %s", job.name, error)
        except Exception:
            logger.exception("job %s failed", job.name)
        else:
            logger.info("job %s: finished", job.name)
        return True

    def _drive(self, job: Job, lease: Lease) -> None:
        with self._driver.releasing(lease):
            try:
                problem = work_out(job.spec)
                executor = self._executors[job.spec.executor](
                    problem.layout, job.spec.ray_address or self._ray_address
                )
            except Exception as error:
                self._driver.give_up(lease, error)
                raise
            with self._driver.shown_on_dashboard(problem), executor:
                self._driver.drive(job, problem, lease, executor, teller(self._record.repository, lease))
