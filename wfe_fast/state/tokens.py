"""Tokens. The secret is made here, handed out once, and from then on only its hash is anywhere."""

from __future__ import annotations

import hashlib
import secrets
from datetime import datetime
from uuid import uuid4

from wfe_fast.checks import check_optional_moment
from wfe_fast.clock import from_micros, to_micros
from wfe_fast.errors import InvalidValueError, TokenNotFoundError
from wfe_fast.state.checks import check_label
from wfe_fast.state.models import ApiToken
from wfe_fast.state.operations import run
from wfe_fast.state.rows import moment_from, token_from
from wfe_fast.state.transitions import TransitionMethods

_PREFIX = "jj_"
_LENGTH = len(_PREFIX) + 64


class TokenMethods(TransitionMethods):
    """See `contract.TokenOperations`."""

    def create_token(self, name: str, role: str, *, expires_at: datetime | None = None) -> tuple[str, ApiToken]:
        checked = (check_label(name, "name"), check_label(role, "role"))
        moment = check_optional_moment(expires_at, "expires_at")
        plaintext, id = _new_secret(), str(uuid4())
        expires = None if moment is None else to_micros(moment)
        created = self._write(self._work.create_token, (id, self._home, _hash(plaintext), *checked, expires))
        return plaintext, _token(id, self._home, *checked, created, expires)

    def validate_token(self, token: str) -> ApiToken | None:
        if not isinstance(token, str):
            raise InvalidValueError(
                "token", "must be text", type(token)
            )  # its type: an error never shows what may be a secret
        if len(token) != _LENGTH or not token.startswith(_PREFIX) or not token.isascii():
            return None
        # Looked up by a hash that the caller cannot steer, so the time that it takes tells nothing about the secrets that there are.
        hashed = _hash(token)
        row, unnoted = self._read_anywhere(self._work.find_token, hashed)
        if row is None:
            return None
        noted = self._write(self._work.note_use, hashed) if unnoted else None
        return token_from(row if noted is None else (*row[:6], noted))

    def list_tokens(self) -> list[ApiToken]:
        return [token_from(row) for row in self._snapshot(self._work.list_tokens)]

    def revoke_token(self, token_id: str) -> None:
        id = _token_id(token_id)
        if not self._repeat(run, self._sql.revoke_token, (id, self._tenant, self._bound_now())):
            raise TokenNotFoundError(id)

    def rotate_token(self, token_id: str) -> tuple[str, ApiToken]:
        plaintext, new = _new_secret(), str(uuid4())
        old = _token_id(token_id)
        return plaintext, _token(new, *self._write(self._work.rotate_token, old, new, _hash(plaintext)))


def _token_id(value: object) -> str:
    """The id of a token. A secret in its place, whole or not, is neither sent nor shown; no id begins as one does.

    Raises:
        InvalidValueError: it is none.
    """
    if not isinstance(value, str):
        raise InvalidValueError("token_id", "must be text", type(value))
    if value.strip().startswith(_PREFIX):
        raise InvalidValueError("token_id", "must be the id of a token, not its secret", type(value))
    return check_label(value, "token_id")


def _new_secret() -> str:
    return _PREFIX + secrets.token_hex(32)


def _hash(plaintext: str) -> str:
    return hashlib.sha256(plaintext.encode()).hexdigest()


def _token(id: str, tenant: str, name: str, role: str, created: int, expires: int | None) -> ApiToken:
    """A token that was written just now."""
    return ApiToken(
        id=id,
        name=name,
        role=role,
        created_at=from_micros(created),
        expires_at=moment_from(expires),
        tenant_id=tenant,
    )
