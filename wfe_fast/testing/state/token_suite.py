"""Tokens."""

from __future__ import annotations

import logging
import pickle
import traceback
from datetime import timedelta
from typing import Any

import pytest

from wfe_fast.clock import to_micros
from wfe_fast.errors import InvalidValueError, TokenNotFoundError
from wfe_fast.state.contract import StateBackend
from wfe_fast.state.models import Tenant
from wfe_fast.testing.clock import ManualClock
from wfe_fast.testing.state.base import BothScopes, StateUnderTest


class TokenSuite(BothScopes):
    """See `contract.TokenOperations`."""

    def test_create_and_validate(self, root: StateBackend, backend: StateBackend, clock: ManualClock) -> None:
        secret, token = backend.create_token("ci", "developer")
        assert secret.startswith("jj_")
        assert len(secret) == 67
        assert int(secret[3:], 16) >= 0
        assert (token.name, token.role, token.expires_at) == ("ci", "developer", None)
        assert (token.tenant_id, token.created_at) == (backend.tenant_id or "default", clock())
        root.create_tenant(Tenant(id="other", name="o"))
        for view in (backend, root, root.for_tenant("other"), root.for_tenant("nobody")):
            found = view.validate_token(secret)
            assert found is not None
            assert (found.id, found.tenant_id) == (token.id, token.tenant_id)

    @pytest.mark.parametrize("wrong", ["", "jj_", "x", "jj_" + "0" * 64, "jj_" + "ж" * 64, "jj_" + "\0" * 64, "\udead"])
    def test_what_is_no_token(self, backend: StateBackend, wrong: str) -> None:
        secret, _ = backend.create_token("t", "r")
        for text in (wrong, secret[:-1], secret + "0", secret.upper(), secret[3:], f" {secret}"):
            assert backend.validate_token(text) is None

    def test_expiry(self, backend: StateBackend, clock: ManualClock) -> None:
        secret, token = backend.create_token("t", "r", expires_at=clock() + timedelta(seconds=5))
        assert token.expires_at == clock() + timedelta(seconds=5)
        clock.advance(4.999)
        assert backend.validate_token(secret) is not None
        clock.advance(0.001)
        assert backend.validate_token(secret) is None
        with pytest.raises(TokenNotFoundError):
            backend.rotate_token(token.id)

    def test_revoke_and_rotate(self, backend: StateBackend, store: StateUnderTest) -> None:
        secret, token = backend.create_token("t", "r")
        new_secret, new = backend.rotate_token(token.id)
        assert new_secret != secret
        assert (new.name, new.role, new.tenant_id) == ("t", "r", token.tenant_id)
        assert backend.validate_token(secret) is None
        assert backend.validate_token(new_secret) is not None
        assert [one.id for one in backend.list_tokens()] == [new.id]
        backend.revoke_token(new.id)
        before = store.dump()
        backend.revoke_token(new.id)
        assert store.dump() == before
        assert backend.validate_token(new_secret) is None
        assert backend.list_tokens() == []
        for call in (backend.revoke_token, backend.rotate_token):
            with pytest.raises(TokenNotFoundError, match="no token"):
                call("nobody")

    def test_use_is_noted_once_a_minute(self, backend: StateBackend, clock: ManualClock, store: StateUnderTest) -> None:
        secret, _ = backend.create_token("t", "r")
        first = backend.validate_token(secret)
        assert first is not None
        assert first.last_used_at == clock()
        noted = store.dump()
        clock.advance(59.999)
        second = backend.validate_token(secret)
        assert second is not None
        assert second.last_used_at == first.last_used_at
        assert store.dump() == noted
        clock.advance(0.001)
        third = backend.validate_token(secret)
        assert third is not None
        assert third.last_used_at == clock()
        assert to_micros(clock()) in [value for row in store.dump()["state_tokens"] for value in row]

    def test_the_secret_is_nowhere(
        self, backend: StateBackend, store: StateUnderTest, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        secret, token = backend.create_token("t", "r")
        new_secret, new = backend.rotate_token(token.id)
        backend.validate_token(new_secret)
        shown = [
            repr(token),
            repr(new),
            repr(backend.list_tokens()),
            repr(backend.validate_token(new_secret)),
            repr(backend),
        ]
        for wrong in (new_secret.encode(), [new_secret], {new_secret}):
            value: Any = wrong
            with pytest.raises(InvalidValueError) as caught:
                backend.validate_token(value)
            shown += [str(caught.value), repr(caught.value), str(pickle.dumps(caught.value))]
            shown += traceback.format_exception_only(caught.type, caught.value)
        before = store.dump()
        for id in (
            secret,
            new_secret,
            f" {new_secret}\n",
            new_secret[:-1],
            new_secret + "0" * 2000,
            new_secret.encode(),
        ):
            value = id
            for call in (backend.revoke_token, backend.rotate_token):
                with pytest.raises(InvalidValueError, match="token_id") as caught:
                    call(value)
                shown += [str(caught.value), repr(caught.value), str(pickle.dumps(caught.value))]
                shown += traceback.format_exception_only(caught.type, caught.value)
        assert store.dump() == before
        shown += [repr(store.dump()), caplog.text]
        for text in shown:
            assert secret[3:] not in text
            assert new_secret[3:-1] not in text
