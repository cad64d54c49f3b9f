"""Results, states and events, written by Celery's own backend and event code.

Never here: decisions about who may write. The caller has claimed the finish before it calls this
package.
"""
