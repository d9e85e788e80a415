"""Generated messages and stubs of the Holdfast API, package `holdfast.v1`. Made by `make protos`; never edit them."""
