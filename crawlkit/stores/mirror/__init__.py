"""The mirror of an embedded run, from which another machine goes on."""
