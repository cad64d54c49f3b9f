"""What commands print: tables, sentences, JSON, the timeline page.

Never here: changes to the queue's state.
"""
