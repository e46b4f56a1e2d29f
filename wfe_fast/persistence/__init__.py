"""Contract A: workflows, execution pointers, events, subscriptions, scheduled commands and errors."""
