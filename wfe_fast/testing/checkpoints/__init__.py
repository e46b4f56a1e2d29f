"""Contract B: its conformance suites. See `suite.CheckpointSuite`, whose fixture `stores` yields a `base.StoresUnderTest`."""
