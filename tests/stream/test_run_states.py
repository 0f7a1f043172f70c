from __future__ import annotations

import pytest
from testkit.inprocess import worker

from resumable_asgi.states import IllegalTransitionError
from resumable_asgi.stream.recording import Recording
from resumable_asgi.stream.run import Run
from resumable_asgi.stream.run_states import RUN_TABLE, RunEvent, RunState

LAST = {RunState.PASSED, RunState.COMPLETE, RunState.STOPPING}


def test_an_event_that_the_table_does_not_have_raises_and_names_both() -> None:
    recording = Recording()
    with pytest.raises(IllegalTransitionError, match=r"RunState UNDECIDED .* STOP"):
        recording.change(RunEvent.STOP)
    assert recording.state is RunState.UNDECIDED


def test_an_app_may_end_in_every_state() -> None:
    assert {state for state, event in RUN_TABLE if event is RunEvent.END} == set(RunState)


def test_nothing_leads_out_of_the_last_states() -> None:
    assert all(after is state for (state, _), after in RUN_TABLE.items() if state in LAST)


async def test_a_run_shows_its_state() -> None:
    async with worker(redis_url="memory://") as made:
        exchange, app = await made.begin()
        runtime = made.middleware._runtime
        assert runtime is not None
        (run,) = runtime.runs._tasks.values()
        assert isinstance(run, Run)
        assert repr(run) == f"<Run {exchange.stream_id} recording>"
        app.finish()
        await exchange.ended()
        assert repr(run) == f"<Run {exchange.stream_id} complete>"
