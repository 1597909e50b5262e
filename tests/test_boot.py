"""The clock of this boot."""

from mesh.boot import boot_id, since_boot


def test_a_boot_has_one_name_and_its_clock_goes_forward() -> None:
    assert boot_id() == boot_id() != ""
    assert 0 < since_boot() <= since_boot()
