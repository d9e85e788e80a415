"""Migrations of the catalog, run by `Database.prepare`."""
