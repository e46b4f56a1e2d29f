"""What all tests share."""

from __future__ import annotations

from hypothesis import HealthCheck, settings

pytest_plugins = ["wfe_fast.testing.plugin"]

# Examples are found again by the seed that a failure prints; no folder of them is kept in the checkout.
settings.register_profile("tests", deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("tests")
