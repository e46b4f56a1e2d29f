"""Tokens. The secret is made here, handed out once, and from then on only its hash is anywhere."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import uuid4

from wfe_fast.checks import check_optional_moment
from wfe_fast.clock import from_micros, to_micros
from wfe_fast.database.base import Row, Session
from wfe_fast.errors import InvalidValueError, TenantNotFoundError, TokenNotFoundError
from wfe_fast.state.checks import check_label
from wfe_fast.state.models import ApiToken
from wfe_fast.state.operations import one, run
from wfe_fast.state.rows import moment_from, token_from
from wfe_fast.state.transitions import TransitionMethods

_PREFIX = "jj_"
_LENGTH = len(_PREFIX) + 64

#: Microseconds between two notes of a token's use: a note is a write, and most calls must not be one.
_NOTE_EVERY = 60_000_000


class TokenMethods(TransitionMethods):
    """See `contract.TokenOperations`."""

    def create_token(self, name: str, role: str, *, expires_at: datetime | None = None) -> tuple[str, ApiToken]:
        checked = (check_label(name, "name"), check_label(role, "role"))
        moment = check_optional_moment(expires_at, "expires_at")
        plaintext = _new_secret()
        row = (
            str(uuid4()),
            self._home,
            _hash(plaintext),
            *checked,
            self._now(),
            None if moment is None else to_micros(moment),
        )
        self._write(self._create_token, row)
        return plaintext, _token(row)

    def _create_token(self, session: Session, row: Row) -> None:
        if session.one(self._sql.tenant_gate, (row[1],)) is None:
            raise TenantNotFoundError(row[1])
        session.run(self._sql.create_token, row)

    def validate_token(self, token: str) -> ApiToken | None:
        if not isinstance(token, str):
            raise InvalidValueError(
                "token", "must be text", type(token)
            )  # its type: an error never shows what may be a secret
        if len(token) != _LENGTH or not token.startswith(_PREFIX) or not token.isascii():
            return None
        # Looked up by a hash that the caller cannot steer, so the time that it takes tells nothing about the secrets that there are.
        hashed, now = _hash(token), self._now()
        row = self._read(one, self._sql.validate_token, (hashed, now))
        if row is None:
            return None
        long_ago = now - _NOTE_EVERY
        if (row[6] is None or row[6] <= long_ago) and self._write(run, self._sql.note_use, (hashed, now, long_ago)):
            row = (*row[:6], now)
        return token_from(row)

    def list_tokens(self) -> list[ApiToken]:
        return [token_from(row) for row in self._snapshot(self._list_tokens)]

    def _list_tokens(self, session: Session) -> list[Row]:
        tenants = self._tenants_in_scope(session)
        return [row for tenant in tenants for row in session.all(self._sql.list_tokens, (tenant,))]

    def revoke_token(self, token_id: str) -> None:
        id = check_label(token_id, "token_id")
        if not self._write(run, self._sql.revoke_token, (id, self._tenant, self._now())):
            raise TokenNotFoundError(id)

    def rotate_token(self, token_id: str) -> tuple[str, ApiToken]:
        plaintext = _new_secret()
        row = self._write(self._rotate, check_label(token_id, "token_id"), str(uuid4()), _hash(plaintext), self._now())
        return plaintext, _token(row)

    def _rotate(self, session: Session, old: str, new: str, hashed: str, now: int) -> Row:
        ended = session.one(self._sql.end_token, (old, self._tenant, now))
        if ended is None:
            raise TokenNotFoundError(old)
        name, role, expires, tenant = ended
        row = (new, tenant, hashed, name, role, now, expires)
        session.run(self._sql.create_token, row)
        return row


def _new_secret() -> str:
    return _PREFIX + secrets.token_hex(32)


def _hash(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode()).hexdigest()


def _token(row: Row) -> ApiToken:
    """The token of a row that was written just now."""
    id, tenant, _, name, role, created, expires = row
    return ApiToken(
        id=id,
        name=name,
        role=role,
        created_at=from_micros(created),
        expires_at=moment_from(expires),
        tenant_id=tenant,
    )
