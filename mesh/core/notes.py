"""The names of what a node tells people: one constant for each, for logs to be searched by and tests to expect."""

__all__ = [
    "APP_ATTACHED",
    "APP_DETACHED",
    "APP_MALFORMED",
    "APP_REFUSED",
    "APP_SESSION_ENDED",
    "CAST_FAILED",
    "DIAL_FAILED",
    "DRAINED",
    "DRAINING",
    "DRAIN_ENDED",
    "DUPLICATE_NODE",
    "FOREIGN_RECORD",
    "INBOUND_EVICTED",
    "LAGGED",
    "LINK_CLOSED",
    "LINK_LOST",
    "LINK_MALFORMED",
    "LINK_OPENED",
    "LINK_REFUSED",
    "NAMESAKE_SILENT",
    "POISONED",
    "POLICY_REFUSED",
    "PROBED",
    "SERVICE_ENDED",
    "SERVICE_HEALTH",
    "SERVICE_REVOKED",
    "SERVICE_STARTED",
    "SPOOL_AWAY",
    "SPOOL_BACK",
    "SPOOL_OPENED",
    "SPOOL_REFUSES",
    "SPOOL_SET_ASIDE",
    "TOPIC_COLD",
    "TOPIC_DOUBTED",
    "TOPIC_HOT",
    "VIEW_MALFORMED",
]

APP_ATTACHED = "app_attached"
APP_DETACHED = "app_detached"
APP_MALFORMED = "app_malformed"
APP_REFUSED = "app_refused"
APP_SESSION_ENDED = "app_session_ended"
CAST_FAILED = "cast_failed"
DIAL_FAILED = "dial_failed"
DRAINED = "drained"
DRAINING = "draining"
DRAIN_ENDED = "drain_ended"
DUPLICATE_NODE = "duplicate_node"
FOREIGN_RECORD = "foreign_record"
INBOUND_EVICTED = "inbound_evicted"
LAGGED = "lagged"
LINK_CLOSED = "link_closed"
LINK_LOST = "link_lost"
LINK_MALFORMED = "link_malformed"
LINK_OPENED = "link_opened"
LINK_REFUSED = "link_refused"
NAMESAKE_SILENT = "namesake_silent"
POISONED = "poisoned"
POLICY_REFUSED = "policy_refused"
PROBED = "probed"
SERVICE_ENDED = "service_ended"
SERVICE_HEALTH = "service_health"
SERVICE_REVOKED = "service_revoked"
SERVICE_STARTED = "service_started"
SPOOL_AWAY = "spool_away"
SPOOL_BACK = "spool_back"
SPOOL_OPENED = "spool_opened"
SPOOL_REFUSES = "spool_refuses"
SPOOL_SET_ASIDE = "spool_set_aside"
TOPIC_COLD = "topic_cold"
TOPIC_DOUBTED = "topic_doubted"
TOPIC_HOT = "topic_hot"
VIEW_MALFORMED = "view_malformed"
