-- How many leases in a row have ended without anything being recorded in between: how an execution is known that ends whoever runs it.
ALTER TABLE workflow_executions ADD COLUMN takeovers INTEGER NOT NULL DEFAULT 0;
