"""The page of states, from the states and their legal moves."""

from __future__ import annotations

from docs.generate.markdown import code, codes, page, sentence, table
from docs.generate.source import field_docs
from gpuqueue.model.states import MOVES, JobState


def make() -> str:
    """Make the page."""
    docs = field_docs(JobState)
    return page(
        "States",
        "The queue keeps one of these states for each job.\n"
        "[The way of a job](../explanation/job.md) shows them in order, with what Celery and Flower"
        " show at the same time.",
        "![The states of a job and the moves between them](states.svg)",
        table(
            ("state", "meaning", "next"),
            [
                (
                    code(state),
                    sentence(docs[state.name]),
                    codes(each for each in JobState if each in MOVES[state]),
                )
                for state in JobState
            ],
        ),
    )
