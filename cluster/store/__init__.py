"""The run store: keys, records and leases."""
