"""Tenants."""

from __future__ import annotations

from wfe_fast.database.base import UniqueViolation
from wfe_fast.errors import DuplicateTenantError, TenantNotFoundError, TenantScopeError
from wfe_fast.state.checks import check_label
from wfe_fast.state.models import Tenant
from wfe_fast.state.operations import Operations, all_rows, one, run
from wfe_fast.state.rows import tenant_from, tenant_row


class TenantMethods(Operations):
    """See `contract.TenantOperations`."""

    def create_tenant(self, tenant: Tenant) -> None:
        self._refuse_in_scope()
        row = tenant_row(tenant)
        try:
            self._write(run, self._sql.create_tenant, row)
        except UniqueViolation as error:
            raise DuplicateTenantError(row[0]) from error

    def get_tenant(self, tenant_id: str) -> Tenant | None:
        wanted = check_label(tenant_id, "tenant_id")
        if self._tenant not in (None, wanted):
            return None
        row = self._read(one, self._sql.get_tenant, (wanted,))
        return None if row is None else tenant_from(row, self._store)

    def list_tenants(self) -> list[Tenant]:
        if self._tenant is not None:
            own = self.get_tenant(self._tenant)
            return [] if own is None else [own]
        return [tenant_from(row, self._store) for row in self._read(all_rows, self._sql.list_tenants)]

    def update_tenant(self, tenant: Tenant) -> None:
        self._refuse_in_scope()
        id, name, status, policy, limits, _, _ = tenant_row(tenant)
        if not self._write(run, self._sql.update_tenant, (id, name, status, policy, limits, self._bound_now())):
            raise TenantNotFoundError(id)

    def _refuse_in_scope(self) -> None:
        if self._tenant is not None:
            raise TenantScopeError(self._tenant)
