"""The scripts against a pure model of the promise, under random schedules."""
