"""Bad input: the arguments of the methods."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any

import pytest

from wfe_fast.errors import InvalidValueError, SerializationError, StoreClosedError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import WorkflowStatus
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import KEY, NAME, a_workflow, an_event, pointers, waiting_workflow
from wfe_fast.testing.persistence.state import everything
from wfe_fast.testing.store import StoreUnderTest

Call = Callable[[Any, Any], object]

_BAD: dict[str, list[Any]] = {
    "text": [None, 5, b"x", ["x"]],
    "moment": [
        None,
        datetime(2024, 1, 1),
        datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=1))),
        "2024-01-01T00:00:00Z",
        5,
        START.date(),
    ],
    "duration": [None, "5", math.nan, math.inf, -math.inf, -1, -0.001, timedelta(seconds=-1), True, 10**400, START],
    "limit": [0, -1, 1.0, "1", True, math.nan],
    "texts": [None, "abc", b"abc", 5, [1], ["a", None]],
    "status": [None, "Runnable", 0, ["Runnable"]],
    "statuses": [None, "Runnable", ["Runnable"], [None], 5],
    "definitions": ["order", ["order"], [("order",)], [("order", "1")], [(1, "order")], [("order", 1, 2)], 5, [None]],
    "json": [math.nan, {1: 2}, b"x", "\0", (1,)],
}
_optional = {kind: [bad for bad in _BAD[kind] if bad is not None] for kind in _BAD}

#: method and argument → the kinds of bad values, and the call.
ARGUMENTS: dict[str, tuple[list[Any], Call]] = {
    "get_runnable_instances as_at": (_BAD["moment"], lambda p, bad: p.get_runnable_instances(bad)),
    "get_runnable_instances limit": (_BAD["limit"], lambda p, bad: p.get_runnable_instances(START, bad)),
    "get_workflow_instance id": (_BAD["text"], lambda p, bad: p.get_workflow_instance(bad)),
    "get_workflow_instance_by_name name": (_BAD["text"], lambda p, bad: p.get_workflow_instance_by_name(bad)),
    "get_workflow_instances ids": (_BAD["texts"], lambda p, bad: p.get_workflow_instances(bad)),
    "next_definition_sequence definition_id": (_BAD["text"], lambda p, bad: p.next_definition_sequence(bad)),
    "change_status workflow_id": (_BAD["text"], lambda p, bad: p.change_status(bad, WorkflowStatus.SUSPENDED)),
    "change_status to": (_BAD["status"], lambda p, bad: p.change_status("w", bad)),
    "change_status only_from": (
        _optional["statuses"],
        lambda p, bad: p.change_status("w", WorkflowStatus.SUSPENDED, bad),
    ),
    "delete_workflow id": (_BAD["text"], lambda p, bad: p.delete_workflow(bad)),
    "list_workflows status": (_optional["status"], lambda p, bad: p.list_workflows(status=bad)),
    "list_workflows definition_id": (_optional["text"], lambda p, bad: p.list_workflows(definition_id=bad)),
    "list_workflows reference": (_optional["text"], lambda p, bad: p.list_workflows(reference=bad)),
    "list_workflows created_after": (_optional["moment"], lambda p, bad: p.list_workflows(created_after=bad)),
    "list_workflows created_before": (_optional["moment"], lambda p, bad: p.list_workflows(created_before=bad)),
    "list_workflows after": (
        [5, "", "x", "no such key", "1|2|3", "{}", "é"],
        lambda p, bad: p.list_workflows(after=bad),
    ),
    "list_workflows limit": ([None, *_BAD["limit"]], lambda p, bad: p.list_workflows(limit=bad)),
    "count_workflows by": ([None, "definition", 5, ""], lambda p, bad: p.count_workflows(bad)),
    "purge_workflows status": (_BAD["statuses"], lambda p, bad: p.purge_workflows(bad, START)),
    "purge_workflows older_than": (
        [None, datetime(2024, 1, 1), "x", math.nan, -1],
        lambda p, bad: p.purge_workflows(WorkflowStatus.COMPLETE, bad),
    ),
    "purge_workflows limit": (
        [None, *_BAD["limit"]],
        lambda p, bad: p.purge_workflows(WorkflowStatus.COMPLETE, START, bad),
    ),
    "claim_runnable_instances worker_id": (_BAD["text"], lambda p, bad: p.claim_runnable_instances(bad)),
    "claim_runnable_instances limit": ([None, *_BAD["limit"]], lambda p, bad: p.claim_runnable_instances("x", bad)),
    "claim_runnable_instances lease": (_BAD["duration"], lambda p, bad: p.claim_runnable_instances("x", 1, bad)),
    "claim_runnable_instances as_at": (
        _optional["moment"],
        lambda p, bad: p.claim_runnable_instances("x", as_at=bad),
    ),
    "claim_runnable_instances definitions": (
        _BAD["definitions"],
        lambda p, bad: p.claim_runnable_instances("x", definitions=bad),
    ),
    "renew_claims instances": (
        [None, "abc", ["w"], [None], 5, a_workflow()],
        lambda p, bad: p.renew_claims(bad),
    ),
    "renew_claims lease": (_BAD["duration"], lambda p, bad: p.renew_claims([], bad)),
    "release_claim instance": ([None, "w", 5, [a_workflow()]], lambda p, bad: p.release_claim(bad)),
    "get_event id": (_BAD["text"], lambda p, bad: p.get_event(bad)),
    "get_runnable_events as_at": (_BAD["moment"], lambda p, bad: p.get_runnable_events(bad)),
    "get_runnable_events limit": (_BAD["limit"], lambda p, bad: p.get_runnable_events(START, bad)),
    "get_events event_name": (_BAD["text"], lambda p, bad: p.get_events(bad, KEY, START)),
    "get_events event_key": (_BAD["text"], lambda p, bad: p.get_events(NAME, bad, START)),
    "get_events as_of": (_BAD["moment"], lambda p, bad: p.get_events(NAME, KEY, bad)),
    "get_events_since since": (_BAD["moment"], lambda p, bad: p.get_events_since(NAME, KEY, bad)),
    "get_events_since limit": (_BAD["limit"], lambda p, bad: p.get_events_since(NAME, KEY, START, limit=bad)),
    "get_events_since after_id": (
        _optional["text"],
        lambda p, bad: p.get_events_since(NAME, KEY, START, after_id=bad),
    ),
    "mark_event_processed id": (_BAD["text"], lambda p, bad: p.mark_event_processed(bad)),
    "mark_event_unprocessed id": (_BAD["text"], lambda p, bad: p.mark_event_unprocessed(bad)),
    "publish_event limit": ([None, *_BAD["limit"]], lambda p, bad: p.publish_event(an_event(), limit=bad)),
    "dispatch_events limit": ([None, *_BAD["limit"]], lambda p, bad: p.dispatch_events(bad)),
    "take_events instance": ([None, "w", 5, [a_workflow()]], lambda p, bad: p.take_events(bad)),
    "purge_events older_than": ([None, datetime(2024, 1, 1), "x", -1], lambda p, bad: p.purge_events(bad)),
    "purge_events limit": ([None, *_BAD["limit"]], lambda p, bad: p.purge_events(START, bad)),
    "get_subscriptions event_name": (_BAD["text"], lambda p, bad: p.get_subscriptions(bad, KEY, START)),
    "get_subscriptions event_key": (_BAD["text"], lambda p, bad: p.get_subscriptions(NAME, bad, START)),
    "get_subscriptions as_of": (_BAD["moment"], lambda p, bad: p.get_subscriptions(NAME, KEY, bad)),
    "get_first_open_subscription as_of": (
        _BAD["moment"],
        lambda p, bad: p.get_first_open_subscription(NAME, KEY, bad),
    ),
    "get_subscription id": (_BAD["text"], lambda p, bad: p.get_subscription(bad)),
    "set_subscription_token id": (_BAD["text"], lambda p, bad: p.set_subscription_token(bad, "t", "w", None)),
    "set_subscription_token token": (_BAD["text"], lambda p, bad: p.set_subscription_token("s", bad, "w", None)),
    "set_subscription_token worker_id": (_BAD["text"], lambda p, bad: p.set_subscription_token("s", "t", bad, None)),
    "set_subscription_token expiry": (
        _optional["moment"],
        lambda p, bad: p.set_subscription_token("s", "t", "w", bad),
    ),
    "clear_subscription_token id": (_BAD["text"], lambda p, bad: p.clear_subscription_token(bad, "t")),
    "clear_subscription_token token": (_BAD["text"], lambda p, bad: p.clear_subscription_token("s", bad)),
    "terminate_subscription id": (_BAD["text"], lambda p, bad: p.terminate_subscription(bad)),
    "subscriptions_of workflow_id": (_BAD["text"], lambda p, bad: p.subscriptions_of(bad)),
    "subscriptions_of pointer_id": (_optional["text"], lambda p, bad: p.subscriptions_of("w", bad)),
    "drop_subscriptions workflow_id": (_BAD["text"], lambda p, bad: p.drop_subscriptions(bad)),
    "drop_subscriptions pointer_id": (_optional["text"], lambda p, bad: p.drop_subscriptions("w", bad)),
    "claim_subscription worker_id": (_BAD["text"], lambda p, bad: p.claim_subscription(NAME, KEY, bad, 5)),
    "claim_subscription lease": (_BAD["duration"], lambda p, bad: p.claim_subscription(NAME, KEY, "x", bad)),
    "renew_subscription token": (_BAD["text"], lambda p, bad: p.renew_subscription("s", bad, 5)),
    "renew_subscription lease": (_BAD["duration"], lambda p, bad: p.renew_subscription("s", "t", bad)),
    "complete_subscription token": (_BAD["text"], lambda p, bad: p.complete_subscription("s", bad, 1)),
    "persist_errors errors": ([None, "abc", 5, ["x"], [None]], lambda p, bad: p.persist_errors(bad)),
    "get_errors workflow_id": (_BAD["text"], lambda p, bad: p.get_errors(bad)),
    "get_errors limit": (_BAD["limit"], lambda p, bad: p.get_errors("w", bad)),
    "process_commands as_of": (_BAD["moment"], lambda p, bad: p.process_commands(bad, print)),
    "process_commands handler": ([None, "print", 5], lambda p, bad: p.process_commands(START, bad)),
    "process_commands lease": (_BAD["duration"], lambda p, bad: p.process_commands(START, print, lease=bad)),
    "next_due definitions": (_BAD["definitions"], lambda p, bad: p.next_due(bad)),
    "wait_for_work timeout": (_BAD["duration"], lambda p, bad: p.wait_for_work(bad)),
    "wait_for_work definitions": (_BAD["definitions"], lambda p, bad: p.wait_for_work(0, bad)),
    "wait_for_status workflow_id": (
        _BAD["text"],
        lambda p, bad: p.wait_for_status(bad, [WorkflowStatus.COMPLETE], 0),
    ),
    "wait_for_status statuses": (_BAD["statuses"], lambda p, bad: p.wait_for_status("w", bad, 0)),
    "wait_for_status timeout": (
        _BAD["duration"],
        lambda p, bad: p.wait_for_status("w", [WorkflowStatus.COMPLETE], bad),
    ),
    "persist_workflow_with_subscriptions subscriptions": (
        [None, "abc", 5],
        lambda p, bad: p.persist_workflow_with_subscriptions(p.get_workflow_instance("w"), bad),
    ),
}
_HOLDS_TEXT = [name for name, (bad, _) in ARGUMENTS.items() if b"x" in bad]


class ArgumentSuite(Suite):
    """Refused arguments, and calls on a closed provider."""

    @pytest.fixture
    def before(self, provider: PersistenceProvider) -> dict[str, Any]:
        """What is stored before the refused call."""
        provider.create_new_workflow(a_workflow(id="w", execution_pointers=pointers(1)))
        waiting_workflow(provider, id="v")
        return everything(provider)

    @pytest.mark.parametrize("argument", ARGUMENTS)
    def test_wrong_kinds(self, provider: PersistenceProvider, before: dict[str, Any], argument: str) -> None:
        bad_values, call = ARGUMENTS[argument]
        for bad in bad_values:
            with pytest.raises(InvalidValueError) as caught:
                call(provider, bad)
                pytest.fail(f"{argument}={bad!r} was taken")
            assert argument.split()[1].rstrip("s") in caught.value.field, bad
        assert everything(provider) == before

    @pytest.mark.parametrize("argument", _HOLDS_TEXT)
    def test_text_that_no_database_holds(
        self, provider: PersistenceProvider, before: dict[str, Any], argument: str
    ) -> None:
        for bad in ("a\0b", "\udead"):
            with pytest.raises(SerializationError):
                ARGUMENTS[argument][1](provider, bad)
        assert everything(provider) == before

    def test_event_data_of_a_completion(self, provider: PersistenceProvider) -> None:
        waiting_workflow(provider)
        taken = provider.claim_subscription(NAME, KEY, "worker", 5)
        assert taken is not None
        assert taken.external_token is not None
        before = everything(provider)
        for bad in _BAD["json"]:
            with pytest.raises(SerializationError, match="event_data"):
                provider.complete_subscription(taken.id, taken.external_token, bad)
        assert everything(provider) == before

    def test_after_close_every_call_says_so(self, store: StoreUnderTest) -> None:
        provider = store.open()
        provider.close()
        provider.close()
        special: dict[str, Callable[[], object]] = {
            "take_events": lambda: provider.take_events(a_workflow()),
            "release_claim": lambda: provider.release_claim(a_workflow()),
            "persist_workflow_with_subscriptions": lambda: provider.persist_workflow(a_workflow()),
        }
        for argument, (_, with_value) in ARGUMENTS.items():
            name, _, field = argument.partition(" ")
            call = special.get(name, partial(with_value, provider, _good(field)))
            with pytest.raises(StoreClosedError):
                call()
                pytest.fail(f"{argument} works after close()")

    def test_a_closed_provider_opens_no_block(self, store: StoreUnderTest) -> None:
        with store.open() as provider:
            provider.create_new_workflow(a_workflow(id="w"))
        for call in (provider.ensure_store_exists, lambda: provider.create_new_workflow(a_workflow())):
            with pytest.raises(StoreClosedError):
                call()
        with pytest.raises(StoreClosedError), provider.transaction():
            pytest.fail("the block was entered")
        assert provider.supports_scheduled_commands() is True


def _good(field: str) -> Any:
    """A good value for an argument of this name."""
    if field in ("to", "status"):
        return WorkflowStatus.COMPLETE
    if field in ("only_from", "statuses"):
        return [WorkflowStatus.COMPLETE]
    if field in ("as_at", "as_of", "since", "expiry", "older_than", "created_after", "created_before"):
        return START
    if field in ("limit", "lease"):
        return 5
    if field == "definitions":
        return [("order", 1)]
    others = {"ids": [], "instances": [], "errors": [], "timeout": 0.1, "handler": print, "by": "status", "after": None}
    return others.get(field, "text")
