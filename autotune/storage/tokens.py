"""`Tokens`: who may ask a server for what."""

import hashlib
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from sqlalchemy import delete, select
from sqlalchemy.exc import IntegrityError

from autotune.errors import NameInUse
from autotune.storage.events import Transaction
from autotune.storage.tables import TokenRow

TOKEN_BYTES = 32


class Role(StrEnum):
    """What a token allows; each allows what those before it do."""

    READ = "read"
    SUBMIT = "submit"
    ADMIN = "admin"

    def allows(self, needed: "Role") -> bool:
        order = list(Role)
        return order.index(self) >= order.index(needed)


@dataclass(frozen=True)
class TokenRecord:
    name: str
    role: Role
    created_at: datetime


class Tokens:
    """Part of a Repository, whose transactions it uses; each method is one."""

    def __init__(self, transaction: Transaction, clock: Callable[[], datetime]) -> None:
        self._transaction = transaction
        self._clock = clock

    def create(self, name: str, role: Role) -> str:
        """Return a new token, which is not kept: only its digest is. Raises NameInUse."""
        token = secrets.token_urlsafe(TOKEN_BYTES)
        row = TokenRow(name=name, digest=digest(token), role=role, created_at=self._clock())
        with self._transaction() as session:
            session.add(row)
            try:
                session.flush()
            except IntegrityError as error:
                raise NameInUse(
                    f"there is a token named {name!r} already; revoke that one first, or choose another name"
                ) from error
        return token

    def find(self, token: str) -> TokenRecord | None:
        """Return whose token it is; None for one that is not, or no more, good."""
        with self._transaction() as session:
            row = session.scalar(select(TokenRow).where(TokenRow.digest == digest(token)))
            return None if row is None else _record(row)

    def all(self) -> list[TokenRecord]:
        with self._transaction() as session:
            return [_record(row) for row in session.scalars(select(TokenRow).order_by(TokenRow.id))]

    def revoke(self, name: str) -> bool:
        """Return whether there was one of that name."""
        with self._transaction() as session:
            found = session.scalars(delete(TokenRow).where(TokenRow.name == name).returning(TokenRow.id))
            return found.first() is not None


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def _record(row: TokenRow) -> TokenRecord:
    return TokenRecord(row.name, Role(row.role), row.created_at)
