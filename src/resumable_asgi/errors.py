"""The exceptions that a user of this package can meet."""

from __future__ import annotations


class ResumableError(Exception):
    """Base of every exception raised by this package."""


class ConfigurationError(ResumableError, ValueError):
    """A setting has a wrong value; the message names the field, the value and the remedy."""


class StoreUnavailableError(ResumableError):
    """Redis did not answer within `Settings.redis_timeout`, or refused."""
