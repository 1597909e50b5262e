"""What is kept while somebody looks at the fleet is forgotten when nobody does."""

from mesh.core.views import Heard, Views
from tests.core.builders import agent, copied


def test_nothing_is_kept_when_nobody_looks_any_more() -> None:
    views = Views(1.0, 1.0, 1.0, 3, {"b": 3}, {"b": Heard(b"{}", 1.0)}, {"b": agent("b")}, 7)
    assert views == copied(views)
    views.forget()
    assert Views(asked_at=1.0, question=3) == views
