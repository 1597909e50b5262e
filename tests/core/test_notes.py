"""Notes are searched for by their names, so a name is one constant, spelt as it is written in the log."""

from mesh.core import notes


def test_every_note_is_exported_and_is_its_own_name_in_lower_case() -> None:
    found = {name: value for name, value in vars(notes).items() if name.isupper()}
    assert sorted(found) == notes.__all__
    assert found == {name: name.lower() for name in found}
