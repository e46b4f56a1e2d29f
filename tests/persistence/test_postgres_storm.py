"""Eight processes do everything at once on a few workflows of one store for twenty seconds. Nothing fails, nobody waits in a circle, and what
they leave is sound."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial

import pytest

from tests.persistence.storm_jobs import IDS, Report, storm
from tests.persistence.tables import Tables, deadlocks
from wfe_fast.persistence.contract import PersistenceProvider
from wfe_fast.postgres import PostgresPersistenceProvider
from wfe_fast.testing.persistence.factories import FAR, a_pointer, a_workflow
from wfe_fast.testing.racing import race_processes, values

SECONDS = 20
PROCESSES = 8

#: What there must be none of, in the end.
UNSOUND = {
    "a pointer without its workflow": "SELECT id FROM execution_pointers p WHERE NOT EXISTS (SELECT 1 FROM workflows WHERE id = p.workflow_id)",
    "a pointer whose columns are not those of its document": """SELECT id FROM execution_pointers
        WHERE doc IS NOT NULL AND (doc::jsonb ->> 'id' <> id OR coalesce((doc::jsonb ->> 'retry_count')::int, 0) <> retry_count
            OR coalesce((doc::jsonb ->> 'event_published')::boolean, FALSE) <> event_published)""",
    "two pointers in one place": "SELECT workflow_id FROM execution_pointers GROUP BY workflow_id, position HAVING count(*) > 1",
    "an event that was left for nobody": """SELECT s.id FROM event_subscriptions s LEFT JOIN workflows w ON w.id = s.workflow_id
        WHERE s.pending_event_time IS NOT NULL AND w.id IS NULL""",
    "a claim without a fencing number": "SELECT id FROM workflows WHERE claim_until IS NOT NULL AND claim_fence = 0",
    "a command twice": "SELECT data FROM scheduled_commands GROUP BY command_name, data HAVING count(*) > 1",
}


@pytest.fixture
def opener(postgres_dsn: str, postgres_schema: str) -> Callable[..., PersistenceProvider]:
    return partial(PostgresPersistenceProvider, postgres_dsn, schema=postgres_schema, max_connections=2)


def test_a_storm(opener: Callable[..., PersistenceProvider], postgres_dsn: str, postgres_schema: str) -> None:
    with opener() as provider:
        for id in IDS:
            provider.create_new_workflow(a_workflow(id=id, execution_pointers=[a_pointer()]))
    before = deadlocks(postgres_dsn)
    jobs = [(f"p{number}", SECONDS) for number in range(PROCESSES)]
    reports: list[Report] = values(race_processes(opener, storm, jobs, timeout=SECONDS + 120))

    assert [failure for report in reports for failure in report.failures] == []
    assert deadlocks(postgres_dsn) == before
    done = sum((report.done for report in reports), Counter[str]())
    assert min(done.values()) > 0
    assert len(done) == 23, done
    assert [step for report in reports for step in report.backwards] == []
    claims = Counter(claim for report in reports for claim in report.claims)
    assert claims
    assert max(claims.values()) == 1, "two processes have one fencing number"
    numbers = sorted(number for report in reports for number in report.numbers)
    assert numbers == list(range(1, len(numbers) + 1))
    delivered: dict[str, set[str]] = {}
    for report in reports:
        for pointer, events in report.delivered.items():
            delivered.setdefault(pointer, set()).update(events)
    assert delivered
    assert {pointer: events for pointer, events in delivered.items() if len(events) > 1} == {}
    with Tables(postgres_dsn, postgres_schema) as tables:
        for what, statement in UNSOUND.items():
            assert tables.execute(statement) == [], what
    with opener() as provider:
        while provider.dispatch_events():
            pass
        assert provider.get_runnable_events(provider.clock()) == []
        for instance in provider.get_workflow_instances(IDS):
            provider.persist_workflow(instance)
        provider.process_commands(FAR, lambda command: None)
