"""Values at the ends of what can be stored: moments, numbers, texts. Wherever they are kept, they come back as they were."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import ScheduledCommand, WorkflowStatus
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import a_pointer, a_subscription, a_workflow, an_error, an_event
from wfe_fast.testing.persistence.state import drain_commands

#: The ends of what a datetime can hold, and moments at which a float of seconds would be off by a microsecond.
MOMENTS = [
    datetime(1, 1, 1, tzinfo=timezone.utc),
    datetime(1, 1, 1, 0, 0, 0, 1, tzinfo=timezone.utc),
    datetime(1582, 10, 10, 12, tzinfo=timezone.utc),
    datetime(1899, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
    datetime(1969, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
    datetime(1970, 1, 1, tzinfo=timezone.utc),
    datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=timezone(timedelta(hours=-23, minutes=-59))),
    datetime(2255, 6, 5, 23, 47, 34, 740_993, tzinfo=timezone.utc),
    datetime(5138, 11, 16, 9, 46, 39, 999_999, tzinfo=timezone.utc),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=timezone.utc),
]
#: The value counts, and not whether it comes back as an integer or a float, nor the sign of a zero.
NUMBERS: list[int | float] = [
    *(0, -0.0, 5e-324, 2.2250738585072014e-308, -1.5e-300, 1e-7, 0.1 + 0.2, 1 / 3, 1e15 + 0.3),
    *(1e15, 1e16, 1e17 + 16, 1e22, 1e23, -1.2345678901234567e300, 1.7976931348623157e308),
    *(2**53 + 1, -(2**63) - 1, 2**64, 10**23, 10**309, 10**4000 + 1, -(10**4000)),
]
#: All that Unicode has but NUL and the surrogates, which are refused.
EVERY_CHARACTER = "".join(map(chr, [*range(1, 0xD800), *range(0xE000, 0x110000)]))
ODD_TEXTS = [
    "",
    " ",
    " both \t\n",
    "\r\n\u2028\u2029\x0b\x0c\x1c\x85",
    "\x01\x1f\x7f\x80\x9f",
    "\ufeff\ufffe\uffff\ufdd0",
    "e\u0301\u00e9",  # the same for the eye, and not the same
    "\u202eright to left\u202c",
    "\U0001f469\u200d\U0001f680\U0010ffff",
    "'; DROP TABLE workflows; --",
    "\\",
    "\\u0000",
    "\\x00",
    "%s %(a)s {} {0} $1 :1 ? @workflows {schema}",
    '{"not": "JSON"}',
    "NULL",
    "null",
    "1e400",
    "-0.0",
    "9" * 400,
]


class ValueSuite(Suite):
    """What has to come back as it was, wherever it is kept."""

    def _everywhere(self, provider: PersistenceProvider, value: Any) -> None:
        """Keep a JSON value wherever there is a place for one, by every way that leads there."""
        pointer = a_pointer(outcome=value, context_item=[value], persistence_data={"": value})
        pointer.extension_attributes = {"x": value, "wfe": [value]}
        instance = a_workflow(data=value, execution_pointers=[pointer], next_execution=None)
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance(instance.id) == instance
        instance.data, pointer.outcome = {"again": value}, [value]
        subscription = a_subscription(workflow_id=instance.id, execution_pointer_id=pointer.id)
        subscription.subscription_data = None if value is None else {"": value}
        provider.persist_workflow_with_subscriptions(instance, [subscription])
        assert provider.get_workflow_instance(instance.id) == instance
        assert provider.get_subscription(subscription.id) == subscription
        event = an_event(event_data=[value])
        provider.create_event(event)
        assert provider.get_event(event.id) == event
        provider.publish_event(an_event(event_data={"event": value}))
        (received,) = provider.get_workflow_instance(instance.id).execution_pointers
        assert received.event_data in ({"event": value}, [value])
        attributes = {key: kept for key, kept in received.extension_attributes.items() if key in ("x", "wfe")}
        assert attributes == pointer.extension_attributes
        assert (received.outcome, received.context_item) == ([value], [value])
        assert received.persistence_data == {"": value}

    @pytest.mark.parametrize("number", NUMBERS, ids=lambda number: repr(number)[:20])
    def test_numbers(self, provider: PersistenceProvider, number: float) -> None:
        self._everywhere(provider, number)

    @pytest.mark.parametrize("text", [*ODD_TEXTS, "x" * 200_000], ids=lambda text: ascii(text)[1:20])
    def test_texts_in_json(self, provider: PersistenceProvider, text: str) -> None:
        self._everywhere(provider, {text: [text]})

    def test_every_character(self, provider: PersistenceProvider) -> None:
        pointer = a_pointer(outcome=EVERY_CHARACTER)
        instance = a_workflow(id="w", data={EVERY_CHARACTER: EVERY_CHARACTER}, execution_pointers=[pointer])
        instance.description = EVERY_CHARACTER
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance("w") == instance
        error = an_error("w", message=EVERY_CHARACTER)
        provider.persist_errors([error])
        assert provider.get_errors("w") == [error]

    @pytest.mark.parametrize("text", ODD_TEXTS[1:], ids=lambda text: ascii(text)[1:20])
    def test_texts_as_names(self, provider: PersistenceProvider, text: str) -> None:
        instance = a_workflow(id=text, name=text, workflow_definition_id=text, reference=text, root_workflow_id=text)
        instance.execution_pointers = [a_pointer(id=text, step_name=text, children=[text], scope=[text])]
        provider.create_new_workflow(instance)
        assert provider.get_workflow_instance(text) == instance
        assert provider.get_workflow_instance_by_name(text) == instance
        assert provider.list_workflows(definition_id=text, reference=text).items == [instance]
        assert provider.next_definition_sequence(text) == 1
        sub = a_subscription(id=text, workflow_id=text, execution_pointer_id=text, event_name=text, event_key=text)
        provider.create_event_subscription(sub)
        assert provider.subscriptions_of(text) == [sub]
        assert provider.claim_subscription(text, text, text, 60) is not None
        provider.publish_event(an_event(id=text, event_name=text, event_key=text, event_data=text))
        (received,) = provider.get_workflow_instance(text).execution_pointers
        assert (received.event_data, received.event_published) == (text, True)
        provider.schedule_command(ScheduledCommand.process_workflow(text, 0))
        assert [command.data for command in drain_commands(provider)] == [text]
        assert [held.id for held in provider.claim_runnable_instances(text, definitions=[(text, 1)])] == [text]
        provider.delete_workflow(text)
        assert provider.count_workflows()[WorkflowStatus.RUNNABLE] == 0

    @pytest.mark.parametrize("moment", MOMENTS, ids=datetime.isoformat)
    def test_moments(self, provider: PersistenceProvider, moment: datetime) -> None:
        pointer = a_pointer(sleep_until=moment, start_time=moment, end_time=moment)
        instance = a_workflow(id="w", create_time=moment, complete_time=moment, execution_pointers=[pointer])
        provider.create_new_workflow(instance)
        pointer.event_name = "changed"
        provider.persist_workflow(instance)
        assert provider.get_workflow_instance("w") == instance
        event, sub = an_event(id="e", event_time=moment), a_subscription(subscribe_as_of=moment)
        sub.external_token, sub.external_token_expiry = "token", moment
        provider.create_event(event)
        provider.create_event_subscription(sub)
        assert provider.get_event("e") == event
        assert provider.get_subscription(sub.id) == sub
        address = event.event_name, event.event_key
        assert provider.get_events(*address, moment) == ["e"]
        assert provider.get_events_since(*address, moment) == [event]
        assert provider.get_subscriptions(*address, moment) == [sub]
        if moment > MOMENTS[0]:
            before = moment - timedelta(microseconds=1)
            assert provider.get_events(*address, before) == []
            assert provider.get_subscriptions(*address, before) == []
        error = an_error("w", error_time=moment)
        provider.persist_errors([error])
        assert provider.get_errors("w") == [error]
