"""Subscriptions, and the tokens under which outside workers take them."""

from __future__ import annotations

import secrets
from datetime import datetime
from typing import Any

from wfe_fast.clock import Duration
from wfe_fast.errors import DuplicateSubscriptionError, SubscriptionNotFoundError
from wfe_fast.persistence.claims import lease_micros
from wfe_fast.persistence.events import EventMethods
from wfe_fast.persistence.models import EventSubscription
from wfe_fast.persistence.operations import all_rows, one, run
from wfe_fast.persistence.rows import json_text, micros, optional_micros, subscription_from, subscription_row
from wfe_fast.persistence.validation import check_address, check_name, check_optional_name


class SubscriptionMethods(EventMethods):
    """See `contract.SubscriptionOperations`."""

    def create_event_subscription(self, subscription: EventSubscription) -> str:
        row = subscription_row(subscription, self._work.json)
        params = (self._sql.create_event_subscription, row)
        self._store_for(None, run, params, duplicate=lambda _: DuplicateSubscriptionError(row[0]))
        subscription.id = row[0]
        return subscription.id

    def get_subscriptions(self, event_name: str, event_key: str, as_of: datetime) -> list[EventSubscription]:
        params = (*check_address(event_name, event_key), micros(as_of, "as_of"))
        return [
            subscription_from(row, self._store) for row in self._read(all_rows, self._sql.get_subscriptions, params)
        ]

    def get_first_open_subscription(self, event_name: str, event_key: str, as_of: datetime) -> EventSubscription | None:
        params = (*check_address(event_name, event_key), micros(as_of, "as_of"), self._bound_now())
        row = self._read(one, self._sql.get_first_open_subscription, params)
        return None if row is None else subscription_from(row, self._store)

    def get_subscription(self, id: str) -> EventSubscription:
        row = self._read(one, self._sql.get_subscription, (check_name(id, "id", empty=True),))
        if row is None:
            raise SubscriptionNotFoundError(id)
        return subscription_from(row, self._store)

    def set_subscription_token(self, id: str, token: str, worker_id: str, expiry: datetime | None) -> bool:
        check_name(id, "id", empty=True)
        check_name(token, "token")
        check_name(worker_id, "worker_id", empty=True)
        return self._write(self._work.set_token, id, token, worker_id, optional_micros(expiry, "expiry"))

    def clear_subscription_token(self, id: str, token: str) -> None:
        params = (check_name(id, "id", empty=True), check_name(token, "token"))
        if not self._write(run, self._sql.clear_subscription_token, params):
            raise SubscriptionNotFoundError(id)

    def terminate_subscription(self, id: str) -> None:
        if not self._write(run, self._sql.terminate_subscription, (check_name(id, "id", empty=True),)):
            raise SubscriptionNotFoundError(id)

    def subscriptions_of(self, workflow_id: str, pointer_id: str | None = None) -> list[EventSubscription]:
        params = (check_name(workflow_id, "workflow_id", empty=True), check_optional_name(pointer_id, "pointer_id"))
        return [subscription_from(row, self._store) for row in self._read(all_rows, self._sql.subscriptions_of, params)]

    def drop_subscriptions(self, workflow_id: str, pointer_id: str | None = None) -> int:
        params = (check_name(workflow_id, "workflow_id", empty=True), check_optional_name(pointer_id, "pointer_id"))
        return self._write(run, self._sql.drop_subscriptions, params)

    # -- activities ------------------------------------------------------------------------------------------------------------

    def claim_subscription(
        self, event_name: str, event_key: str, worker_id: str, lease: Duration
    ) -> EventSubscription | None:
        address = check_address(event_name, event_key)
        check_name(worker_id, "worker_id")
        length = lease_micros(lease)
        looks = self._looks()
        if looks and not self._read(looks.open_subscription, address):
            return None
        row = self._write(self._work.claim_open, address, secrets.token_hex(16), worker_id, length)
        return None if row is None else subscription_from(row, self._store)

    def renew_subscription(self, id: str, token: str, lease: Duration) -> bool:
        check_name(id, "id", empty=True)
        check_name(token, "token")
        return self._repeat(self._work.renew_subscription, id, token, lease_micros(lease))

    def complete_subscription(self, id: str, token: str, event_data: Any) -> None:
        check_name(id, "id", empty=True)
        check_name(token, "token")
        self._write(self._work.complete, id, token, self._work.json(json_text(event_data, "event_data")))
