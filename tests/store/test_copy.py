"""The states of a copy, without a Redis."""

from __future__ import annotations

import pytest

from resumable_asgi.states import IllegalTransitionError, after
from resumable_asgi.store.redis.batch import Batch
from resumable_asgi.store.redis.copy_state import COPY, CopyEvent, CopyState


@pytest.mark.parametrize("state", CopyState)
def test_every_copy_survives_a_lost_connection_and_is_never_synced_after_it(state: CopyState) -> None:
    assert after(COPY, state, CopyEvent.LOSE) is not CopyState.SYNCED
    assert after(COPY, state, CopyEvent.INVALIDATE) is not CopyState.SYNCED


def test_a_sealed_copy_stays_sealed() -> None:
    reached = {after for (state, _), after in COPY.items() if state is CopyState.SEALED}
    assert reached == {CopyState.SEALED}


def test_an_event_that_a_state_does_not_have_raises_and_names_both() -> None:
    with pytest.raises(IllegalTransitionError, match="CopyState SEALED has nothing for CLAIM"):
        after(COPY, CopyState.SEALED, CopyEvent.CLAIM)


def test_a_batch_hands_out_its_replies_in_order() -> None:
    batch = Batch()
    taken: list[object] = []
    batch.add([b"a", b"b"], taken.append)
    batch.expect(0, taken.append)
    batch.add([b"c"], taken.append)
    assert batch.commands == [b"a", b"b", b"c"]
    batch.answered([1, 2, 3])
    assert taken == [[1, 2], [], [3]]
