"""Work in pieces: in order, whatever dies; what cannot be done is told in our own words."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from distributed import LocalCluster

from api.batch import on_dask, on_this_machine
from service.errors import Corrupt, InvalidInput, Unavailable
from tests.batch_pieces import complaining, deadly, deadly_once, squared
from tests.services import free_port


def test_one_process_is_this_one() -> None:
    with on_this_machine(1) as run:
        results = run(squared, range(3))
        assert next(iter(results)) == 0
        with pytest.raises(Corrupt):
            list(run(complaining, [1]))


@pytest.mark.parametrize("address", ["nowhere", "carrier-pigeon://x:1", "", "tcp://user:word@x:1"])
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(InvalidInput), on_dask(address):
        pass


def test_a_scheduler_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.batch.CONNECT_S", 0.5)
    address = f"tcp://127.0.0.1:{free_port()}"
    with pytest.raises(Unavailable, match=address), on_dask(address):
        pass


@pytest.mark.slow
def test_processes_that_die_are_replaced_and_results_keep_their_order(tmp_path: Path) -> None:
    with on_this_machine(2) as run:
        tasks = [(n, str(tmp_path)) for n in range(3)]
        assert list(run(deadly_once, tasks)) == [0, 1, 4]
        with pytest.raises(Corrupt, match="piece 1"):
            list(run(complaining, [1, 2]))
        with pytest.raises(Unavailable, match="3 times"):
            list(run(deadly, [1, 2]))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=":0") as made:
        yield made.scheduler_address


@pytest.mark.slow
def test_workers_of_dask_may_die(cluster: str, tmp_path: Path) -> None:
    with on_dask(cluster) as run:
        assert list(run(squared, range(20))) == [n * n for n in range(20)]
        tasks = [(n, str(tmp_path)) for n in range(4)]
        assert list(run(deadly_once, tasks)) == [0, 1, 4, 9]
        with pytest.raises(Corrupt, match="piece 7") as error:
            list(run(complaining, [7]))
        assert error.value.field == "piece"
        with pytest.raises(Unavailable, match="workers died"):
            list(run(deadly, [1]))
        assert list(run(squared, [3])) == [9], "the cluster goes on"


@pytest.mark.slow
def test_a_cluster_without_workers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.batch.CONNECT_S", 2.0)
    with (
        LocalCluster(n_workers=0, dashboard_address=":0") as made,
        pytest.raises(Unavailable, match="no worker"),
        on_dask(made.scheduler_address),
    ):
        pass


@pytest.mark.slow
def test_work_that_nobody_is_left_to_do_says_so_and_waits(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("api.batch.LOOK_S", 0.2)
    with (
        LocalCluster(
            n_workers=1, threads_per_worker=1, protocol="tcp", processes=False, dashboard_address=":0"
        ) as made,
        on_dask(made.scheduler_address) as run,
    ):
        assert [one[1] for one in run.each(squared, [3])] == [9]
        made.scale(0)
        while made.scheduler_info["workers"]:
            time.sleep(0.05)
        again = threading.Timer(2.0, made.scale, [1])
        again.start()
        assert [one[1] for one in run.each(squared, [4])] == [16]
    assert sum("no worker any more" in record.message for record in caplog.records) == 1
