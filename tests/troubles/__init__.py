"""Troubles that users of such programs have reported: one file for each kind."""
