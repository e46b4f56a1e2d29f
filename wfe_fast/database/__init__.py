"""The database layer: connections, transactions, statements and migrations. It knows nothing of workflows."""
