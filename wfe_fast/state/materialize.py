"""Stored rows to the state that follows from them."""

from __future__ import annotations

from wfe_fast.state.fold import fold
from wfe_fast.state.kinds import decode_kind
from wfe_fast.state.models import MaterializedState
from wfe_fast.state.rows import nodes_from, outputs_from, status_from
from wfe_fast.state.work import FoldRows
from wfe_fast.stored import stored_json


def materialized(rows: FoldRows, store: str) -> MaterializedState:
    """The state that a fold's rows give.

    Raises:
        CorruptionError: a stored value cannot be read.
    """
    (_, state, status, completed, active, last), tail = rows
    base = MaterializedState(
        current_state=stored_json(state, store),
        status=status_from(status, store),
        completed_nodes=outputs_from(completed, store),
        active_nodes=nodes_from(active, store),
        last_sequence=last,
    )
    return fold(base, ((row[0], decode_kind(row[1], row[2], store)) for row in tail))
