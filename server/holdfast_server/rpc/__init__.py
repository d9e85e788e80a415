"""The gRPC edge: servicers that parse, call and convert; one table from errors to status codes."""
