"""The Holdfast server: supervisor, gRPC edge, task engine and archive core."""
