"""The conformance suite of contract A. `suite.PersistenceSuite` is all of it; each file beside it holds the suites of one concern."""
