"""Effects that must not happen twice: reserve a key, do it, record the result."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from wfe_fast.checks import check_int
from wfe_fast.clock import Duration, from_micros
from wfe_fast.codec import encode_json
from wfe_fast.state.checks import check_id, check_label, lease_micros
from wfe_fast.state.events import NodeCompleted
from wfe_fast.state.items import ItemMethods
from wfe_fast.state.models import Acquired, Held, Recorded, ReserveOutcome
from wfe_fast.state.operations import one, run
from wfe_fast.state.work import Effect
from wfe_fast.stored import stored_json

_ALWAYS = (
    "output",
    "state_patch",
    "duration_ms",
    "gen_ai_system",
    "gen_ai_model",
    "input_tokens",
    "output_tokens",
    "finish_reason",
)
_WHERE_SET = ("cost_usd", "provenance")


class EffectMethods(ItemMethods):
    """See `contract.EffectOperations`."""

    def get_tool_effect(self, idempotency_key: str) -> dict[str, Any] | None:
        row = self._read(one, self._sql.get_tool_effect, (check_label(idempotency_key, "idempotency_key"), self._home))
        return None if row is None else stored_json(row[0], self._store)

    def reserve_tool_effect(
        self,
        idempotency_key: str,
        execution_id: UUID,
        node_id: str,
        owner: str,
        fence: int,
        ttl: Duration = 300.0,
    ) -> ReserveOutcome:
        key = check_label(idempotency_key, "idempotency_key")
        execution = check_id(execution_id, "execution_id")
        node = check_label(node_id, "node_id")
        reserver = (check_label(owner, "owner"), check_int(fence, "fence", 0, 2**63 - 1))
        length = lease_micros(ttl, "ttl")
        found = self._repeat(self._work.reserve, key, execution, node, reserver, length)
        if found.result is not None:
            return Recorded(result=stored_json(found.result, self._store))
        if found.owner is not None and found.until is not None:
            return Held(owner=found.owner, expires_at=from_micros(found.until))
        return Acquired()

    def release_tool_reservation(self, idempotency_key: str, owner: str, fence: int) -> bool:
        params = (
            check_label(idempotency_key, "idempotency_key"),
            self._home,
            check_label(owner, "owner"),
            check_int(fence, "fence", 0, 2**63 - 1),
        )
        return self._write(run, self._sql.release_tool_reservation, params) > 0


def effect_of(kind: object, field: str) -> Effect | None:
    """The result that an event has to record, where it has a key.

    Raises:
        InvalidValueError, SerializationError: no column can hold the key.
    """
    if not isinstance(kind, NodeCompleted) or kind.idempotency_key is None:
        return None
    return Effect(check_label(kind.idempotency_key, f"{field}.idempotency_key"), _result_text(kind))


def _result_text(kind: NodeCompleted) -> str:
    fields: dict[str, Any] = {name: getattr(kind, name) for name in _ALWAYS}
    fields.update({name: value for name in _WHERE_SET if (value := getattr(kind, name)) is not None})
    return encode_json(msgspec.to_builtins(fields), "event.kind").decode()
