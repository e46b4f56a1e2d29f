"""The conformance suite of contract C. Override the fixture `store`, which yields a `base.StateUnderTest`; `suite` holds all of it."""
