"""Effects that must not happen twice: reserve a key, do it, record the result."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from wfe_fast.checks import check_int
from wfe_fast.clock import Duration, from_micros
from wfe_fast.codec import encode_json
from wfe_fast.database.base import Session
from wfe_fast.state.checks import check_id, check_label, lease_micros
from wfe_fast.state.events import NodeCompleted
from wfe_fast.state.items import ItemMethods
from wfe_fast.state.models import Acquired, Held, Recorded, ReserveOutcome
from wfe_fast.state.operations import one, run
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
        return self._write(self._reserve, key, execution, node, reserver, lease_micros(ttl, "ttl"))

    def _reserve(
        self, session: Session, key: str, execution_id: str, node: str, reserver: tuple[str, int], ttl: int
    ) -> ReserveOutcome:
        head = self._head(session, execution_id)
        recorded = session.one(self._sql.get_tool_effect, (key, head.tenant_id))
        if recorded is not None:
            return Recorded(result=stored_json(recorded[0], self._store))
        now = self._now()
        params = (key, head.tenant_id, head.execution, node, *reserver, now, now + ttl)
        if session.run(self._sql.reserve_tool_effect, params):
            return Acquired()
        row = session.one(self._sql.reservation_of, (key, head.tenant_id))
        assert row is not None  # it was in the way a moment ago, in this transaction
        return Held(owner=row[0], expires_at=from_micros(row[1]))

    def release_tool_reservation(self, idempotency_key: str, owner: str, fence: int) -> bool:
        params = (
            check_label(idempotency_key, "idempotency_key"),
            self._tenant,
            check_label(owner, "owner"),
            check_int(fence, "fence", 0, 2**63 - 1),
        )
        return self._write(run, self._sql.release_tool_reservation, params) > 0

    def _record_effect(self, session: Session, tenant: str, execution: int, kind: NodeCompleted, now: int) -> None:
        """Keep a result under its key, unless one is kept already, and let the reservation go."""
        key = kind.idempotency_key
        session.run(self._sql.record_effect, (key, tenant, execution, kind.node_id, _result_text(kind), now))
        session.run(self._sql.drop_reservation, (key, tenant))


def check_key(kind: object, field: str) -> None:
    """Refuse an idempotency key that no column can hold.

    Raises:
        InvalidValueError, SerializationError: see above.
    """
    if isinstance(kind, NodeCompleted) and kind.idempotency_key is not None:
        check_label(kind.idempotency_key, f"{field}.idempotency_key")


def _result_text(kind: NodeCompleted) -> str:
    fields: dict[str, Any] = {name: getattr(kind, name) for name in _ALWAYS}
    fields.update({name: value for name in _WHERE_SET if (value := getattr(kind, name)) is not None})
    return encode_json(msgspec.to_builtins(fields), "event.kind").decode()
