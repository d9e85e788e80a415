"""The task engine: durable, cancellable, observable operations with attempts, leases, locks and events."""
