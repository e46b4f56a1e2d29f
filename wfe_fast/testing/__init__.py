"""Check a store against its contract: the conformance suites, and the tools that they are made of.

Somebody who writes a provider of their own gets the whole suite by overriding **one fixture**, `store`, which yields a
`StoreUnderTest` on a new, empty database::

    from functools import partial

    import pytest
    from wfe_fast.testing.persistence.suite import PersistenceSuite
    from wfe_fast.testing.store import StoreUnderTest

    from my_package import MyProvider


    class TestMyProvider(PersistenceSuite):
        @pytest.fixture
        def store(self, tmp_path):
            with StoreUnderTest(partial(MyProvider, tmp_path / "test.db")) as store:
                yield store

The callable given to `StoreUnderTest` opens a provider on that database each time it is called; it has to take the option `clock`, and
it has to be picklable, since suites open the same database in processes of their own. `PersistenceSuite` is all suites in one class; each
of them can be used alone (the fixture may then stand in a ``conftest.py``).

What is here: `store` (the fixture's object), `clock` (time that a test moves), `racing` (threads and processes that start together),
`waiting` (conditions with a bound), `killing` (processes that are ended with SIGKILL), `persistence` (contract A), `checkpoints` (contract B),
`state` (contract C), and `FakeContext`, with which workflow functions are tested.

This package needs pytest and hypothesis. Nothing else of wfe-fast imports it.
"""

import pytest

from wfe_fast.testing.context import FakeContext

pytest.register_assert_rewrite("wfe_fast.testing.persistence", "wfe_fast.testing.checkpoints", "wfe_fast.testing.state")

__all__ = ["FakeContext"]
