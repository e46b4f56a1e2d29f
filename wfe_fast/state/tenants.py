"""Tenants, and what they are allowed."""

from __future__ import annotations

from wfe_fast.database.base import Session, UniqueViolation
from wfe_fast.errors import (
    DuplicateTenantError,
    TenantLimitError,
    TenantNotFoundError,
    TenantScopeError,
    TenantSuspendedError,
)
from wfe_fast.state.checks import check_label
from wfe_fast.state.models import Tenant, TenantLimits, TenantStatus
from wfe_fast.state.operations import Operations, all_rows, month_of, one, run
from wfe_fast.state.rows import limits_from, tenant_from, tenant_row


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
        if not self._write(run, self._sql.update_tenant, (id, name, status, policy, limits, self._now())):
            raise TenantNotFoundError(id)

    def _refuse_in_scope(self) -> None:
        if self._tenant is not None:
            raise TenantScopeError(self._tenant)

    # -- the gate that new work passes, in the transaction that stores it -----------------------------------------------------------

    def _admit(self, session: Session, tenant_id: str, now: int) -> TenantLimits | None:
        """Let the tenant have new work, and return its limits.

        Raises:
            TenantNotFoundError: there is no such tenant.
            TenantSuspendedError: it is not active.
            TenantLimitError: it has used up its tokens or its money for this month.
        """
        row = session.one(self._sql.tenant_gate, (tenant_id,))
        if row is None:
            raise TenantNotFoundError(tenant_id)
        if row[0] != TenantStatus.ACTIVE.value:
            raise TenantSuspendedError(tenant_id, row[0])
        if row[1] is None:
            return None
        limits = limits_from(row[1], self._store)
        tokens, cost = limits.max_tokens_per_month, limits.max_cost_per_month_usd
        if tokens is not None or cost is not None:
            used = session.one(self._sql.usage_of, (tenant_id, month_of(now))) or (0, 0.0)
            if tokens is not None and used[0] >= tokens:
                raise TenantLimitError(tenant_id, "max_tokens_per_month", tokens)
            if cost is not None and used[1] >= cost:
                raise TenantLimitError(tenant_id, "max_cost_per_month_usd", cost)
        return limits

    def _admit_execution(self, session: Session, tenant_id: str, now: int) -> None:
        """`_admit` for one more execution."""
        limits = self._admit(session, tenant_id, now)
        most = None if limits is None else limits.max_concurrent_executions
        if most is not None:
            row = session.one(self._sql.count_active, (tenant_id, most))
            if row is None or row[0] >= most:
                raise TenantLimitError(tenant_id, "max_concurrent_executions", most)

    def _admit_workflow(self, session: Session, tenant_id: str, workflow_id: str, now: int) -> None:
        """`_admit` for a definition, which counts where it is the first of its id."""
        limits = self._admit(session, tenant_id, now)
        most = None if limits is None else limits.max_workflows
        if most is not None:
            row = session.one(self._sql.count_other_workflows, (tenant_id, workflow_id))
            count, known = row or (0, 0)
            if not known and count >= most:
                raise TenantLimitError(tenant_id, "max_workflows", most)
