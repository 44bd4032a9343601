"""Loggers of the server: what they write holds no secrets of URLs, tracebacks included."""

import logging

from raydiar.naming import printable, without_secrets


class _Public(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = without_secrets(printable(record.getMessage())), ()
        if record.exc_info and record.exc_info[0] is not None:
            # a formatter takes the text where there is one; causes of ours hold what clients said
            text = logging.Formatter().formatException(record.exc_info)
            record.exc_text, record.exc_info = without_secrets(text), None
        return True


def get_logger(name: str) -> logging.Logger:
    """A logger whose records are fit for everybody."""
    logger = logging.getLogger(name)
    if not any(isinstance(one, _Public) for one in logger.filters):
        logger.addFilter(_Public())
    return logger
