"""Doubles for tests and benchmarks. Product code never imports anything from here."""
