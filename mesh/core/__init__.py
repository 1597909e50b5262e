"""Everything an agent decides, as pure functions of values and of the time that is passed in."""
