"""Events: storing, reading, marking, purging."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

import pytest

from wfe_fast.errors import DuplicateEventError, EventNotFoundError
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.persistence.models import Event
from wfe_fast.testing.clock import START
from wfe_fast.testing.persistence.base import Suite
from wfe_fast.testing.persistence.factories import EARLY, FAR, JSON_VALUES, KEY, NAME, an_event
from wfe_fast.testing.persistence.state import everything, exact


def _at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def _store(provider: PersistenceProvider, *seconds: float, key: str = KEY) -> list[str]:
    """Store an event for each time, in this order, with the time as its id."""
    return [provider.create_event(an_event(id=f"{key}@{s}", event_key=key, event_time=_at(s))) for s in seconds]


class EventSuite(Suite):
    """The stored events."""

    @pytest.mark.parametrize("kind", JSON_VALUES)
    def test_every_field_comes_back(self, provider: PersistenceProvider, kind: str) -> None:
        event = Event(
            id="e",
            event_name="n",
            event_key="",
            event_data=JSON_VALUES[kind],
            event_time=_at(0.000001),
            is_processed=True,
        )
        assert provider.create_event(event) == "e"
        assert exact(provider.get_event("e")) == exact(event)

    def test_an_empty_id_becomes_a_uuid(self, provider: PersistenceProvider) -> None:
        created = provider.create_event(an_event(id=""))
        published = provider.publish_event(an_event(id=""))
        assert created != published
        assert UUID(created).version == UUID(published).version == 4
        assert provider.get_event(created).id == created

    def test_a_taken_id_is_refused_and_nothing_changed(self, provider: PersistenceProvider) -> None:
        provider.create_event(an_event(id="e"))
        before = everything(provider)
        with pytest.raises(DuplicateEventError) as caught:
            provider.create_event(an_event(id="e", event_data="other", is_processed=True))
        assert caught.value.id == "e"
        assert everything(provider) == before

    def test_what_is_not_there(self, provider: PersistenceProvider) -> None:
        provider.create_event(an_event(id="e"))
        for call in (provider.get_event, provider.mark_event_processed, provider.mark_event_unprocessed):
            with pytest.raises(EventNotFoundError) as caught:
                call("other")
            assert caught.value.id == "other"

    def test_runnable_ones_oldest_first(self, provider: PersistenceProvider) -> None:
        _store(provider, 3, -5, 1, 0.0005, -2)
        expected = [f"{KEY}@{s}" for s in (-5, -2, 0.0005, 1, 3)]
        assert provider.get_runnable_events(_at(1)) == expected[:4]
        assert provider.get_runnable_events(_at(0.999999)) == expected[:3]
        assert provider.get_runnable_events(_at(0.0005)) == expected[:3]
        assert provider.get_runnable_events(FAR, limit=2) == expected[:2]
        assert provider.get_runnable_events(EARLY) == []

    def test_processed_and_unprocessed(self, provider: PersistenceProvider) -> None:
        (id,) = _store(provider, 0)
        for _ in range(2):
            provider.mark_event_processed(id)
            provider.mark_event_processed(id)
            assert provider.get_event(id).is_processed is True
            assert provider.get_runnable_events(FAR) == []
            provider.mark_event_unprocessed(id)
            provider.mark_event_unprocessed(id)
            assert provider.get_event(id).is_processed is False
            assert provider.get_runnable_events(FAR) == [id]

    def test_by_name_and_key(self, provider: PersistenceProvider) -> None:
        _store(provider, 2, 0, 1)
        _store(provider, 0, key="other")
        provider.create_event(an_event(event_name="other"))
        provider.mark_event_processed(f"{KEY}@1")
        assert provider.get_events(NAME, KEY, FAR) == [f"{KEY}@{s}" for s in (0, 1, 2)]
        assert provider.get_events(NAME, KEY, _at(1)) == [f"{KEY}@{s}" for s in (0, 1)]
        assert provider.get_events(NAME, KEY, _at(-0.000001)) == []
        assert provider.get_events(NAME, KEY.lower(), FAR) == []
        assert provider.get_events(KEY, NAME, FAR) == []

    def test_since_is_inclusive_and_oldest_first(self, provider: PersistenceProvider) -> None:
        _store(provider, 2, 0, 1)
        _store(provider, 5, key="other")
        provider.mark_event_processed(f"{KEY}@1")
        found = provider.get_events_since(NAME, KEY, _at(1))
        assert found == [provider.get_event(f"{KEY}@{s}") for s in (1, 2)]
        assert len(provider.get_events_since(NAME, KEY, EARLY, limit=2)) == 2
        assert provider.get_events_since(NAME, KEY, _at(2.000001)) == []

    def test_since_and_after_an_id(self, provider: PersistenceProvider) -> None:
        for id in ("first", "a second", "Third", "0"):
            provider.create_event(an_event(id=id, event_time=_at(1)))
        _store(provider, 2, 0)
        expected = [f"{KEY}@0", "first", "a second", "Third", "0", f"{KEY}@2"]

        def since(seconds: float, after_id: str | None, limit: int | None = None) -> list[str]:
            return [
                event.id for event in provider.get_events_since(NAME, KEY, _at(seconds), after_id=after_id, limit=limit)
            ]

        assert since(0, None) == expected
        for place, id in enumerate(expected):
            assert since(0, id) == expected[place + 1 :]
        assert since(1, "a second", 2) == ["Third", "0"]
        assert since(2, "first") == [f"{KEY}@2"]

    def test_purge_deletes_processed_ones_that_are_old(self, provider: PersistenceProvider) -> None:
        _store(provider, 5, 3, 1, 2, 4)
        _store(provider, 0, key="unprocessed")
        for seconds in (1, 2, 3, 4, 5):
            provider.mark_event_processed(f"{KEY}@{seconds}")
        assert provider.purge_events(_at(4), limit=2) == 2
        assert provider.purge_events(_at(4), limit=2) == 1
        assert provider.purge_events(_at(4), limit=2) == 0
        assert provider.get_events(NAME, KEY, FAR) == [f"{KEY}@4", f"{KEY}@5"]
        assert provider.get_runnable_events(FAR) == ["unprocessed@0"]

    @pytest.mark.parametrize("age", [10, 10.0, timedelta(seconds=10)])
    def test_purge_by_age(self, provider: PersistenceProvider, age: float | timedelta) -> None:
        for id in _store(provider, -11, -10.5, -9, -1):
            provider.mark_event_processed(id)
        assert provider.purge_events(age) == 2
        assert provider.get_events(NAME, KEY, FAR) == [f"{KEY}@-9", f"{KEY}@-1"]
